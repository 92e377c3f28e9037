"""Splits are functions of the items, the rules and their seeds alone."""

import numpy as np
import pytest

from trainables.records.types import Design, SplitId
from trainables.sampling.splits import (
    Role,
    Split,
    SplitItems,
    SplitRules,
    hold_out,
    inner_split,
    outer_split,
    split_of,
)
from trainables.sampling.streams import stream

N = 1003


def some_items(n_classes: int = 30, n: int = N, **given: np.ndarray) -> SplitItems:
    """Items of classes of very different sizes."""
    share = 1 / np.arange(1, n_classes + 1)
    return SplitItems(np.random.default_rng(0).choice(n_classes, n, p=share / share.sum()), **given)


RULES = {
    Design.REVERSE_FOLDS: SplitRules(Design.REVERSE_FOLDS, 0.1),
    Design.RANDOM: SplitRules(Design.RANDOM, 0.1),
    Design.FOLDS: SplitRules(Design.FOLDS, 0.8),
}


@pytest.mark.parametrize("stratify", [False, True])
@pytest.mark.parametrize("design", RULES)
@pytest.mark.parametrize("seed", [0, 3, 11])
def test_a_split_is_a_partition_and_the_same_again(design: Design, seed: int, stratify: bool) -> None:
    items, rules = some_items(), SplitRules(design, RULES[design].train_fraction, stratify)
    split = outer_split(items, rules, seed)
    assert abs(len(split.train) - rules.n_train(items)) <= 1
    np.testing.assert_array_equal(np.sort(np.concatenate([split.train, split.validation])), np.arange(N))
    np.testing.assert_array_equal(split.train, outer_split(some_items(), rules, seed).train)
    if stratify:
        counts, share = np.bincount(items.labels[split.train], minlength=30), len(split.train) / N
        assert np.abs(counts - share * np.bincount(items.labels)).max() <= 1.01


def test_folds_of_a_round_are_disjoint_and_complete() -> None:
    items = some_items()
    trained = [outer_split(items, RULES[Design.REVERSE_FOLDS], seed).train for seed in range(10)]
    tested = [outer_split(items, RULES[Design.FOLDS], seed).validation for seed in range(5)]
    for parts in (trained, tested):
        np.testing.assert_array_equal(np.sort(np.concatenate(parts)), np.arange(N))
    assert not np.array_equal(trained[0], outer_split(items, RULES[Design.REVERSE_FOLDS], 10).train)


@pytest.mark.parametrize("design", RULES)
@pytest.mark.parametrize("stratify", [False, True])
def test_a_group_is_on_one_side_of_outer_and_inner_splits(design: Design, stratify: bool) -> None:
    items = some_items(8, groups=np.random.default_rng(1).integers(0, 150, N))
    rules = SplitRules(design, RULES[design].train_fraction, stratify)
    assert items.groups is not None
    for seed in range(3):
        for split in (outer_split(items, rules, seed), inner_split(items, rules, seed, 0)):
            assert not np.intersect1d(items.groups[split.train], items.groups[split.validation]).size
            assert len(split.train)
            assert len(split.validation)
        whole = outer_split(items, rules, seed)
        assert len(whole.train) + len(whole.validation) == N
        assert abs(len(whole.train) / N - rules.train_fraction) < 0.03


def test_official_splits_are_the_tables() -> None:
    roles = np.array([Role.TRAIN, Role.TRAIN, Role.VALIDATION, Role.TEST])[np.arange(N) % 4]
    items, rules = some_items(6, roles=roles), SplitRules(Design.OFFICIAL, 0.1, inner_unknown_fraction=0)
    for seed in range(3):
        split, inner = outer_split(items, rules, seed), inner_split(items, rules, seed, 0)
        np.testing.assert_array_equal(split.train, np.flatnonzero(roles == "train"))
        np.testing.assert_array_equal(split.validation, np.flatnonzero(roles == "test"))
        np.testing.assert_array_equal(inner.train, split.train)
        np.testing.assert_array_equal(inner.validation, np.flatnonzero(roles == "validation"))
    assert rules.n_train(items) == rules.n_trained(items, "search") == (roles == "train").sum()
    without = SplitItems(items.labels, roles=np.where(roles == "validation", "train", roles))
    cut = inner_split(without, rules, 0, 0)
    np.testing.assert_array_equal(
        np.sort(np.concatenate([cut.train, cut.validation])), np.flatnonzero(without.roles != "test")
    )


