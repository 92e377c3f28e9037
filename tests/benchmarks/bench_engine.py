"""The lockstep engine against one trial at a time, and against what the machine can do.

    python tests/benchmarks/bench_engine.py lanes    # 8 lanes in one pack against 8 solo packs, same engine
    python tests/benchmarks/bench_engine.py floor    # achieved FLOP/s and bytes/s against this machine's measured rates
    python tests/benchmarks/bench_engine.py auc      # weighted AUC with influences, 40,000 items x 144 columns

Synthetic clusters in the shape of the fashion titles: 44,446 items, 768 features, 143 classes.
"""

import argparse
import itertools
import resource
import statistics
import time
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import torch
from rich.console import Console
from rich.table import Table

from tests.trainables_tests.random_split import random_split
from trainables.evaluation.metrics import weighted_auc
from trainables.methods.registry import METHODS
from trainables.training.engine import Training
from trainables.training.protocol import PackInputs
from trainables.training.settings import Lane, Settings
from trainables.training.supervised import SupervisedStack

N_ITEMS, N_FEATURES, N_CLASSES = 44_446, 768, 143

SETTINGS = Settings(epochs=8, evaluate_every_epochs=8)

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"


def catalogue() -> tuple[torch.Tensor, torch.Tensor]:
    rng = np.random.default_rng(0)
    share = 1 / np.arange(1, N_CLASSES + 1)
    labels = np.concatenate([np.arange(N_CLASSES), rng.choice(N_CLASSES, N_ITEMS - N_CLASSES, p=share / share.sum())])
    centres = rng.normal(size=(N_CLASSES, N_FEATURES)).astype(np.float32)
    x = centres[labels] + 3 * rng.standard_normal((N_ITEMS, N_FEATURES), dtype=np.float32)
    return torch.from_numpy(x).to(DEVICE), torch.from_numpy(labels).to(DEVICE)


def lanes_of(name: str, n: int) -> list[Lane]:
    params = {key: value.default for key, value in METHODS[name].hyperparameters.items()}
    return [Lane(METHODS[name], params, seed, random_split(N_ITEMS, 0.1, seed)) for seed in range(n)]


def training_s(x: torch.Tensor, labels: torch.Tensor, lanes: list[Lane], settings: Settings) -> float:
    """Return the seconds of the training steps alone, after an epoch of warm-up."""
    stack = SupervisedStack(x, labels, lanes, steps_per_epoch=34, settings=settings)
    stack.train(1)
    started = time.perf_counter()
    stack.train(SETTINGS.epochs)
    return time.perf_counter() - started


def median_s(work: Callable[[], object], repeats: int) -> float:
    times = []
    for _ in range(repeats):
        started = time.perf_counter()
        work()
        if DEVICE == "cuda":
            torch.cuda.synchronize()
        times.append(time.perf_counter() - started)
    return statistics.median(times)


def bench_lanes(repeats: int, settings: Settings) -> Table:
    x, labels = catalogue()
    table = Table(
        "method", "8 solo, s", "8 lanes, s", "lane-steps a second, ratio", title=f"{torch.get_num_threads()} threads"
    )
    for name in ("control", "e_mixup", "soft_e_stitchup"):
        lanes = lanes_of(name, 8)
        ratios, solos, packs = [], [], []
        for _ in range(repeats):
            solos.append(sum(training_s(x, labels, [lane], settings) for lane in lanes))
            packs.append(training_s(x, labels, lanes, settings))
            ratios.append(solos[-1] / packs[-1])
        table.add_row(
            name,
            f"{statistics.median(solos):.2f}",
            f"{statistics.median(packs):.2f}",
            f"{statistics.median(ratios):.2f}",
        )
    return table


def bench_floor(repeats: int, settings: Settings) -> Table:
    x, labels = catalogue()
    a = torch.randn(2048, 2048, device=DEVICE)
    product_rate = 2 * 2048**3 / median_s(lambda: a @ a, 5)
    big, other = torch.randn(2**26, device=DEVICE), torch.empty(2**26, device=DEVICE)
    copy_rate = 2 * big.nbytes / median_s(lambda: other.copy_(big), 5)
    table = Table(
        "method",
        "GFLOP/s",
        "of the product rate",
        "GB/s",
        "of the copy rate",
        title=f"{torch.get_num_threads()} threads; products {product_rate / 1e9:.0f} GFLOP/s, copies "
        f"{copy_rate / 1e9:.1f} GB/s",
    )
    for name in ("control", "e_mixup", "soft_e_stitchup"):
        lanes = lanes_of(name, 5)
        rows = SETTINGS.batch_size // (1 if name == "control" else 2)
        seconds = statistics.median(training_s(x, labels, lanes, settings) for _ in range(repeats))
        steps = SETTINGS.epochs * 34
        widths = [N_FEATURES, *SETTINGS.hidden, N_CLASSES]
        first = widths[0] * widths[1]
        weights = sum(a * b for a, b in itertools.pairwise(widths))
        # Forward, weight gradients, and input gradients of all layers but the first.
        flops = 2 * rows * (3 * weights - first) * len(lanes) * steps
        # Per step: the gathered batch read and written, weights read three times, AdamW's 7 passes over the parameters.
        moved = 4 * len(lanes) * steps * (2 * SETTINGS.batch_size * N_FEATURES + 10 * weights)
        table.add_row(
            name,
            f"{flops / seconds / 1e9:.1f}",
            f"{flops / seconds / product_rate:.0%}",
            f"{moved / seconds / 1e9:.2f}",
            f"{moved / seconds / copy_rate:.0%}",
        )
    return table


def bench_auc(repeats: int, settings: Settings) -> Table:
    torch.set_num_threads(1)
    x, labels = catalogue()
    validation = random_split(N_ITEMS, 0.1, 0).validation[:40_000]
    target = labels[torch.from_numpy(validation).to(DEVICE)] - 1
    logits = torch.randn(40_000, N_CLASSES, device=DEVICE)
    logits[torch.arange(40_000, device=DEVICE)[target >= 0], target[target >= 0]] += 2
    seconds = median_s(lambda: weighted_auc(logits, target), repeats)
    peak = pack_peak_gib(x, labels)
    table = Table("figure", "value")
    table.add_row("weighted AUC with influences, 40,000 x 144, one core", f"{seconds:.2f} s")
    table.add_row("peak memory of a pack of 10 lanes, process", f"{peak:.2f} GiB")
    return table


def pack_peak_gib(x: torch.Tensor, labels: torch.Tensor) -> float:
    training = Training(PackInputs(x, labels, lanes_of("control", 10), SETTINGS))
    while not training.finished:
        training.advance()
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=["lanes", "floor", "auc"])
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--precision", choices=["float32", "tf32", "bfloat16"], default="float32")
    parser.add_argument("--cuda-graph", action="store_true", help="with a GPU, which is used if there is one")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    benchmarks = {"lanes": bench_lanes, "floor": bench_floor, "auc": bench_auc}
    chosen = replace(SETTINGS, precision=arguments.precision, cuda_graph=arguments.cuda_graph)
    Console().print(benchmarks[arguments.what](arguments.repeats, chosen))
