"""Splits are functions of their seeds alone, and partition the items."""

import numpy as np
import pytest

from trainables.sampling.splits import Split, make_split, n_train_items, searched_items, withhold
from trainables.sampling.streams import stream


@pytest.mark.parametrize("phase", ["paper", "confirm"])
@pytest.mark.parametrize("seed", [0, 3, 11])
def test_partition(phase: str, seed: int) -> None:
    split = make_split(1003, 0.1, phase, seed)
    assert len(split.train) == n_train_items(1003, 0.1, phase)
    left_out = searched_items(1003, 0.1) if phase == "confirm" else []
    expected = np.setdiff1d(np.arange(1003), np.setdiff1d(left_out, split.train))
    np.testing.assert_array_equal(np.sort(np.concatenate([split.train, split.validation])), expected)
    again = make_split(1003, 0.1, phase, seed)
    np.testing.assert_array_equal(split.train, again.train)


def test_confirm_folds_of_a_round_are_disjoint() -> None:
    folds = [make_split(1003, 0.1, "confirm", seed).train for seed in range(10)]
    assert len(np.unique(np.concatenate(folds))) == sum(map(len, folds))
    assert not np.array_equal(folds[0], make_split(1003, 0.1, "confirm", 10).train)


def test_a_search_split_stays_inside_a_training_fold() -> None:
    for seed, fold in ((0, 0), (2, 2), (4, 1), (12, 0)):
        whole = make_split(1003, 0.1, "confirm", fold)
        inner = make_split(1003, 0.1, "search", seed)
        assert len(inner.train) == n_train_items(1003, 0.1, "search") == 80
        np.testing.assert_array_equal(np.sort(np.concatenate([inner.train, inner.validation])), whole.train)
    assert not np.array_equal(make_split(1003, 0.1, "search", 0).train, make_split(1003, 0.1, "search", 12).train)


@pytest.mark.parametrize("train_fraction", [0.05, 0.1, 0.2, 1 / 3])
def test_nothing_that_is_tested_was_searched(train_fraction: float) -> None:
    searches = [make_split(600, train_fraction, "search", seed) for seed in range(40)]
    seen = np.unique(np.concatenate([np.concatenate([split.train, split.validation]) for split in searches]))
    np.testing.assert_array_equal(seen, searched_items(600, train_fraction))
    labels = np.arange(600) % 12
    for seed in range(40):
        split = make_split(600, train_fraction, "confirm", seed)
        assert len(split.validation) >= 600 // 3
        withheld = withhold(split, labels, np.array([3]), 0.3, "confirm", seed, seen)
        for tested in (split.validation, withheld.validation):
            assert not np.intersect1d(tested, seen).size
            assert not np.intersect1d(tested, split.train[~np.isin(split.train, withheld.validation)]).size


def test_streams_differ_by_seed_and_purpose() -> None:
    draws = {(seed, name): stream(seed, name).random() for seed in (0, 1) for name in ("order", "weights")}
    assert len(set(draws.values())) == 4
    assert stream(1, "order").random() == draws[1, "order"]


def test_withheld_classes_are_validated_and_not_trained_on() -> None:
    rng = np.random.default_rng(0)
    share = 1 / np.arange(1, 31)
    labels = rng.choice(30, 2000, p=share / share.sum())
    split = make_split(2000, 0.3, "paper", 4)
    assert withhold(split, labels, np.array([], np.int64), 0, "paper", 4).train.tolist() == split.train.tolist()
    named = withhold(split, labels, np.array([0, 7]), 0, "paper", 4)
    assert set(labels[split.train]) - set(labels[named.train]) == {0, 7}
    np.testing.assert_array_equal(np.sort(np.concatenate([named.train, named.validation])), np.arange(2000))
    drawn = withhold(split, labels, np.array([7]), 0.2, "paper", 4)
    gone = set(range(30)) - set(labels[drawn.train])
    assert 7 in gone
    by_frequency = np.argsort(np.bincount(labels))
    thirds = [len(gone & set(run)) for run in np.array_split(by_frequency, 3)]
    assert min(thirds) >= 2, "drawn evenly over class frequency"
    again = withhold(split, labels, np.array([7]), 0.2, "paper", 4)
    np.testing.assert_array_equal(drawn.train, again.train)
    other = withhold(make_split(2000, 0.3, "paper", 5), labels, np.array([7]), 0.2, "paper", 5)
    assert set(range(30)) - set(labels[other.train]) != gone


def test_search_and_confirmation_withhold_other_classes() -> None:
    """For one seed, and no more alike than for two: what a search chooses must not be tuned to the classes tested."""
    labels, named = np.arange(3000) % 30, np.array([], np.int64)
    everything = Split(np.arange(3000), np.array([], np.int64))

    def withheld(phase: str, seed: int) -> set[int]:
        return set(labels[withhold(everything, labels, named, 0.3, phase, seed).validation].tolist())

    shared = [len(withheld("search", seed) & withheld("confirm", seed)) for seed in range(200)]
    assert np.mean(shared) == pytest.approx(9 * 0.3, abs=0.4), "of 9 classes"
    assert withheld("search", 3) == withheld("search", 3)
