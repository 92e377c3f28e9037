"""The variance of a mean difference: against slow references, simulated components and a simulated null."""

from __future__ import annotations

import math

import numpy as np
import pytest

from analysis.statistics.intervals import interval
from analysis.statistics.simultaneous import simultaneous
from analysis.statistics.variance import Effects, Variance, variance
from trainables.records.types import Design


def crossed(
    random: np.random.Generator,
    n_splits: int,
    n_items: int,
    split: float,
    item: float,
    rest: float,
    shared: np.ndarray | None = None,
) -> np.ndarray:
    """A true null with luck of splits, of items and of both; each split misses another tenth of the items."""
    items = item * random.normal(size=n_items) if shared is None else shared
    values = split * random.normal(size=(n_splits, 1)) + items + rest * random.normal(size=(n_splits, n_items))
    for row, fold in zip(values, np.array_split(random.permutation(n_items), 10), strict=False):
        row[fold] = np.nan
    return values


def test_effects_are_those_of_least_squares() -> None:
    values = crossed(np.random.default_rng(0), 4, 30, 0.3, 1.0, 0.5)
    there = np.isfinite(values)
    rows = np.argwhere(there)
    matrix = np.zeros((len(rows) + 1, 34))
    for place, (split, item) in enumerate(rows):
        matrix[place, split] = matrix[place, 4 + item] = 1
    matrix[-1, :4] = 1  # the splits' effects add up to 0
    solved = np.linalg.lstsq(matrix, np.append(values[there], 0.0), rcond=None)[0]
    found, effects = variance(values, Design.OFFICIAL)
    assert effects.splits == pytest.approx(solved[:4])
    assert effects.items == pytest.approx(solved[4:] - solved[4:].mean())
    assert found.estimate == pytest.approx(np.nanmean(values, axis=1).mean())
    residuals = values - solved[:4, None] - solved[None, 4:]
    freedom = len(rows) - 4 - 30 + 1
    assert found.residual == pytest.approx(np.nansum(residuals**2) / freedom / (4 * 30))
    assert found.training == pytest.approx(solved[:4].var(ddof=1) / 4)
    items = solved[4:].var(ddof=1) / 30 - np.nansum(residuals**2) / freedom / len(rows)
    assert found.items == pytest.approx(items)
    assert found.total == pytest.approx(max(found.training, found.residual) + items)


def test_the_parts_are_found_again() -> None:
    random = np.random.default_rng(3)
    found = [variance(crossed(random, 10, 400, 0.2, 0.5, 1.0), Design.REVERSE_FOLDS)[0] for _ in range(60)]
    assert np.mean([one.training for one in found]) == pytest.approx((0.2**2 + 1 / 360) / 10, rel=0.2)
    assert np.mean([one.items for one in found]) == pytest.approx(0.5**2 / 400, rel=0.1)
    assert np.mean([one.residual for one in found]) == pytest.approx(1.0 / 4000, rel=0.05)
    assert np.mean([one.own_items for one in found]) == pytest.approx(0.0, abs=5e-4)


@pytest.mark.parametrize("design", [Design.REVERSE_FOLDS, Design.RANDOM])
def test_what_helps_a_split_and_its_items_alike_is_counted(design: Design) -> None:
    # The luck of a split is the mean of its own items' effects: then the two parts of the mean are the same number.
    random = np.random.default_rng(5)
    estimates, without, whole = [], [], []
    for _ in range(400):
        items = random.normal(size=200)
        values = items + 0.3 * random.normal(size=(10, 200))
        order = random.permutation(200)
        for place, row in enumerate(values):
            own = order[20 * place :][:20] if design is Design.REVERSE_FOLDS else random.permutation(200)[:20]
            row += items[own].mean()
            row[own] = np.nan
        found, _ = variance(values, design, shared=0.1)
        estimates.append(found.estimate)
        without.append(found.total - max(found.own_items, 0.0))
        whole.append(found.total)
    assert np.mean(without) < 0.7 * np.var(estimates)
    assert np.mean(whole) == pytest.approx(np.var(estimates), rel=0.15)


def test_shared_training_items_widen_random_splits_alone() -> None:
    values = crossed(np.random.default_rng(0), 6, 50, 0.5, 1.0, 0.5)
    plain, _ = variance(values, Design.RANDOM)
    wide, _ = variance(values, Design.RANDOM, shared=0.1)
    # A tenth is shared: f / (1 - f) is 1/9. The covariance of sets that share it is 9/10 of the whole.
    assert wide.own_items == pytest.approx(plain.own_items * 10 / 9)
    own = max(wide.own_items, 0.0) - max(plain.own_items, 0.0)
    assert wide.total - plain.total - own == pytest.approx(6 * (plain.training - plain.residual) / 9)
    assert variance(values, Design.OFFICIAL, shared=0.1)[0].shared == 0.0


def test_folds_have_one_variance_within_and_one_between() -> None:
    random = np.random.default_rng(1)
    values = np.full((5, 100), np.nan)
    for row, fold in zip(values, np.array_split(random.permutation(100), 5), strict=True):
        row[fold] = random.normal(size=20)
    found, _ = variance(values, Design.FOLDS)
    means = np.nanmean(values, axis=1)
    within = np.nansum((values - means[:, None]) ** 2) / 95 / 100
    assert (found.training, found.residual) == pytest.approx((means.var(ddof=1) / 5, within))
    assert found.total == pytest.approx(max(means.var(ddof=1) / 5, within))
    assert found.freedom == (95 if within >= found.training else 4)


