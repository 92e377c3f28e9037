"""How often the intervals of a report call a difference, when there is none and when there is one.

Every simulated study draws its items from a population with a long tail of classes, so that "none" items exist, and
makes its splits by a design. Three questions, each its own part:

- `null`: two methods, nearest-centroid classifiers on a shared block of features and one of their own. The own blocks
  have the same distribution: the methods are exchangeable, the true difference is exactly 0, and they disagree on many
  items. `--gains` above 0 widen the first method's centres: a true difference, of which the power is measured.
- `joint`: 4 and 10 such methods against one control: how often any of them is called different.
- `mixup`: E-Mixup against control, trained by this project's engine. The true difference is the mean over all simulated
  studies; called is an interval that does not contain it.

Splits train on a tenth of the items (`folds`: on all but one fold). `official` trains on items of its own, drawn anew
for each seed, since the luck of one training set is no part of its intervals. Nor is that of the items that all folds
train on: for `folds`, `models` is how often the report's interval does not contain the difference of the trained models
on new items, of which there are 20 times as many. Beside the interval of a report, `before` is
s²(split means)/J + s²(item means)/n with J - 1 degrees of freedom, `naive` a paired t-test over splits, and `N-B` the
corrected resampled t-test of Nadeau & Bengio (2003), https://doi.org/10.1023/A:1024068626366.

Run: python tests/benchmarks/bench_analysis_intervals.py null joint mixup --items 1000 20000 --studies 1000
"""

from __future__ import annotations

import argparse
import itertools
import math
import time
from collections.abc import Iterator
from multiprocessing import Pool

import numpy as np
import torch
from scipy import stats

from analysis.statistics.intervals import LEVEL
from analysis.statistics.simultaneous import simultaneous
from analysis.statistics.variance import Effects, Variance, variance
from trainables.evaluation.metrics import weighted_auc
from trainables.methods.registry import get_method
from trainables.records.types import Design
from trainables.sampling.splits import Split
from trainables.training.protocol import LaneResult, PackInputs
from trainables.training.settings import Lane, LearningRate, Settings
from trainables.training.start import start_training

N_CLASSES, N_FEATURES = 15, 6
TRAIN_FRACTION = 0.1
FIGURES = ("accuracy", "auc_weighted")
N_NEW = 20  # new items for each item of a study: their own luck must not count
CENTRES = np.random.default_rng(0).normal(size=(2, N_CLASSES, N_FEATURES))

Differences = dict[str, np.ndarray]
Truth = dict[str, float]


def splits_of(random: np.random.Generator, design: Design, n_items: int, n_splits: int) -> list[Split]:
    """Return the splits of one study."""
    order, n_train = random.permutation(n_items), round(n_items * TRAIN_FRACTION)
    found = []
    for number in range(n_splits):
        if design is Design.RANDOM:
            order = random.permutation(n_items)
            train, test = order[:n_train], order[n_train:]
        elif design is Design.REVERSE_FOLDS:
            train = order[number * n_train : (number + 1) * n_train]
            test = np.setdiff1d(order, train)
        elif design is Design.FOLDS:
            test = np.array_split(order, n_splits)[number]
            train = np.setdiff1d(order, test)
        else:  # the training items of each seed lie behind the test items of all seeds
            train = n_items + number * n_train + np.arange(n_train)
            test = order
        found.append(Split(np.sort(train), np.sort(test)))
    return found


def n_drawn(splits: list[Split]) -> int:
    """Return how many items the splits of a study need."""
    return 1 + max(int(max(split.train.max(), split.validation.max())) for split in splits)


def items_of(random: np.random.Generator, n_items: int, gains: list[float]) -> tuple[np.ndarray, list[np.ndarray]]:
    """Return labels, and the features of each method: (items, 2 x N_FEATURES) each."""
    shares = 1 / np.arange(1, N_CLASSES + 1) ** 1.2
    labels = random.choice(N_CLASSES, n_items, p=shares / shares.sum())
    shared = CENTRES[0, labels] + random.normal(size=(n_items, N_FEATURES))
    own = [(1 + gain) * CENTRES[1, labels] + random.normal(size=(n_items, N_FEATURES)) for gain in gains]
    return labels, [np.concatenate([shared, one], axis=1) for one in own]


