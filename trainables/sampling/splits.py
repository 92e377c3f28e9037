"""Splits of the items into training and test, and inner splits of the training items, by a design.

Every split is a pure function of the items, the rules and its seed: it does not depend on other splits, on the method
or on the process. All methods are compared on the same splits (common random numbers), as in Wolfe & Lundgaard (2019),
https://arxiv.org/abs/1912.00772.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from enum import StrEnum
from functools import lru_cache

import numpy as np
import numpy.typing as npt

from trainables.records.types import SEARCH, Design, SplitId
from trainables.sampling.streams import stream

Indices = npt.NDArray[np.int64]

# Fraction of a split's training items that an inner split trains on; the rest scores candidates.
INNER_TRAIN_FRACTION = 0.8


class Role(StrEnum):
    """What an item is for, in a table with official splits."""

    TRAIN = "train"
    VALIDATION = "validation"
    TEST = "test"


@dataclass(frozen=True)
class Split:
    """One partition of items; some are in neither part, such as training items of withheld classes.

    Attributes:
        train: Sorted item indices (train items,).
        validation: Sorted item indices (validation items,), disjoint from `train`.
        groups: Group number of every item (items,), which early stopping's hold-out respects; None without groups.
    """

    train: Indices
    validation: Indices
    groups: Indices | None = None


@dataclass(frozen=True, eq=False)
class SplitItems:
    """What splits depend on, of every item.

    Attributes:
        labels: Label index (items,).
        groups: Group number (items,): no group is in both parts of a split. None without groups.
        roles: `Role` of each item (items,), for the official design; else None.
    """

    labels: Indices
    groups: Indices | None = None
    roles: npt.NDArray[np.str_] | None = None


@dataclass(frozen=True)
class SplitRules:
    """How a study makes its splits.

    Attributes:
        design: How the items are cut.
        train_fraction: Fraction of the items that a split trains on, in (0, 1): 1/k for k reverse folds, (k - 1)/k for
            k folds. Official splits do not use it.
        stratify: Whether every part keeps the shares of the classes.
        unknown_classes: Label indices of classes that are never trained on.
        unknown_class_fraction: Fraction of the other classes that each split withholds, in [0, 1).
        inner_unknown_fraction: Fraction of a split's training classes that an inner split withholds as well.
    """

    design: Design
    train_fraction: float
    stratify: bool = False
    unknown_classes: tuple[int, ...] = ()
    unknown_class_fraction: float = 0.0
    inner_unknown_fraction: float = 0.1

    @property
    def n_folds(self) -> int:
        """The number of folds of a round; only designs with folds have it."""
        share = self.train_fraction if self.design is Design.REVERSE_FOLDS else 1 - self.train_fraction
        return max(2, round(1 / share))

    def n_train(self, items: SplitItems) -> int:
        """Return how many items a split trains on, before classes are withheld; with groups or strata about as many."""
        n_items = len(items.labels)
        if items.roles is not None and self.design is Design.OFFICIAL:
            return int((items.roles == Role.TRAIN).sum())
        if self.design is Design.RANDOM:
            return max(1, round(n_items * self.train_fraction))
        fold = n_items // self.n_folds
        return fold if self.design is Design.REVERSE_FOLDS else n_items - -(-n_items // self.n_folds)

    def n_trained(self, items: SplitItems, phase: str) -> int:
        """Return how many items a split of a phase trains on, before classes are withheld."""
        n_train = self.n_train(items)
        if phase != SEARCH:
            return n_train
        if self.design is Design.OFFICIAL and items.roles is not None and (items.roles == Role.VALIDATION).any():
            return n_train
        return int(n_train * INNER_TRAIN_FRACTION)


def hold_out(split: Split, fraction: float, seed: int) -> tuple[Split, Indices]:
    """Divide a split's training items into those to train on, and those (items,) that early stopping holds out.

    Args:
        split: The split. A group of its items stays together, so that none may be held out where groups are large.
        fraction: Fraction of the training items to hold out; 0 without early stopping.
        seed: Seed of the trial's random streams.
    """
    n_train = len(split.train)
    n = round(n_train * fraction)
    if n == 0:
        return split, split.train[:0]
    items = SplitItems(np.empty(0, np.int64), split.groups)  # without strata, labels have no say
    part = divide(items, split.train, (n, n_train - n), False, stream(seed, "early_stopping"))
    return replace(split, train=split.train[part == 1]), split.train[part == 0]


def split_of(items: SplitItems, rules: SplitRules, which: SplitId) -> Split:
    """Return a split, or an inner split of one."""
    if which.inner is None:
        return outer_split(items, rules, which.seed)
    return inner_split(items, rules, which.seed, which.inner)


def outer_split(items: SplitItems, rules: SplitRules, seed: int) -> Split:
    """Return the split that a seed selects.

    `reverse_folds` cuts a permutation into k disjoint training folds, each tested on all other items; `folds` trains on
    all but one of k folds and tests on that one. Seed s is fold s mod k of permutation s div k. `random` draws a
    training set for each seed. `official` splits are the same for every seed, which then only varies the training.

    Training items of unknown classes are left out of the split; the class's test items are "none".
    """
    n_items = len(items.labels)
    if rules.design is Design.OFFICIAL:
        assert items.roles is not None, "the official design needs the items' roles"
        train, test = (np.flatnonzero(items.roles == role) for role in (Role.TRAIN, Role.TEST))
    elif rules.design is Design.RANDOM:
        n_train = rules.n_train(items)
        part = divide(items, np.arange(n_items), (n_train, n_items - n_train), rules.stratify, stream(seed, "split"))
        train, test = np.flatnonzero(part == 0), np.flatnonzero(part == 1)
    else:
        fold = _folds(items, rules, seed // rules.n_folds) == seed % rules.n_folds
        inside, outside = np.flatnonzero(fold), np.flatnonzero(~fold)
        train, test = (inside, outside) if rules.design is Design.REVERSE_FOLDS else (outside, inside)
    named = np.array(rules.unknown_classes, np.int64)
    unknown = np.union1d(named, withheld(items.labels, named, rules.unknown_class_fraction, stream(seed, "unknown")))
    return Split(train[~np.isin(items.labels[train], unknown)], test, items.groups)


def inner_split(items: SplitItems, rules: SplitRules, seed: int, inner: int) -> Split:
    """Return an inner split: a partition of a split's training items, on which candidates are scored.

    With official validation items, those score. A part of the classes is withheld from the inner training, so that
    "none" has a say in the choice of candidates, thresholds and temperatures.

    Args:
        items: The items.
        rules: The rules.
        seed: Seed of the split.
        inner: Number of the inner split, from 0.
    """
    return inner_of(items, rules, outer_split(items, rules, seed).train, stream(seed, f"inner {inner}"))


def split_of_all(items: SplitItems, rules: SplitRules) -> Split:
    """Return the split that trains on every item except those of classes unknown by name, and tests on every item."""
    every = np.arange(len(items.labels))
    return Split(every[~np.isin(items.labels, rules.unknown_classes)], every, items.groups)


def inner_of(items: SplitItems, rules: SplitRules, outer: Indices, rng: np.random.Generator) -> Split:
    """Return an inner split of training items `outer`, or of those that are not official validation items."""
    official = rules.design is Design.OFFICIAL and items.roles is not None
    validation = np.flatnonzero(items.roles == Role.VALIDATION) if official else np.empty(0, np.int64)
    train = np.setdiff1d(outer, validation)
    # Classes that are unknown in the test must not be what "none" is chosen by.
    validation = validation[np.isin(items.labels[validation], items.labels[train])]
    if not len(validation):
        n_train = round(len(outer) * INNER_TRAIN_FRACTION)
        part = divide(items, outer, (n_train, len(outer) - n_train), rules.stratify, rng)
        train, validation = outer[part == 0], outer[part == 1]
    present = np.unique(items.labels[train])
    # Only a class with validation items can play "none".
    absent = np.setdiff1d(np.arange(items.labels.max() + 1), np.intersect1d(present, items.labels[validation]))
    unknown = np.empty(0, np.int64)
    if rules.inner_unknown_fraction > 0 and len(present) > 2:  # at least one class, and at least two are left
        fraction = min(max(rules.inner_unknown_fraction, 1 / len(present)), 1 - 2 / len(present))
        unknown = withheld(items.labels[train], absent, fraction, rng)
    return Split(train[~np.isin(items.labels[train], unknown)], validation, items.groups)


def withheld(labels: Indices, without: Indices, fraction: float, rng: np.random.Generator) -> Indices:
    """Draw classes to withhold, evenly over class frequency.

    The classes in order of frequency are cut into as many runs as classes are wanted, and one is drawn from each run.

    Args:
        labels: Label index of every item (items,).
        without: Classes that are not drawn.
        fraction: Fraction of the other classes to draw.
        rng: Source of the draws.
    """
    others = np.setdiff1d(np.arange(labels.max() + 1), without)
    n_drawn = round(len(others) * fraction)
    by_frequency = others[np.argsort(np.bincount(labels)[others], kind="stable")]
    drawn = [rng.choice(run) for run in np.array_split(by_frequency, n_drawn)] if n_drawn else []
    return np.array(drawn, np.int64)


def divide(
    items: SplitItems, chosen: Indices, sizes: Sequence[int], stratify: bool, rng: np.random.Generator
) -> npt.NDArray[np.int64]:
    """Divide items at random into parts; a group stays together, and strata keep their shares.

    Args:
        items: All items.
        chosen: The items to divide (chosen,).
        sizes: Wanted size of each part, together all items. Met exactly without groups.
        stratify: Whether each part has its share of every class, to within one item without groups.
        rng: Source of the draws.

    Returns:
        The part of each chosen item (chosen,).

    References:
        The rule for groups is that of scikit-learn's StratifiedGroupKFold, for parts of any size: large groups first,
        each into the part that then departs least from its share of every class.
    """
    if not len(chosen):
        return np.empty(0, np.int64)
    if items.groups is None:
        order = rng.permutation(len(chosen))
        part = np.empty(len(chosen), np.int64)
        if not stratify:
            part[order] = np.repeat(np.arange(len(sizes)), sizes)
            return part
        # Items of one class stand together, in random order, and the parts take turns along the line.
        names = rng.permutation(items.labels.max() + 1)
        line = order[np.argsort(names[items.labels[chosen][order]], kind="stable")]
        part[line] = _turns(sizes, rng)
        return part
    strata = items.labels[chosen] if stratify else np.zeros(len(chosen), np.int64)
    _, strata = np.unique(strata, return_inverse=True)
    _, group = np.unique(items.groups[chosen], return_inverse=True)
    n_groups, n_strata = int(group.max()) + 1, int(strata.max()) + 1
    counts = np.zeros((n_groups, n_strata), np.int64)
    np.add.at(counts, (group, strata), 1)
    order = rng.permutation(n_groups)
    order = order[np.argsort(-counts[order].sum(axis=1), kind="stable")]
    share = np.asarray(sizes, np.float64) / sum(sizes)
    wanted = share[:, None] * counts.sum(axis=0)
    held = np.zeros_like(wanted)
    of_group = np.empty(n_groups, np.int64)
    for index in order:
        own = np.flatnonzero(counts[index])
        n = counts[index, own]
        # Growth of sum((held - wanted)^2 / wanted) if the group joins each part.
        growth = ((2 * (held[:, own] - wanted[:, own]) * n + n**2) / wanted[:, own]).sum(axis=1)
        of_group[index] = int(np.argmin(growth))
        held[of_group[index], own] += n
    return of_group[group]


def _turns(sizes: Sequence[int], rng: np.random.Generator) -> npt.NDArray[np.int64]:
    """Return a part for each place of a line, so that every stretch of it holds each part's share to within one."""
    places = [(np.arange(size) + rng.random()) / size for size in sizes if size]
    parts = [np.full(size, part) for part, size in enumerate(sizes) if size]
    return np.concatenate(parts)[np.argsort(np.concatenate(places), kind="stable")]


@lru_cache(maxsize=8)
def _folds(items: SplitItems, rules: SplitRules, number: int) -> npt.NDArray[np.int64]:
    """Return the fold of each item in a round of folds."""
    n_items, k = len(items.labels), rules.n_folds
    sizes = [n_items // k + (part < n_items % k) for part in range(k)]
    return divide(items, np.arange(n_items), sizes, rules.stratify, stream(number, "folds"))
