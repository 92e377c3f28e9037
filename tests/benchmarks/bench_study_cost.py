"""The cost of a study at the paper's scale: a pack is measured on one device, and the rest is calculated.

    python tests/benchmarks/bench_study_cost.py                          # measures a few epochs here, then the table
    python tests/benchmarks/bench_study_cost.py --seconds-per-pack 40    # as measured on another device

A pack is one candidate on 10 splits: 44,446 items, of which 4,444 train, 4,864 inputs, 171 classes, 576 epochs,
24 evaluations. It is measured as in `study preflight`: the shortest training, a further epoch and a further evaluation.
The times of driver and tracker come from bench_study_packs.py and bench_study_tracking.py.
"""

import argparse
import math

import numpy as np
import torch
from rich.console import Console
from rich.table import Table

from trainables.packs.cost import PackCost, measure_pack
from trainables.packs.pack import PackContext
from trainables.records.types import TEST, Candidate, Design, Pack, SplitId
from trainables.sampling.splits import SplitItems, SplitRules
from trainables.training.settings import Settings

N_ITEMS, N_FEATURES, N_CLASSES, N_SPLITS = 44_446, 4_864, 171, 10

PAPER = Settings(epochs=576, evaluate_every_epochs=24)

N_EVALUATIONS = PAPER.epochs // PAPER.evaluate_every_epochs


def paper_context(n_threads: int, settings: Settings = PAPER) -> PackContext:
    """Return random items in the paper's shape."""
    rng = np.random.default_rng(0)
    share = 1 / np.arange(1, N_CLASSES + 1)
    labels = np.concatenate([np.arange(N_CLASSES), rng.choice(N_CLASSES, N_ITEMS - N_CLASSES, p=share / share.sum())])
    x = rng.standard_normal((N_ITEMS, N_FEATURES), dtype=np.float32)
    x += rng.standard_normal((N_CLASSES, N_FEATURES), dtype=np.float32)[labels] / 3
    items, rules = SplitItems(labels), SplitRules(Design.RANDOM, 0.1)
    return PackContext(x, items, rules, settings, "", "auc_weighted", n_threads, {}, torch.cuda.is_available())


def measured(n_threads: int) -> PackCost:
    candidate = Candidate.of("soft_e_stitchup", {"alpha": 0.3, "softness": 0.05})
    return measure_pack(paper_context(n_threads), Pack(TEST, candidate, tuple(map(SplitId, range(N_SPLITS)))))


def pack_s(cost: PackCost) -> float:
    return cost.shortest_s + (PAPER.epochs - 1) * cost.epoch_s + (N_EVALUATIONS - 1) * cost.evaluation_s


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
            f"{n * n_bytes / 1e9:,.2f} GB" if n_bytes else "",
        )
    return shown


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--seconds-per-pack", type=float, help="of another device, as `study preflight` measured it there"
    )
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--driver-s", type=float, default=0.1, help="time of the driver per pack")
    parser.add_argument("--tracker-s", type=float, default=0.04, help="time of the tracker per trial")
    given = parser.parse_args()
    if given.seconds_per_pack:
        shown = table(given.seconds_per_pack, None, given.driver_s, given.tracker_s)
    else:
        cost = measured(given.threads)
        sizes = f"its records {cost.record_bytes / 1e6:.1f} MB; process {cost.process_bytes / 1e9:.1f} GB"
        print(
            f"{cost.device}: the shortest training of 10 lanes {cost.shortest_s:.1f} s, a further epoch "
            f"{cost.epoch_s:.2f} s, a further evaluation {cost.evaluation_s:.1f} s: a pack {cost.shortest_s:.1f} + "
            f"{PAPER.epochs - 1} x {cost.epoch_s:.2f} + {N_EVALUATIONS - 1} x {cost.evaluation_s:.1f} = "
            f"{pack_s(cost):,.0f} s; {sizes}"
        )
        shown = table(pack_s(cost), cost.record_bytes, given.driver_s, given.tracker_s)
    Console().print(shown)