def simulated(
    seed: list[int], design: Design, n_items: int, n_splits: int, gains: list[float]
) -> tuple[list[Differences], list[Truth]]:
    """Compare each method with the last one.

    Returns:
        The differences of its test items, (splits, items) per figure; and, for `folds`, what the trained models differ
        by on new items, per figure.
    """
    random = np.random.default_rng(seed)
    splits = splits_of(random, design, n_items, n_splits)
    labels, features = items_of(random, n_drawn(splits), gains)
    n, is_folds = len(labels), design is Design.FOLDS
    new_labels, new_features = items_of(random, N_NEW * n_items if is_folds else 0, gains)
    judged, truths = [], []
    for values, new in zip(features, new_features, strict=True):
        found = {name: np.full((n_splits, n), np.nan) for name in FIGURES}
        truth = dict.fromkeys(FIGURES, 0.0)
        for row, split in enumerate(splits):
            train = values[split.train], labels[split.train]
            for name, own in centroids(*train, values[split.validation], labels[split.validation]).items():
                found[name][row, split.validation] = own
            if is_folds:
                for name, own in centroids(*train, new, new_labels).items():
                    truth[name] += own.mean() / n_splits
        judged.append(found)
        truths.append(truth)
    return (
        [{name: one[name] - judged[-1][name] for name in FIGURES} for one in judged[:-1]],
        [{name: one[name] - truths[-1][name] for name in FIGURES} for one in truths[:-1]],
    )


def centroids(values: np.ndarray, labels: np.ndarray, test: np.ndarray, test_labels: np.ndarray) -> Differences:
    """Return the correctness at threshold 0.5 and the AUC influence of each test item, by nearest centroids."""
    known, place = np.unique(labels, return_inverse=True)
    centres = np.stack([values[place == index].mean(0) for index in range(len(known))])
    squares = (test**2).sum(1)[:, None] - 2 * test @ centres.T + (centres**2).sum(1)
    logits = 9 - 0.5 * squares
    local = np.full(N_CLASSES, -1)
    local[known] = np.arange(len(known))
    target = local[test_labels]
    correct = np.where(logits.max(1) > 0, logits.argmax(1) == target, target == -1)
    influence = weighted_auc(torch.from_numpy(logits), torch.from_numpy(target)).influence
    return {"accuracy": correct.astype(float), "auc_weighted": influence.numpy()}


def trained(seed: list[int], design: Design, n_items: int, n_splits: int) -> list[Differences]:
    """Return the per-item differences of E-Mixup to control, trained by the engine."""
    random = np.random.default_rng(seed)
    splits = splits_of(random, design, n_items, n_splits)
    labels, (values,) = items_of(random, n_drawn(splits), [0.0])
    settings = Settings(
        epochs=24,
        batch_size=32,
        hidden=(16,),
        learning_rate=LearningRate(low=3e-3, high=3e-2, step_size_epochs=6),
        evaluate_every_epochs=24,
    )
    n = len(labels)
    judged = []
    for method, params in (("e_mixup", {"alpha": 0.3}), ("control", {})):
        lanes = [Lane(get_method(method), params, seed[-1] * 100 + row, split) for row, split in enumerate(splits)]
        training = start_training(
            PackInputs(torch.from_numpy(values).float(), torch.from_numpy(labels), lanes, settings)
        )
        while not training.finished:
            training.advance()
        found = {name: np.full((n_splits, n), np.nan) for name in FIGURES}
        for row, result in enumerate(training.results()):
            assert isinstance(result, LaneResult)
            found["accuracy"][row, result.items.item] = result.items.correct
            found["auc_weighted"][row, result.items.item] = result.items.auc_influence
        judged.append(found)
    return [{name: judged[0][name] - judged[1][name] for name in FIGURES}]


def weighed(difference: np.ndarray, design: Design) -> tuple[Variance, Effects]:
    """Return the variance as a report computes it."""
    return variance(difference, design, shared=TRAIN_FRACTION)


def others(difference: np.ndarray, n_train: float) -> Iterator[tuple[float, float]]:
    """Yield standard error and degrees of freedom of the other intervals: before, naive, Nadeau-Bengio."""
    there = np.isfinite(difference)
    difference, there = difference[:, there.any(0)], there[:, there.any(0)]
    n_splits, n_items = difference.shape
    means, items = np.nanmean(difference, axis=1), np.nanmean(difference, axis=0)
    of_splits = means.var(ddof=1)
    yield math.sqrt(of_splits / n_splits + items.var(ddof=1) / n_items), n_splits - 1
    yield math.sqrt(of_splits / n_splits), n_splits - 1
    yield math.sqrt(of_splits * (1 / n_splits + there.sum(1).mean() / n_train)), n_splits - 1