@pytest.mark.parametrize("design", RULES)
def test_an_inner_split_sees_only_the_training_items_of_its_split(design: Design) -> None:
    items, rules = some_items(), RULES[design]
    seen = set()
    for seed, inner in ((0, 0), (0, 1), (4, 0)):
        whole, split = outer_split(items, rules, seed), inner_split(items, rules, seed, inner)
        assert np.isin(np.concatenate([split.train, split.validation]), whole.train).all()
        assert not np.intersect1d(split.train, split.validation).size
        assert len(split.validation) == len(whole.train) - round(0.8 * len(whole.train))
        classes, inside = set(items.labels[whole.train]), set(items.labels[split.train])
        withheld = {c for c in classes - inside if (items.labels[split.validation] == c).any()}
        assert withheld, 'some validation items are "none"'
        assert len(split.train) <= rules.n_trained(items, "search")
        seen.add(tuple(split.train))
    assert len(seen) == 3
    np.testing.assert_array_equal(split_of(items, rules, SplitId(4, 0)).train, inner_split(items, rules, 4, 0).train)
    np.testing.assert_array_equal(split_of(items, rules, SplitId(4)).train, outer_split(items, rules, 4).train)


def test_an_inner_split_of_two_classes_withholds_none() -> None:
    items = SplitItems(np.arange(400) % 2)
    split = inner_split(items, SplitRules(Design.RANDOM, 0.5), 0, 0)
    assert set(items.labels[split.train]) == {0, 1}


def test_streams_differ_by_seed_and_purpose() -> None:
    draws = {(seed, name): stream(seed, name).random() for seed in (0, 1) for name in ("order", "weights")}
    assert len(set(draws.values())) == 4
    assert stream(1, "order").random() == draws[1, "order"]
    assert len({SplitId(seed, inner).stream_seed for seed in range(3) for inner in (None, 0, 1)}) == 9


def test_withheld_classes_are_tested_and_not_trained_on() -> None:
    items = some_items(n=2000)
    split = outer_split(items, SplitRules(Design.RANDOM, 0.3), 4)
    named = outer_split(items, SplitRules(Design.RANDOM, 0.3, unknown_classes=(0, 7)), 4)
    np.testing.assert_array_equal(named.train, split.train[~np.isin(items.labels[split.train], [0, 7])])
    np.testing.assert_array_equal(named.validation, split.validation)
    drawing = SplitRules(Design.RANDOM, 0.3, unknown_classes=(7,), unknown_class_fraction=0.2)
    drawn = outer_split(items, drawing, 4)
    gone = set(range(30)) - set(items.labels[drawn.train])
    assert 7 in gone
    by_frequency = np.argsort(np.bincount(items.labels))
    thirds = [len(gone & set(run)) for run in np.array_split(by_frequency, 3)]
    assert min(thirds) >= 2, "drawn evenly over class frequency"
    np.testing.assert_array_equal(drawn.train, outer_split(items, drawing, 4).train)
    assert set(range(30)) - set(items.labels[outer_split(items, drawing, 5).train]) != gone


def test_inner_splits_withhold_other_classes_than_their_split() -> None:
    """What a search chooses must not be tuned to the classes that are tested."""
    items = SplitItems(np.arange(3000) % 30)
    rules = SplitRules(Design.RANDOM, 0.5, unknown_class_fraction=0.3, inner_unknown_fraction=0.3)

    def gone(split: Split) -> set[int]:
        return set(range(30)) - set(items.labels[split.train])

    for seed in range(10):
        outer, inner = gone(outer_split(items, rules, seed)), gone(inner_split(items, rules, seed, 0))
        assert len(outer) == 9
        assert len(inner - outer) == 6, "three tenths of the 21 classes that are left"
        assert outer <= inner


def test_a_group_is_on_one_side_of_what_early_stopping_holds_out() -> None:
    items = some_items(8, groups=np.random.default_rng(1).integers(0, 150, N))
    assert items.groups is not None
    for which in (SplitId(0), SplitId(0, 0)):
        split = split_of(items, RULES[Design.FOLDS], which)
        kept, held_out = hold_out(split, 0.1, which.stream_seed)
        assert not np.intersect1d(items.groups[kept.train], items.groups[held_out]).size
        np.testing.assert_array_equal(np.union1d(kept.train, held_out), split.train)
        assert len(held_out) == pytest.approx(0.1 * len(split.train), rel=0.1)
    plain = split_of(some_items(), RULES[Design.FOLDS], SplitId(0))
    assert len(hold_out(plain, 0.1, 0)[1]) == round(0.1 * len(plain.train))
