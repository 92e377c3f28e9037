"""Measure the time and memory of a pack on a few of its epochs."""

from __future__ import annotations

import resource
import tempfile
import time
from dataclasses import dataclass, replace
from pathlib import Path

import torch

from trainables.packs.pack import PackContext
from trainables.packs.trainable import on_device, pack_training
from trainables.records.parquet import write_records
from trainables.records.types import CONTRASTIVE, Pack, TrialRecord
from trainables.training.protocol import LaneFailure

# Target duration of a longer training, and further evaluations of one.
_LONG_S, _N_EVALUATIONS = 1.5, 3

# Each training is repeated at most so often, and not again once its repeats have taken so long.
_N_REPEATS, _REPEATS_S = 3, 4.5

# Least time of all further epochs or evaluations of a longer training, as a fraction of the shorter training.
_LEAST_FRACTION = 1e-3


@dataclass(frozen=True)
class PackCost:
    """What a pack costs on one device. Times are of all lanes together, and above 0.

    Attributes:
        shortest_s: The shortest training: one epoch of each kind, one evaluation, and the final figures.
        epoch_s: A further epoch.
        pretraining_epoch_s: A further epoch of pretraining; 0 for a method without pretraining.
        evaluation_s: A further evaluation.
        record_bytes: Size of the record file.
        process_bytes: Peak memory of the process, embeddings included.
        gpu_bytes: Peak memory on the GPU, embeddings included; 0 without a GPU.
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
    """Train a pack for a few epochs, and derive the time of each part from longer and shorter trainings.

    Nothing of it is kept. Each time is the smallest of several repeats, since other work on the machine only ever
    adds to it.
    """
    embeddings, labels, hardware = on_device(context)
    settings = context.settings
    records: list[TrialRecord] = []

    def train_once(epochs: int, pretraining: int, every: int) -> float:
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
            result.record(trial, 0, context.provenance)
            for trial, result in zip(pack.trials, results, strict=True)
            if result is not None and not isinstance(result, LaneFailure)
        ]
        return took_s

    def seconds(epochs: int, *, pretraining: int = 1, every: int = 10**9) -> float:
        repeats_s: list[float] = []
        while len(repeats_s) < _N_REPEATS and sum(repeats_s) < _REPEATS_S:
            repeats_s.append(train_once(epochs, pretraining, every))
        return min(repeats_s)

    train_once(1, 1, 10**9)  # the first training also loads libraries and allocates memory
    shortest_s = seconds(1)
    n_more = max(1, min(settings.epochs - 1, int(_LONG_S / shortest_s)))
    epoch_s = _further_s(shortest_s, seconds(1 + n_more), n_more)
    without_evaluations_s = shortest_s + _N_EVALUATIONS * epoch_s
    evaluation_s = _further_s(without_evaluations_s, seconds(1 + _N_EVALUATIONS, every=1), _N_EVALUATIONS)
    pretraining_epoch_s = 0.0
    if pack.candidate.objective == CONTRASTIVE:
        n_more = max(1, min(settings.pretraining.epochs - 1, n_more))
        pretraining_epoch_s = _further_s(shortest_s, seconds(1, pretraining=1 + n_more), n_more)
    n_bytes = 0
    if records:
        with tempfile.TemporaryDirectory() as folder:
            n_bytes = write_records(Path(folder), records).stat().st_size
    return PackCost(
        pack=pack,
        shortest_s=shortest_s,
        epoch_s=epoch_s,
        pretraining_epoch_s=pretraining_epoch_s,
        evaluation_s=evaluation_s,
        record_bytes=n_bytes,
        process_bytes=resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024,
        gpu_bytes=torch.cuda.max_memory_allocated() if embeddings.is_cuda else 0,
        device=hardware,
    )


def _further_s(short_s: float, long_s: float, n_more: int) -> float:
    """Return the seconds of one further part, where the longer training has `n_more` of them.

    Noise can make the longer training the faster one, so the difference has a positive lower bound.
    """
    return max(long_s - short_s, _LEAST_FRACTION * short_s) / n_more