def one_study(job: tuple[str, list[int], Design, int, int, list[float]]) -> list[tuple[float, ...]]:
    """Return a row for each figure.

    `joint`: whether any interval is off 0, and whether any is off its trained models' difference. Otherwise the
    estimate, that difference, and the standard error and degrees of freedom of every interval.
    """
    torch.set_num_threads(1)
    part, seed, design, n_items, n_splits, gains = job
    if part == "joint":
        found, truths = simulated(seed, design, n_items, n_splits, gains)
        rows = []
        for name in FIGURES:
            joint = simultaneous([weighed(d[name], design) for d in found])
            off = [
                float(any(not own.low <= true <= own.high for own, true in zip(joint, trues, strict=True)))
                for trues in ([0.0] * len(joint), [truth[name] for truth in truths])
            ]
            rows.append((off[0], off[1]))
        return rows
    if part == "mixup":
        made, truths = trained(seed, design, n_items, n_splits), [dict.fromkeys(FIGURES, math.nan)]
    else:
        made, truths = simulated(seed, design, n_items, n_splits, gains)
    rows = []
    for name in FIGURES:
        own, _ = weighed(made[0][name], design)
        n_train = n_items * ((n_splits - 1) / n_splits if design is Design.FOLDS else TRAIN_FRACTION)
        of_others = itertools.chain(*others(made[0][name], n_train))
        rows.append((own.estimate, truths[0][name], own.standard_error, own.freedom, *of_others))
    return rows


def called(rows: np.ndarray, true: float) -> list[float]:
    """Return how many of 100 studies' intervals, of each kind, do not contain the true difference.

    The last is the report's interval with the trained models' difference.
    """
    kinds = [(true, 2), (true, 4), (true, 6), (true, 8), (rows[:, 1], 2)]
    return [
        100 * float(np.mean(np.abs(rows[:, 0] - middle) > stats.t.ppf(1 - LEVEL / 2, rows[:, at + 1]) * rows[:, at]))
        for middle, at in kinds
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("parts", nargs="*", default=["null", "joint", "mixup"], choices=["null", "joint", "mixup"])
    parser.add_argument("--studies", type=int, default=1000)
    parser.add_argument("--items", type=int, nargs="*", default=[1000])
    parser.add_argument("--splits", type=int, nargs="*", default=[3, 5, 10])
    parser.add_argument("--gains", type=float, nargs="*", default=[0.0, 0.1])
    parser.add_argument("--designs", nargs="*", default=[str(one) for one in Design])
    parser.add_argument("--processes", type=int, default=2)
    arguments = parser.parse_args()
    started = time.perf_counter()
    print("part   design          figure          n     J   true     report  before   naive     N-B  models")
    with Pool(arguments.processes) as pool:
        for part in arguments.parts:
            kinds = {"null": [[g, 0.0] for g in arguments.gains], "joint": [[0.0] * 5, [0.0] * 11], "mixup": [[0.0]]}
            for gains, design, n_items, n_splits in itertools.product(
                kinds[part], map(Design, arguments.designs), arguments.items, arguments.splits
            ):
                jobs = [
                    (part, [n_splits, n_items, len(gains), seed], design, n_items, n_splits, gains)
                    for seed in range(arguments.studies)
                ]
                done = np.array(pool.map(one_study, jobs, chunksize=5))
                for place, name in enumerate(FIGURES):
                    rows = done[:, place]
                    head = f"{part:6s} {design:14s} {name:12s} {n_items:6d} {n_splits:4d}"
                    if part == "joint":
                        of_models = f"  models {100 * rows[:, 1].mean():5.1f}%" if design is Design.FOLDS else ""
                        rate = 100 * rows[:, 0].mean()
                        print(f"{head}   {len(gains) - 1:2d} methods {rate:5.1f}%{of_models}", flush=True)
                        continue
                    mean = float(rows[:, 0].mean())
                    true = mean if part == "mixup" else 0.0
                    shown = called(rows, true)[: None if design is Design.FOLDS and part == "null" else -1]
                    rates = "  ".join(f"{rate:5.1f}%" for rate in shown)
                    print(f"{head} {mean if max(gains) or part == 'mixup' else 0.0:+8.4f}  {rates}", flush=True)
    print(f"{arguments.studies} studies a row, {time.perf_counter() - started:.0f} s")


if __name__ == "__main__":
    main()
