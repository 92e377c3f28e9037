"""The Ray Tune trainable: one Tune trial trains one pack and writes its record file."""

from __future__ import annotations

import math
import platform
import time
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from ray import tune
from torch import Tensor

from trainables.methods.registry import get_method, method_code
from trainables.packs.pack import PackContext
from trainables.records.failures import EVALUATED
from trainables.records.parquet import write_records
from trainables.records.types import NOT_CALIBRATED, SEARCH, Calibration, Pack, SplitId, TrialRecord
from trainables.sampling.splits import split_of
from trainables.training.protocol import InputScores, LaneFailure, LaneTraining, PackInputs, TrainingError, too_short
from trainables.training.settings import Lane
from trainables.training.start import start_training

# What the inner splits of each split of a pack have chosen, in its order; empty without inner splits.
Calibrations = Sequence[Calibration]


class PackTrainable(tune.Trainable):  # type: ignore[misc]
    """Trains a pack: each step ends with an evaluation, and the last one writes the records.

    An actor keeps the embeddings on its device from pack to pack (`reuse_actors=True`).
    """

    def setup(self, config: dict[str, Any], context: PackContext) -> None:
        """Prepare the study's context and start the first pack."""
        self._embeddings, self._labels, hardware = on_device(context)
        self._context = context
        self._input_scores: InputScores = {}
        self._provenance = {**context.provenance, "hardware": hardware}
        self._method_code = cache(method_code)  # of what is loaded: its file may be edited while packs train
        self._start(config)

    def reset_config(self, new_config: dict[str, Any]) -> bool:
        """Start the next pack in the same actor."""
        self._start(new_config)
        return True

    def step(self) -> dict[str, Any]:
        """Train to the next evaluation; after the last one, write the record file.

        Returns:
            `epoch` and the lanes' mean of each of `EVALUATED`, NaN once a lane has left. At the end also `done`,
            `failures` (each failed split, with the reason), and `record` (the file's path, "" if every lane failed)
            or `unwritable` (why there is no file).
        """
        if self._training is None:
            nothing = dict.fromkeys(EVALUATED, math.nan)
            return {"epoch": 0, **nothing, "done": True, "record": "", "failures": list(self._too_short.items())}
        evaluation = self._training.advance()
        means = {name: float(np.mean(getattr(evaluation, name))) for name in EVALUATED}
        report: dict[str, Any] = {"epoch": evaluation.epoch, **means}
        if self._training.finished:
            records, failures = self._results()
            report |= {"done": True, "failures": list(failures.items())}
            try:
                report["record"] = str(write_records(Path(self._context.records), records)) if records else ""
            except OSError as error:  # another attempt would fail in the same way
                report["unwritable"] = str(error)
        return report

    def _start(self, config: Mapping[str, Any]) -> None:
        pack: Pack = config["pack"]
        # A split with too few items must not fail the other splits, which could also be in other packs.
        lanes = dict(zip(pack.splits, _lanes(self._context, pack, config["calibrations"]), strict=True))
        problems = {split: too_short(lane, self._context.settings) for split, lane in lanes.items()}
        self._too_short = {split: problem for split, problem in problems.items() if problem}
        lanes = {split: lane for split, lane in lanes.items() if split not in self._too_short}
        self._pack = replace(pack, splits=tuple(lanes))
        self._method = {"method": pack.candidate.method, "method_code": self._method_code(pack.candidate.method)}
        self._started_at_s = time.time()
        inputs = list(lanes.values()), self._embeddings, self._labels, self._input_scores
        self._training = _training(self._context, pack.phase, *inputs) if lanes else None

    def _results(self) -> tuple[list[TrialRecord], dict[SplitId, str]]:
        """Return the records of the lanes that gave a result, and why the others did not, by split."""
        assert self._training is not None
        records, failures = [], dict(self._too_short)
        for trial, result in zip(self._pack.trials, self._training.results(), strict=True):
            if isinstance(result, LaneFailure):
                failures[trial.split] = result.reason
            elif result is not None and not math.isfinite(result.metrics[self._context.objective]):
                failures[trial.split] = (
                    f"{self._context.objective} is not defined on the split, which has no item to measure it on; "
                    "compare by another `objective.metric`, or split otherwise"
                )
            elif result is not None:
                records.append(result.record(trial, self._started_at_s, self._provenance | self._method))
        return records, failures


