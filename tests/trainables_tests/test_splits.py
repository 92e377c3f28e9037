"""Splits are functions of their seeds alone, and partition the items."""

import numpy as np
import pytest

from trainables.splits import make_split, n_train_items, stream


@pytest.mark.parametrize("phase", ["paper", "confirm"])
@pytest.mark.parametrize("seed", [0, 3, 11])
def test_partition(phase: str, seed: int) -> None:
    split = make_split(1003, 0.1, phase, seed)
    assert len(split.train) == n_train_items(1003, 0.1, phase)
    np.testing.assert_array_equal(np.sort(np.concatenate([split.train, split.validation])), np.arange(1003))
    again = make_split(1003, 0.1, phase, seed)
    np.testing.assert_array_equal(split.train, again.train)


def test_confirm_folds_of_a_round_are_disjoint() -> None:
    folds = [make_split(1003, 0.1, "confirm", seed).train for seed in range(10)]
    assert len(np.unique(np.concatenate(folds))) == sum(map(len, folds))
    assert not np.array_equal(folds[0], make_split(1003, 0.1, "confirm", 10).train)


def test_a_search_split_stays_inside_its_training_fold() -> None:
    for seed in (0, 4, 12):
        fold = make_split(1003, 0.1, "confirm", seed)
        inner = make_split(1003, 0.1, "search", seed)
        assert len(inner.train) == n_train_items(1003, 0.1, "search") == 80
        np.testing.assert_array_equal(np.sort(np.concatenate([inner.train, inner.validation])), fold.train)


def test_streams_differ_by_seed_and_purpose() -> None:
    draws = {(seed, name): stream(seed, name).random() for seed in (0, 1) for name in ("order", "weights")}
    assert len(set(draws.values())) == 4
    assert stream(1, "order").random() == draws[1, "order"]
