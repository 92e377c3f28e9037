"""Splits of the items, and the random streams that everything is drawn from.

Every split and stream is a pure function of its seed and purpose: nothing depends on what was drawn before, on
the method, or on the process that draws (common random numbers; Wolfe & Lundgaard 2019 compare methods on shared
splits).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from trainables.sampling.streams import stream

Indices = npt.NDArray[np.int64]

SEARCH_TRAIN_FRACTION = 0.8

"""Share of a training fold that a search trial trains on; the rest of the fold scores it."""

SEARCHED_FRACTION = 0.3

"""Share of the folds, rounded down but at least one fold, that a search may see; they are then in no test set."""


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
    """Training items of one split, the same for every split of a phase (up to one for folds).

    Args:
        n_items: Items in all.
        train_fraction: Share of the items that a split trains on, in (0, 1).
        phase: `paper`, `search` or `confirm`.
    """
    if phase == "paper":
        return max(1, round(n_items * train_fraction))
    fold = n_items // n_folds(train_fraction)
    return int(fold * SEARCH_TRAIN_FRACTION) if phase == "search" else fold


def n_held_out(n_train: int, fraction: float) -> int:
    """Training items of a split that early stopping holds out.

    Args:
        n_train: Training items of the split.
        fraction: Share of them to hold out; 0 without early stopping.
    """
    return round(n_train * fraction)


def n_folds(train_fraction: float) -> int:
    """Disjoint training folds of a round: k for a train fraction of 1/k."""
    return max(2, round(1 / train_fraction))


def n_searched_folds(train_fraction: float) -> int:
    """Folds that a search may see, of the first round."""
    return max(1, int(n_folds(train_fraction) * SEARCHED_FRACTION))


def searched_items(n_items: int, train_fraction: float) -> Indices:
    """Sorted indices of the items that a search may see, whatever its splits."""
    size = n_items // n_folds(train_fraction)
    return np.sort(_round(n_items, 0)[: n_searched_folds(train_fraction) * size])


def make_split(n_items: int, train_fraction: float, phase: str, seed: int) -> Split:
    """The split that a seed selects.

    `paper` draws a random training set for each seed. `confirm` cuts a permutation into k = 1/train_fraction disjoint
    training folds (reverse k-fold): seed s is fold s mod k of permutation s div k; it is tested on the rest, without
    the items that the search may have seen. `search` cuts 80/20 inside one of the first folds, which alone it sees: one
    choice serves all folds, and an item that had a say in it would else be a test item of the other folds.

    Args:
        n_items: Items in all.
        train_fraction: Share of the items that a split trains on, in (0, 1).
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
    split: Split, labels: Indices, named: Indices, fraction: float, seed: int, untested: Indices | None = None
) -> Split:
    """A split whose training items of unknown classes are moved to validation, where they are "none".

    Args:
        split: The split.
        labels: Label index of every item (items,).
        named: Label indices that are never trained on.
        fraction: Share of the other classes to withhold, drawn for this seed evenly over class frequency: classes in
            order of frequency are cut into as many runs as classes are wanted, and each run gives one.
        seed: Split seed.
        untested: Items that must not be validated; of unknown classes, they are left out.
    """
    others = np.setdiff1d(np.arange(labels.max() + 1), named)
    n_drawn = round(len(others) * fraction)
    by_frequency = others[np.argsort(np.bincount(labels)[others], kind="stable")]
    rng = stream(seed, "unknown_classes")
    drawn = [rng.choice(run) for run in np.array_split(by_frequency, n_drawn)] if n_drawn else []
    unknown = np.isin(labels[split.train], np.concatenate([named, np.array(drawn, np.int64)]))
    moved = np.setdiff1d(split.train[unknown], [] if untested is None else untested)
    validation = np.concatenate([split.validation, moved])
    return Split(split.train[~unknown], np.sort(validation))


def _round(n_items: int, number: int) -> Indices:
    """The permutation that a round of folds is cut from."""
    return stream(number, "folds").permutation(n_items)


def _cut(permutation: Indices, n_train: int) -> Split:
    return Split(np.sort(permutation[:n_train]), np.sort(permutation[n_train:]))
