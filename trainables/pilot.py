"""What a pack costs, measured on a few epochs of it."""

from __future__ import annotations

import resource
import tempfile
import time
from dataclasses import dataclass, replace
from pathlib import Path

import torch

from trainables.engine import LaneFailure
from trainables.pack import Pack, PackContext, pack_training
from trainables.records import TrialRecord, write_records

_LONG_S = 3.0
"""How long the longer of the two trainings shall take, if its epochs suffice."""


@dataclass(frozen=True)
class PackCost:
    """What a pack costs on one device.

    Attributes:
        pack: The pack.
        n_train: Training items of a lane.
        n_validation: Validation items of a lane.
        epoch_s: An epoch of all lanes.
        evaluation_s: An evaluation of all lanes.
        ending_s: The figures and curves of all lanes at the end.
        record_bytes: The record file.
        process_bytes: Largest memory of the process, embeddings included.
        gpu_bytes: Largest memory on the GPU, embeddings included; 0 without one.
        device: Name of the device.
    """

    pack: Pack
    n_train: int
    n_validation: int
    epoch_s: float
    evaluation_s: float
    ending_s: float
    record_bytes: int
    process_bytes: int
    gpu_bytes: int
    device: str


def measure_pack(context: PackContext, pack: Pack) -> PackCost:
    """Trains a pack for a few epochs; nothing of it is kept.

    Two trainings, one evaluated after every epoch and one at its end only, tell the parts apart.

    Args:
        context: What the packs of the study share.
        pack: The pack.
    """
    torch.set_num_threads(context.n_threads)
    on_gpu = torch.cuda.is_available()
    embeddings, labels = torch.from_numpy(context.embeddings), torch.from_numpy(context.labels)
    if on_gpu:
        embeddings, labels = embeddings.cuda(), labels.cuda()

    def train(epochs: int, every: int) -> tuple[list[float], list[TrialRecord], int]:
        settings = replace(context.settings, epochs=epochs, evaluate_every_epochs=every)
        training = pack_training(replace(context, settings=settings), pack, embeddings, labels)
        n_train = min(len(lane.split.train) for stack in training.stacks for lane in stack.lanes)
        times = []
        while not training.finished:
            began_s = time.perf_counter()
            training.advance()
            times.append(time.perf_counter() - began_s)
        results = zip(pack.trials, training.results(), strict=True)
        records = [
            TrialRecord(trial, result.metrics, result.curves, result.items, 0, result.device_s, context.provenance)
            for trial, result in results
            if result is not None and not isinstance(result, LaneFailure)
        ]
        return times, records, n_train

    (_, middle_s, *rest), _, _ = train(3, 1)
    last_s = rest[0] if rest else middle_s
    n_epochs = max(3, min(context.settings.epochs, int(_LONG_S / max(middle_s, 1e-9))))
    times, records, n_train = train(n_epochs, n_epochs)
    # long = n epochs + evaluation + ending; last = 1 epoch + evaluation + ending; middle = 1 epoch + evaluation
    epoch_s = max((sum(times) - last_s) / (n_epochs - 1), 0.0)
    n_bytes = 0
    if records:
        with tempfile.TemporaryDirectory() as folder:
            n_bytes = write_records(Path(folder), records).stat().st_size
    return PackCost(
        pack=pack,
        n_train=n_train,
        n_validation=len(records[0].items.item) if records and records[0].items else 0,
        epoch_s=epoch_s,
        evaluation_s=max(middle_s - epoch_s, 0.0),
        ending_s=max(last_s - middle_s, 0.0),
        record_bytes=n_bytes,
        process_bytes=resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024,
        gpu_bytes=torch.cuda.max_memory_allocated() if on_gpu else 0,
        device=torch.cuda.get_device_name() if on_gpu else f"CPU, {context.n_threads} threads",
    )
