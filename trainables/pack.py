"""The Ray Tune trainable: one Tune trial trains one pack and leaves its record file."""

from __future__ import annotations

import math
import time
import warnings
from collections.abc import Generator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from ray import tune

from trainables.engine import Evaluation, Lane, LaneResult, Settings, train
from trainables.methods import get_method
from trainables.records import Candidate, TrialConfig, TrialRecord, write_records
from trainables.splits import make_split


@dataclass(frozen=True)
class Pack:
    """The trials that one Tune trial trains together: splits of one candidate.

    Attributes:
        phase: Phase of every trial.
        candidate: Candidate of every trial.
        splits: Their split seeds.
    """

    phase: str
    candidate: Candidate
    splits: tuple[int, ...]

    @property
    def trials(self) -> list[TrialConfig]:
        """The coordinates of the pack's trials."""
        return [TrialConfig(self.phase, self.candidate, split) for split in self.splits]


@dataclass(frozen=True)
class PackContext:
    """What all packs of a study share; put into the object store once.

    Attributes:
        embeddings: float32 (items, features).
        labels: int64 (items,), index of each item's label among the sorted label names.
        train_fraction: Share of the items that a split trains on.
        settings: How every lane is trained.
        records: Folder of the study's records, on storage that every node sees.
        n_threads: CPU threads of a pack.
        provenance: What is written into every record.
    """

    embeddings: npt.NDArray[np.float32]
    labels: npt.NDArray[np.int64]
    train_fraction: float
    settings: Settings
    records: str
    n_threads: int
    provenance: Mapping[str, str]


class PackTrainable(tune.Trainable):  # type: ignore[misc]
    """Trains a pack: a step is one evaluation, the last one writes the records.

    An actor keeps the embeddings on its device from pack to pack (`reuse_actors=True`).
    """

    def setup(self, config: dict[str, Any], context: PackContext) -> None:
        """Takes the study's context and starts the first pack."""
        torch.set_num_threads(context.n_threads)
        device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        with warnings.catch_warnings():
            # The object store hands out read-only memory. Nothing here writes to it, and torch warns of just that.
            warnings.filterwarnings("ignore", message="The given NumPy array is not writable")
            self._embeddings = torch.from_numpy(context.embeddings).to(device)
            self._labels = torch.from_numpy(context.labels).to(device)
        hardware = torch.cuda.get_device_name() if device.type == "cuda" else f"cpu, {context.n_threads} threads"
        self._context = context
        self._provenance = {**context.provenance, "torch": torch.__version__, "hardware": hardware}
        self._start(config)

    def reset_config(self, new_config: dict[str, Any]) -> bool:
        """Starts the next pack in the same actor."""
        self._start(new_config)
        return True

    def step(self) -> dict[str, Any]:
        """Trains to the next evaluation; after the last, writes the record file and is done.

        Returns:
            `epoch` and the evaluation's mean accuracy; at the end `record`, the file's path.
        """
        try:
            evaluation = next(self._training)
        except StopIteration as end:
            path = write_records(Path(self._context.records), self._records(end.value))
            return {"done": True, "record": str(path)}
        return {"epoch": evaluation.epoch, "accuracy": float(np.mean(evaluation.accuracy)), "record": ""}

    def _start(self, config: Mapping[str, Any]) -> None:
        self._pack: Pack = config["pack"]
        self._started_at_s = time.time()
        self._clock_s = time.perf_counter()
        self._training = self._train()

    def _train(self) -> Generator[Evaluation, None, list[LaneResult]]:
        context, pack = self._context, self._pack
        lanes = [
            Lane(
                dict(pack.candidate.params),
                split,
                make_split(len(self._labels), context.train_fraction, pack.phase, split),
            )
            for split in pack.splits
        ]
        method = get_method(pack.candidate.method)
        return train(self._embeddings, self._labels, method, lanes, context.settings)

    def _records(self, results: list[LaneResult]) -> list[TrialRecord]:
        duration_s = (time.perf_counter() - self._clock_s) / len(results)
        for trial, result in zip(self._pack.trials, results, strict=True):
            if not math.isfinite(result.metrics["auc_weighted"]):
                raise ValueError(f"{trial} has no finite auc_weighted: {result.metrics['auc_weighted']}.")
        return [
            TrialRecord(
                config=trial,
                metrics=result.metrics,
                curves=result.curves,
                items=result.items,
                started_at_s=self._started_at_s,
                duration_s=duration_s,
                provenance=self._provenance,
            )
            for trial, result in zip(self._pack.trials, results, strict=True)
        ]