def test_degrees_of_freedom_are_those_of_the_least_known_part() -> None:
    found = Variance(0.0, 3, 1000, training=2.0, residual=0.5, items=1.0)
    assert found.freedom == pytest.approx(2 * (3.0 / 2.0) ** 2)
    assert Variance(0.0, 3, 1000, training=2.0, residual=0.5, items=0.0).freedom == 2.0


def test_items_without_a_value_do_not_count() -> None:
    values = crossed(np.random.default_rng(0), 6, 50, 0.1, 1.0, 0.5)
    padded = np.concatenate([values, np.full((6, 10), np.nan)], axis=1)
    found, effects = variance(padded, Design.REVERSE_FOLDS)
    assert found.total == pytest.approx(variance(values, Design.REVERSE_FOLDS)[0].total)
    assert effects.items.shape == (60,)


def test_a_figure_over_some_of_the_tested_items_knows_which_items_train() -> None:
    values = crossed(np.random.default_rng(0), 6, 200, 0.1, 1.0, 0.5)
    tested = np.isfinite(values)
    some = values.copy()
    some[:, ::2] = np.nan  # such as items of unknown classes
    some[0, ::3] = np.nan
    found, _ = variance(some, Design.REVERSE_FOLDS, tested=tested)
    kept = np.isfinite(some).any(axis=0)
    again, _ = variance(some[:, kept], Design.REVERSE_FOLDS, tested=tested[:, kept])
    assert found.own_items == pytest.approx(again.own_items)
    assert found.own_items != variance(some, Design.REVERSE_FOLDS)[0].own_items


def test_false_positives_of_a_true_null() -> None:
    random = np.random.default_rng(4)
    called = 0
    for _ in range(500):
        seen = interval(variance(crossed(random, 10, 200, 0.02, 0.5, 0.4), Design.REVERSE_FOLDS)[0])
        called += seen.p_value < 0.05
    assert 10 <= called <= 37  # 25 are expected; the bounds are beyond three standard errors and half of that


def test_one_split_has_an_estimate_and_no_interval() -> None:
    found, _ = variance(np.array([[0.0, 1.0, 1.0]]), Design.RANDOM)
    seen = interval(found)
    assert seen.estimate == pytest.approx(2 / 3)
    assert math.isnan(seen.low)
    assert math.isnan(seen.p_value)


def test_nothing_to_compare() -> None:
    with pytest.raises(ValueError, match="at least one split and two items"):
        variance(np.full((2, 5), np.nan), Design.RANDOM)


def test_one_comparison_is_no_narrower_than_its_own_interval() -> None:
    parts = variance(crossed(np.random.default_rng(0), 6, 50, 0.1, 1.0, 0.5), Design.OFFICIAL)
    (joint,) = simultaneous([parts])
    single = interval(parts[0])
    assert joint.estimate == single.estimate
    assert single.high <= joint.high < single.high + parts[0].standard_error


def test_joint_intervals_are_wider_than_single_ones_and_exclude_zero_as_their_p_values_say() -> None:
    random = np.random.default_rng(0)
    parts = [variance(crossed(random, 6, 200, 0.1, 1.0, 0.5), Design.OFFICIAL) for _ in range(5)]
    for own, joint in zip(parts, simultaneous(parts), strict=True):
        single, (alone,) = interval(own[0]), simultaneous([own])
        assert joint.low < alone.low <= single.low < single.high <= alone.high < joint.high
        assert single.p_value <= joint.p_value <= 1
        assert (joint.low > 0 or joint.high < 0) == (joint.p_value < 0.05)


def test_equal_differences_are_one_comparison() -> None:
    parts = variance(crossed(np.random.default_rng(0), 6, 200, 0.1, 1.0, 0.5), Design.OFFICIAL)
    (alone,) = simultaneous([parts])
    for joint in simultaneous([parts, parts]):
        assert joint.high == pytest.approx(alone.high, rel=0.05)


def test_methods_that_share_a_control_pay_less_for_being_several() -> None:
    random = np.random.default_rng(0)
    effects = random.normal(size=(7, 400))
    none = np.zeros((6, 400))
    apart = [variance(none + effects[k] * 2**0.5, Design.OFFICIAL) for k in range(1, 7)]
    shared = [variance(none + effects[k] - effects[0], Design.OFFICIAL) for k in range(1, 7)]

    def width(parts: list[tuple[Variance, Effects]]) -> float:
        seen = zip(parts, simultaneous(parts), strict=True)
        return float(np.mean([(one.high - one.low) / own.standard_error for (own, _), one in seen]))

    assert width(shared) < width(apart)


def test_any_false_positive_among_several_methods_is_as_rare_as_promised() -> None:
    random = np.random.default_rng(6)
    called = 0
    for _ in range(200):
        luck = random.normal(size=(5, 4, 1)) * 0.07
        values = luck + random.normal(size=(5, 1, 60)) * 0.5 + 0.3 * random.normal(size=(5, 4, 60))
        seen = simultaneous([variance(own - values[0], Design.OFFICIAL) for own in values[1:]])
        called += any(one.low > 0 or one.high < 0 for one in seen)
    assert called <= 23  # 10 are expected
