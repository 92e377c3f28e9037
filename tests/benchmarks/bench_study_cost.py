"""What a study costs at the paper's scale: a pack measured on one device, and the arithmetic from there.

    python tests/benchmarks/bench_study_cost.py                          # measures a few epochs here, then the table
    python tests/benchmarks/bench_study_cost.py --seconds-per-pack 40    # of a device that was measured elsewhere

A pack is one candidate on 10 splits: 44,446 items, of which 4,444 train, 4,864 inputs, 171 classes, 576 epochs,
24 evaluations. Epochs and evaluations are timed apart, in packs of few of them, and multiplied; nothing else is
extrapolated. Driver and tracker are what bench_study_packs.py and bench_study_tracking.py measured.
"""

import argparse
import math
import tempfile
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from rich.console import Console
from rich.table import Table

from trainables.engine import Settings
from trainables.pack import Pack, PackContext, pack_training
from trainables.records import Candidate, TrialRecord, write_records

N_ITEMS, N_FEATURES, N_CLASSES, N_SPLITS = 44_446, 4_864, 171, 10
PAPER = Settings(epochs=576, evaluate_every_epochs=24)


def context(folder: str, n_threads: int) -> PackContext:
    rng = np.random.default_rng(0)
    share = 1 / np.arange(1, N_CLASSES + 1)
    labels = np.concatenate([np.arange(N_CLASSES), rng.choice(N_CLASSES, N_ITEMS - N_CLASSES, p=share / share.sum())])
    x = rng.standard_normal((N_ITEMS, N_FEATURES), dtype=np.float32)
    x += rng.standard_normal((N_CLASSES, N_FEATURES), dtype=np.float32)[labels] / 3
    return PackContext(x, labels, 0.1, PAPER, folder, np.array([], np.int64), 0, n_threads, {})


def pack_s(shared: PackContext, device: torch.device, epochs: int, every: int) -> tuple[float, int]:
    """Seconds of a pack of so many epochs, and bytes of a record of it."""
    settings = replace(PAPER, epochs=epochs, evaluate_every_epochs=every)
    x, labels = torch.from_numpy(shared.embeddings).to(device), torch.from_numpy(shared.labels).to(device)
    pack = Pack("paper", Candidate.of("soft_e_stitchup", {"alpha": 0.3, "softness": 0.05}), tuple(range(N_SPLITS)))
    started = time.perf_counter()
    training = pack_training(replace(shared, settings=settings), pack, x, labels)
    while not training.finished:
        training.advance()
    records = [
        TrialRecord(trial, result.metrics, result.curves, result.items, 0.0, 1.0, {})
        for trial, result in zip(pack.trials, training.results(), strict=True)
    ]
    path = write_records(Path(shared.records), records)
    seconds = time.perf_counter() - started
    n_bytes = path.stat().st_size // N_SPLITS
    path.unlink()
    return seconds, n_bytes


def measured(n_threads: int, repeats: int) -> tuple[float, int]:
    """Seconds a pack of the paper's length would take, from three short ones, and bytes of a record."""
    torch.set_num_threads(n_threads)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    with tempfile.TemporaryDirectory() as folder:
        shared = context(folder, n_threads)
        pack_s(shared, device, 1, 1)  # warm
        short = min(pack_s(shared, device, 1, 1)[0] for _ in range(repeats))
        long = min(pack_s(shared, device, 4, 4)[0] for _ in range(repeats))
        often, n_bytes = pack_s(shared, device, 4, 2)
        often = min(often, *(pack_s(shared, device, 4, 2)[0] for _ in range(repeats - 1)))
    epoch, evaluation = (long - short) / 3, often - long
    rest = short - epoch
    seconds = rest + PAPER.epochs * epoch + (PAPER.epochs // PAPER.evaluate_every_epochs - 1) * evaluation
    print(
        f"{device}, {n_threads} threads: an epoch of 10 lanes {epoch:.2f} s, an evaluation {evaluation:.2f} s, first "
        f"evaluation, figures and record {rest:.2f} s; a pack {rest:.1f} + 576 x {epoch:.2f} + 23 x {evaluation:.2f} "
        f"= {seconds:,.0f} s; a record {n_bytes:,} bytes before its curves grow to 24 points"
    )
    return seconds, n_bytes


def in_words(seconds: float) -> str:
    for unit, size in (("days", 86_400), ("h", 3_600), ("min", 60)):
        if seconds >= 2 * size:
            return f"{seconds / size:,.1f} {unit}"
    return f"{seconds:.0f} s"


def table(seconds: float, n_bytes: int | None, driver_s: float, tracker_s: float) -> Table:
    shown = Table("candidates", "1 device", "8", "64", "device-hours", "driver", "tracker", "records")
    for n in (10, 100, 1_000):
        walls = (math.ceil(n / devices) * seconds for devices in (1, 8, 64))
        shown.add_row(
            f"{n:,}",
            *map(in_words, walls),
            f"{n * seconds / 3600:,.1f}",
            in_words(n * driver_s),
            in_words(n * N_SPLITS * tracker_s),
            f"{n * N_SPLITS * n_bytes / 2**20:,.0f} MiB" if n_bytes else "",
        )
    return shown


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds-per-pack", type=float, help="as `study preflight` measured on the device")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--repeats", type=int, default=2)
    parser.add_argument("--driver-s", type=float, default=0.1, help="driver, a pack")
    parser.add_argument("--tracker-s", type=float, default=0.03, help="tracker, a trial")
    given = parser.parse_args()
    pack, size = (given.seconds_per_pack, None) if given.seconds_per_pack else measured(given.threads, given.repeats)
    Console().print(table(pack, size, given.driver_s, given.tracker_s))
