"""How often each interval reports a difference, when there is none and when there is one.

Simulated studies follow the protocol: every study draws its items from a population; J random splits train on 10 % of
the items and evaluate on the others; classes have a long tail, so that "none" items exist. Both methods are a
nearest-centroid classifier on a shared block of features and a separate block. Under the null hypothesis the separate
blocks have the same distribution, so the methods are exchangeable and the true difference is exactly 0, although they
disagree on many items.

`with overlap` is the two-way interval that also includes the training items that two random splits share.

Run: python tests/benchmarks/bench_analysis_intervals.py [--studies 1000]
"""

from __future__ import annotations

import argparse
import time

import numpy as np
import torch

from analysis.statistics.intervals import LEVEL, nadeau_bengio_interval, naive_interval, two_way_interval
from trainables.evaluation.metrics import weighted_auc

N_CLASSES, N_FEATURES = 15, 6

CENTRES = np.random.default_rng(0).normal(size=(2, N_CLASSES, N_FEATURES))


def study(random: np.random.Generator, n_items: int, n_splits: int, gain: float) -> dict[str, np.ndarray]:
    """Return the per-item differences of one study, (splits, items) per figure, NaN for training items."""
    shares = 1 / np.arange(1, N_CLASSES + 1) ** 1.2
    labels = random.choice(N_CLASSES, n_items, p=shares / shares.sum())
    blocks = random.normal(size=(3, n_items, N_FEATURES))
    blocks[0] += CENTRES[0, labels]
    # The same centres with other noise are exchangeable. Wider centres of the first method are a true difference.
    blocks[1] += (1 + gain) * CENTRES[1, labels]
    blocks[2] += CENTRES[1, labels]
    inputs = [np.concatenate([blocks[0], blocks[own]], axis=1) for own in (1, 2)]
    found = {name: np.full((n_splits, n_items), np.nan) for name in ("accuracy", "auc_weighted")}
    for split in range(n_splits):
        order = random.permutation(n_items)
        train, test = np.sort(order[: n_items // 10]), np.sort(order[n_items // 10 :])
        judged = [judge(values, labels, train, test) for values in inputs]
        for name in found:
            found[name][split, test] = judged[0][name] - judged[1][name]
    return found


def judge(values: np.ndarray, labels: np.ndarray, train: np.ndarray, test: np.ndarray) -> dict[str, np.ndarray]:
    """Return the correctness at threshold 0.5 and the AUC influence of each test item."""
    known = np.unique(labels[train])
    centroids = np.stack([values[train][labels[train] == label].mean(0) for label in known])
    logits = 9 - 0.5 * ((values[test][:, None] - centroids[None]) ** 2).sum(-1)
    place = np.full(N_CLASSES, -1)
    place[known] = np.arange(len(known))
    target = place[labels[test]]
    confident = 1 / (1 + np.exp(-logits.max(1))) > 0.5
    correct = np.where(confident, logits.argmax(1) == target, target == -1)
    influence = weighted_auc(torch.from_numpy(logits), torch.from_numpy(target)).influence
    return {"accuracy": correct.astype(float), "auc_weighted": influence.numpy()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--studies", type=int, default=1000)
    parser.add_argument("--items", type=int, default=2000)
    parser.add_argument("--gains", type=float, nargs="*", default=[0.0, 0.05, 0.1])
    parser.add_argument("--splits", type=int, nargs="*", default=[3, 5, 10])
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    started = time.perf_counter()
    print("figure         J   true difference   naive   two-way   with overlap   Nadeau-Bengio")
    for n_splits in arguments.splits:
        for gain in arguments.gains:
            random = np.random.default_rng([n_splits, int(1000 * gain)])
            called: dict[str, list[list[bool]]] = {"accuracy": [], "auc_weighted": []}
            means: dict[str, list[float]] = {"accuracy": [], "auc_weighted": []}
            for _ in range(arguments.studies):
                for name, difference in study(random, arguments.items, n_splits, gain).items():
                    split_means = np.nanmean(difference, axis=1)
                    n_train = arguments.items // 10
                    intervals = (
                        naive_interval(split_means),
                        two_way_interval(difference),
                        two_way_interval(difference, overlap=0.1),
                        nadeau_bengio_interval(split_means, n_train, arguments.items - n_train),
                    )
                    called[name].append([interval.p_value < LEVEL for interval in intervals])
                    means[name].append(float(split_means.mean()))
            for name, rows in called.items():
                rates = 100 * np.mean(rows, axis=0)
                true = 0.0 if gain == 0 else np.mean(means[name])
                print(
                    f"{name:12s} {n_splits:3d} {true:17.4f} {rates[0]:6.1f}% {rates[1]:8.1f}% {rates[2]:13.1f}% "
                    f"{rates[3]:14.1f}%",
                    flush=True,
                )
    print(f"{arguments.studies} studies a row, {arguments.items} items; {time.perf_counter() - started:.0f} s")


if __name__ == "__main__":
    main()