def on_device(context: PackContext) -> tuple[Tensor, Tensor, str]:
    """Prepare this process for packs.

    Returns:
        Embeddings and labels on the device to train on, and the name of the device.
    """
    torch.set_num_threads(context.n_threads)
    # Once a lane has learnt its items, gradients and moments fall below the smallest normal number, where a CPU is
    # slow: 72 epochs of `control` without dropout took 53.6 s instead of 37.0 s.
    torch.set_flush_denormal(True)
    device = training_device(on_gpu=context.on_gpu)
    with warnings.catch_warnings():
        # The object store's memory is read-only, which torch warns of. Nothing here writes to it.
        warnings.filterwarnings("ignore", message="The given NumPy array is not writable")
        arrays = torch.from_numpy(context.embeddings), torch.from_numpy(context.labels)
    embeddings, labels = (array.to(device) for array in arrays)
    return embeddings, labels, torch.cuda.get_device_name() if context.on_gpu else _cpu(context.n_threads)


def _cpu(n_threads: int) -> str:
    """Return the kind of CPU, its vector instructions and the number of threads: they determine how numbers round."""
    details: dict[str, str] = {}
    cpuinfo = Path("/proc/cpuinfo")
    for line in cpuinfo.read_text().splitlines() if cpuinfo.exists() else ():
        name, _, value = line.partition(":")
        details.setdefault(name.strip(), value.strip())
    kind = " ".join(details[name] for name in ("model name", "cpu family", "model", "stepping") if name in details)
    instructions = torch.backends.cpu.get_cpu_capability()
    return f"cpu {kind or platform.machine()}, {instructions}, {n_threads} threads"


def training_device(*, on_gpu: bool) -> torch.device:
    """Return the device to train on.

    Raises:
        TrainingError: A GPU is asked for, and torch finds none.
    """
    if on_gpu and not torch.cuda.is_available():
        raise TrainingError(
            "`resources.gpus_per_pack` must be 0 where torch finds no GPU. Install a build of torch for this machine's "
            "GPU, or set it to 0 to train on the CPU."
        )
    return torch.device("cuda" if on_gpu else "cpu")


def pack_training(
    context: PackContext, pack: Pack, embeddings: Tensor, labels: Tensor, calibrations: Calibrations = ()
) -> LaneTraining:
    """Return a pack of a study in training; each trial is a lane, on the tensors of `on_device`."""
    return _training(context, pack.phase, _lanes(context, pack, calibrations), embeddings, labels, {})


def _training(
    context: PackContext,
    phase: str,
    lanes: Sequence[Lane],
    embeddings: Tensor,
    labels: Tensor,
    input_scores: InputScores,
) -> LaneTraining:
    # They depend on the phase alone: a lane that unknown classes leave fewer items takes its items more often.
    steps = context.settings.steps_per_epoch(context.rules.n_trained(context.items, phase))
    searches = phase == SEARCH
    layers = None if searches else input_scores  # a search compares candidates, not scores
    return start_training(PackInputs(embeddings, labels, lanes, context.settings, steps, searches, layers))


def _lanes(context: PackContext, pack: Pack, calibrations: Calibrations) -> list[Lane]:
    method, params = get_method(pack.candidate.method), dict(pack.candidate.params)
    return [
        Lane(
            method,
            params,
            split.stream_seed,
            split_of(context.items, context.rules, split),
            calibration,
        )
        for split, calibration in zip(pack.splits, calibrations or [NOT_CALIBRATED] * len(pack.splits), strict=True)
    ]
