"""Splits of the items into training and validation.

Every split is a pure function of its seed: it does not depend on earlier draws, on the method or on the process. All
methods are compared on the same splits (common random numbers), as in Wolfe & Lundgaard (2019),
https://arxiv.org/abs/1912.00772.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from trainables.sampling.streams import stream

Indices = npt.NDArray[np.int64]

# Fraction of a training fold that a search trial trains on; the rest of the fold scores it.
SEARCH_TRAIN_FRACTION = 0.8

# Fraction of the folds, rounded down but at least one fold, that a search may see; no test set contains them.
SEARCHED_FRACTION = 0.3


@dataclass(frozen=True)
class Split:
    """One train/validation partition.

    Attributes:
        train: Sorted item indices (train items,).
        validation: Sorted item indices (validation items,), disjoint from `train`.
    """

    train: Indices
    validation: Indices


def n_train_items(n_items: int, train_fraction: float, phase: str) -> int:
    """Return the number of training items of a split, the same for every split of a phase.

    Args:
        n_items: Number of items.
        train_fraction: Fraction of the items that a split trains on, in (0, 1).
        phase: `paper`, `search` or `confirm`.
    """
    if phase == "paper":
        return max(1, round(n_items * train_fraction))
    fold = n_items // n_folds(train_fraction)
    return int(fold * SEARCH_TRAIN_FRACTION) if phase == "search" else fold


def n_held_out(n_train: int, fraction: float) -> int:
    """Return the number of a split's training items that early stopping holds out.

    Args:
        n_train: Number of training items of the split.
        fraction: Fraction of them to hold out; 0 without early stopping.
    """
    return round(n_train * fraction)


def n_folds(train_fraction: float) -> int:
    """Return the number of disjoint training folds of a round: k for a train fraction of 1/k."""
    return max(2, round(1 / train_fraction))


def n_searched_folds(train_fraction: float) -> int:
    """Return the number of folds of the first round that a search may see."""
    return max(1, int(n_folds(train_fraction) * SEARCHED_FRACTION))


def searched_items(n_items: int, train_fraction: float) -> Indices:
    """Return the sorted indices of the items that a search may see, in any of its splits."""
    size = n_items // n_folds(train_fraction)
    return np.sort(_round(n_items, 0)[: n_searched_folds(train_fraction) * size])


def make_split(n_items: int, train_fraction: float, phase: str, seed: int) -> Split:
    """Return the split that a seed selects.

    `paper` draws a random training set for each seed. `confirm` cuts a permutation into k = 1/train_fraction disjoint
    training folds (reverse k-fold): seed s is fold s mod k of permutation s div k. The rest is the test set, without
    the items that the search may have seen. `search` cuts 80/20 inside one of the first folds and sees no other items:
    its choice serves all folds, so an item that it has seen must not be a test item of any fold.

    Args:
        n_items: Number of items.
        train_fraction: Fraction of the items that a split trains on, in (0, 1).
        phase: `paper`, `search` or `confirm`.
        seed: Split seed, at least 0.
    """
    n_train = n_train_items(n_items, train_fraction, phase)
    if phase == "paper":
        return _cut(stream(seed, "split").permutation(n_items), n_train)
    k, size = n_folds(train_fraction), n_items // n_folds(train_fraction)
    search = phase == "search"
    permutation = _round(n_items, 0 if search else seed // k)
    start = size * (seed % (n_searched_folds(train_fraction) if search else k))
    fold = permutation[start : start + size]
    if search:
        return _cut(stream(seed, "search").permutation(fold), n_train)
    rest = np.setdiff1d(permutation, fold)
    return Split(np.sort(fold), np.setdiff1d(rest, searched_items(n_items, train_fraction)))


def withhold(
    split: Split,
    labels: Indices,
    named: Indices,
    fraction: float,
    phase: str,
    seed: int,
    untested: Indices | None = None,
) -> Split:
    """Move the training items of unknown classes to validation, where they are "none".

    Args:
        split: The split.
        labels: Label index of every item (items,).
        named: Label indices of classes that are never trained on.
        fraction: Fraction of the other classes to withhold. They are drawn for this seed, evenly over class frequency:
            the classes in order of frequency are cut into as many runs as classes are wanted, and one class is drawn
            from each run.
        phase: Phase of the split. Each draws its own classes: those that a search withholds must not choose the
            candidates for the classes that its confirmation withholds.
        seed: Split seed.
        untested: Items that must not be in validation; those of unknown classes are then left out of the split.
    """
    others = np.setdiff1d(np.arange(labels.max() + 1), named)
    n_drawn = round(len(others) * fraction)
    by_frequency = others[np.argsort(np.bincount(labels)[others], kind="stable")]
    rng = stream(seed, f"{phase}_unknown_classes")
    drawn = [rng.choice(run) for run in np.array_split(by_frequency, n_drawn)] if n_drawn else []
    unknown = np.isin(labels[split.train], np.concatenate([named, np.array(drawn, np.int64)]))
    moved = np.setdiff1d(split.train[unknown], [] if untested is None else untested)
    validation = np.concatenate([split.validation, moved])
    return Split(split.train[~unknown], np.sort(validation))


def _round(n_items: int, number: int) -> Indices:
    """Return the permutation that a round of folds is cut from."""
    return stream(number, "folds").permutation(n_items)


def _cut(permutation: Indices, n_train: int) -> Split:
    return Split(np.sort(permutation[:n_train]), np.sort(permutation[n_train:]))
