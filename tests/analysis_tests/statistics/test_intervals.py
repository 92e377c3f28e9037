"""Intervals and decisions: against slow references, known cases and a simulated null."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy import stats

from analysis.statistics.intervals import (
    Components,
    Decision,
    Interval,
    components,
    decide,
    further_splits,
    holm,
    nadeau_bengio_interval,
    naive_interval,
    two_way_bootstrap,
    two_way_interval,
)


def crossed(
    random: np.random.Generator, n_splits: int, n_items: int, split: float, item: float, rest: float
) -> np.ndarray:
    """A true null with luck of splits, of items and of both, a tenth of the items missing from each split."""
    values = (
        split * random.normal(size=(n_splits, 1))
        + item * random.normal(size=(1, n_items))
        + rest * random.normal(size=(n_splits, n_items))
    )
    for row in values:
        row[random.permutation(n_items)[: n_items // 10]] = np.nan
    return values


def test_two_way_interval_is_the_formula() -> None:
    values = crossed(np.random.default_rng(0), 6, 50, 0.1, 1.0, 0.5)
    split_means = [np.mean([v for v in row if not math.isnan(v)]) for row in values]
    item_means = [np.mean([v for v in column if not math.isnan(v)]) for column in values.T]
    error = math.sqrt(np.var(split_means, ddof=1) / 6 + np.var(item_means, ddof=1) / 50)
    interval = two_way_interval(values)
    assert interval.estimate == pytest.approx(np.mean(split_means))
    assert interval.standard_error == pytest.approx(error)
    reach = stats.t.ppf(0.975, 5) * error
    assert (interval.low, interval.high) == pytest.approx((np.mean(split_means) - reach, np.mean(split_means) + reach))


def test_shared_training_items_widen_the_splits_part_alone() -> None:
    values = crossed(np.random.default_rng(0), 6, 50, 0.1, 1.0, 0.5)
    plain, wide = two_way_interval(values), two_way_interval(values, overlap=0.1)
    more = np.var(np.nanmean(values, axis=1), ddof=1) / 9
    assert wide.standard_error**2 == pytest.approx(plain.standard_error**2 + more)


def test_items_in_no_split_do_not_count() -> None:
    values = crossed(np.random.default_rng(0), 6, 50, 0.1, 1.0, 0.5)
    padded = np.concatenate([values, np.full((6, 10), np.nan)], axis=1)
    assert two_way_interval(padded) == two_way_interval(values)


def test_the_naive_interval_is_scipys_paired_t() -> None:
    x, y = np.random.default_rng(1).normal(size=(2, 8))
    found = stats.ttest_rel(x, y)
    interval = naive_interval(x - y)
    assert interval.p_value == pytest.approx(found.pvalue)
    assert (interval.low, interval.high) == pytest.approx(tuple(found.confidence_interval()))


def test_nadeau_bengio_widens_by_its_factor() -> None:
    means = np.random.default_rng(2).normal(size=10)
    corrected, naive = nadeau_bengio_interval(means, 100, 900), naive_interval(means)
    assert corrected.standard_error / naive.standard_error == pytest.approx(math.sqrt((0.1 + 9) / 0.1))


def test_components_find_what_was_put_in() -> None:
    random = np.random.default_rng(3)
    found = [components(crossed(random, 10, 400, 0.2, 0.5, 1.0)) for _ in range(40)]
    assert np.mean([parts.split_variance for parts in found]) == pytest.approx(0.2**2 + 1 / 360, rel=0.2)
    assert np.mean([parts.item_variance for parts in found]) == pytest.approx(0.5**2, rel=0.1)
    assert np.mean([parts.residual_variance for parts in found]) == pytest.approx(1.0, rel=0.05)


def test_false_positives_of_a_true_null() -> None:
    random = np.random.default_rng(4)
    called = {"naive": 0, "two-way": 0, "corrected": 0}
    for _ in range(500):
        values = crossed(random, 10, 200, 0.02, 0.5, 0.4)
        means = np.nanmean(values, axis=1)
        called["naive"] += naive_interval(means).p_value < 0.05
        called["two-way"] += two_way_interval(values).p_value < 0.05
        called["corrected"] += nadeau_bengio_interval(means, 20, 180).p_value < 0.05
    assert called["naive"] > 150
    assert 5 <= called["two-way"] <= 35
    assert called["corrected"] <= 5


def test_one_split_has_an_estimate_and_no_interval() -> None:
    interval = two_way_interval(np.array([[0.0, 1.0, 1.0]]))
    assert interval.estimate == pytest.approx(2 / 3)
    assert math.isnan(interval.low)
    assert math.isnan(interval.p_value)
    assert decide(interval, math.nan, 0.01) is Decision.UNDECIDED


def test_equal_methods_are_equivalent() -> None:
    interval = two_way_interval(np.zeros((3, 10)))
    assert interval.p_value == 1.0
    assert decide(interval, 1.0, 0.002) is Decision.EQUIVALENT


def test_no_items_to_compare() -> None:
    with pytest.raises(ValueError, match="at least one split and two items"):
        two_way_interval(np.full((2, 5), np.nan))


def test_holm_against_its_definition() -> None:
    p = np.array([0.01, 0.04, 0.03, 0.005])
    assert holm(p) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([0.5, math.nan, 0.9])[[0, 2]] == pytest.approx([1.0, 1.0])
    assert math.isnan(holm([0.5, math.nan])[1])


@pytest.mark.parametrize(
    ("low", "high", "p", "decision"),
    [
        (0.003, 0.005, 0.001, Decision.BETTER),
        (-0.005, -0.003, 0.001, Decision.WORSE),
        (-0.001, 0.001, 0.9, Decision.EQUIVALENT),
        (0.0005, 0.0015, 0.001, Decision.EQUIVALENT),
        (0.001, 0.005, 0.06, Decision.UNDECIDED),
        (-0.003, 0.001, 0.4, Decision.UNDECIDED),
    ],
)
def test_decisions(low: float, high: float, p: float, decision: Decision) -> None:
    assert decide(Interval((low + high) / 2, low, high, 0.0, p), p, 0.002) is decision


def test_further_splits_decide_and_one_fewer_do_not() -> None:
    parts = Components(0.01, 0.02**2, 1e-4, 0.0, 5, 1000)
    more = further_splits(parts, 0.002)
    assert more is not None

    def decided(n_splits: int) -> bool:
        reach = float(stats.t.ppf(0.975, n_splits - 1)) * parts.standard_error(n_splits)
        return abs(parts.estimate) > reach

    assert decided(5 + more)
    assert not decided(5 + more - 1)
    assert (further_splits(parts, 0.002, n_tests=4) or 0) > more


def test_no_number_of_splits_makes_up_for_few_items() -> None:
    assert further_splits(Components(0.001, 1e-6, 1.0, 0.0, 5, 100), 0.002) is None
    assert further_splits(Components(0.001, math.nan, math.nan, math.nan, 1, 100), 0.002) is None


def test_the_bootstrap_of_a_mean_agrees_with_the_interval() -> None:
    values = np.random.default_rng(5).normal(size=(20, 300)) + np.random.default_rng(6).normal(size=(1, 300))

    def mean(of_splits: np.ndarray, of_items: np.ndarray) -> np.ndarray:
        return np.asarray(of_splits @ values @ of_items / (of_splits.sum() * of_items.sum()))

    draws = two_way_bootstrap(mean, 20, 300, draws=800, seed=0)
    assert draws.std() == pytest.approx(two_way_interval(values).standard_error, rel=0.1)
    assert np.array_equal(draws, two_way_bootstrap(mean, 20, 300, draws=800, seed=0))
