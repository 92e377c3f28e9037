"""What a pack costs, measured on a few epochs of it."""

from __future__ import annotations

import resource
import tempfile
import time
from dataclasses import dataclass, replace
from pathlib import Path

import torch

from trainables.packs.pack import Pack, PackContext
from trainables.packs.trainable import on_device, pack_training
from trainables.records.parquet import write_records
from trainables.records.types import CONTRASTIVE, TrialRecord
from trainables.training.protocol import LaneFailure

_LONG_S, _N_EVALUATIONS = 3.0, 3

"""How long the longer trainings shall take, if there are so many epochs; evaluations that are timed."""


@dataclass(frozen=True)
class PackCost:
    """What a pack costs on one device.

    Attributes:
        pack: The pack.
        shortest_s: The shortest training there is: one epoch of each kind, and the figures at the end.
        epoch_s: A further epoch of all lanes.
        pretraining_epoch_s: A further epoch of pretraining of all lanes; 0 where there is none.
        evaluation_s: A further evaluation of all lanes.
        record_bytes: The record file.
        process_bytes: Largest memory of the process, embeddings included.
        gpu_bytes: Largest memory on the GPU, embeddings included; 0 without one.
        device: Name of the device.
    """

    pack: Pack
    shortest_s: float
    epoch_s: float
    pretraining_epoch_s: float
    evaluation_s: float
    record_bytes: int
    process_bytes: int
    gpu_bytes: int
    device: str


def measure_pack(context: PackContext, pack: Pack) -> PackCost:
    """Trains a pack for a few epochs, some of them more than others, and takes the differences; nothing of it is kept.

    Args:
        context: What the packs of the study share.
        pack: The pack.
    """
    embeddings, labels, hardware = on_device(context)
    settings = context.settings
    records: list[TrialRecord] = []

    def seconds(epochs: int, *, pretraining: int = 1, every: int = 10**9) -> float:
        short = replace(
            settings,
            epochs=epochs,
            evaluate_every_epochs=every,
            pretraining=replace(settings.pretraining, epochs=pretraining),
        )
        began_s = time.perf_counter()
        training = pack_training(replace(context, settings=short), pack, embeddings, labels)
        while not training.finished:
            training.advance()
        results = training.results()
        took_s = time.perf_counter() - began_s
        records[:] = [
            TrialRecord(trial, result.metrics, result.curves, result.items, 0, result.device_s, context.provenance)
            for trial, result in zip(pack.trials, results, strict=True)
            if result is not None and not isinstance(result, LaneFailure)
        ]
        return took_s

    seconds(1)  # a first one loads and allocates
    shortest_s = seconds(1)
    n_more = max(1, min(settings.epochs - 1, int(_LONG_S / shortest_s)))
    epoch_s = max((seconds(1 + n_more) - shortest_s) / n_more, 0.0)
    evaluated_s = seconds(1 + _N_EVALUATIONS, every=1)
    pretraining_epoch_s = 0.0
    if pack.candidate.objective == CONTRASTIVE:
        n_more = max(1, min(settings.pretraining.epochs - 1, n_more))
        pretraining_epoch_s = max((seconds(1, pretraining=1 + n_more) - shortest_s) / n_more, 0.0)
    n_bytes = 0
    if records:
        with tempfile.TemporaryDirectory() as folder:
            n_bytes = write_records(Path(folder), records).stat().st_size
    return PackCost(
        pack=pack,
        shortest_s=shortest_s,
        epoch_s=epoch_s,
        pretraining_epoch_s=pretraining_epoch_s,
        evaluation_s=max((evaluated_s - shortest_s) / _N_EVALUATIONS - epoch_s, 0.0),
        record_bytes=n_bytes,
        process_bytes=resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024,
        gpu_bytes=torch.cuda.max_memory_allocated() if embeddings.is_cuda else 0,
        device=hardware,
    )
