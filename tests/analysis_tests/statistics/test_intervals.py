"""Intervals, decisions and the splits that decide: known cases, inverses and their definitions."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy import stats

from analysis.statistics.intervals import (
    Decision,
    Interval,
    decide,
    interval,
    interval_of,
    interval_over_splits,
    splits_to_decide,
)
from analysis.statistics.variance import Variance


def test_an_interval_over_splits_is_scipys_paired_t() -> None:
    x, y = np.random.default_rng(1).normal(size=(2, 8))
    found = stats.ttest_rel(x, y)
    seen = interval_over_splits(x - y)
    assert seen.p_value == pytest.approx(found.pvalue)
    assert (seen.low, seen.high) == pytest.approx(tuple(found.confidence_interval()))


def test_an_interval_excludes_zero_exactly_if_its_p_value_is_below_the_level() -> None:
    for estimate in np.linspace(-0.02, 0.02, 41):
        seen = interval_of(float(estimate), 0.004, 7.3)
        assert (seen.low > 0 or seen.high < 0) == (seen.p_value < 0.05)
        joint = seen.of_several(3)
        assert (joint.low > 0 or joint.high < 0) == (joint.p_value < 0.05)
        assert joint.p_value == pytest.approx(min(1.0, 3 * seen.p_value))
        assert seen.mirrored.mirrored == seen


def test_an_interval_is_cut_to_what_the_figure_can_be() -> None:
    seen = interval_of(0.9, 0.2, 3).within(0.0, 1.0)
    assert (seen.estimate, seen.high) == (0.9, 1.0)
    assert 0 < seen.low < 0.9


@pytest.mark.parametrize(
    ("low", "high", "decision"),
    [
        (0.003, 0.005, Decision.BETTER),
        (0.001, 0.005, Decision.BETTER),
        (-0.005, -0.003, Decision.WORSE),
        (0.0005, 0.0015, Decision.SLIGHTLY_BETTER),
        (-0.0015, -0.0005, Decision.SLIGHTLY_WORSE),
        (-0.001, 0.001, Decision.EQUIVALENT),
        (-0.003, 0.001, Decision.UNDECIDED),
        (0.0, 0.002, Decision.UNDECIDED),
        (math.nan, math.nan, Decision.UNDECIDED),
    ],
)
def test_decisions(low: float, high: float, decision: Decision) -> None:
    assert decide(Interval((low + high) / 2, low, high, 0.0, 0.5, 4.0), 0.002) is decision


def test_the_splits_that_decide_do_so_with_the_power_that_they_promise() -> None:
    found = Variance(0.01, 5, 1000, training=0.02**2 / 5, residual=1e-5, items=1e-6)
    fewest, most = splits_to_decide(found, 0.002) or (0, 0)
    assert most is not None
    assert 0 < fewest < most

    def power(n_splits: int, quantile: float) -> float:
        known = found.training * 4 / float(stats.chi2.ppf(quantile, 4))
        more = found.with_splits(n_splits, known)
        return float(stats.norm.sf(stats.t.ppf(0.975, more.freedom) - found.estimate / more.standard_error))

    for n, quantile in ((fewest, 0.75), (most, 0.25)):
        assert power(5 + n, quantile) >= 0.8 > power(4 + n, quantile)


def test_splits_do_not_decide_what_hangs_on_items() -> None:
    assert splits_to_decide(Variance(0.001, 5, 1000, 1e-6, 1e-7, items=0.01**2), 0.002) is None
    assert splits_to_decide(Variance(0.001, 1, 1000, math.nan, math.nan, math.nan), 0.002) is None


def test_splits_may_decide_for_equivalence() -> None:
    found = Variance(0.0, 5, 1000, training=0.002**2, residual=0.0, items=0.0)
    fewest, _ = splits_to_decide(found, 0.004) or (0, None)
    assert fewest > 0
    assert interval(found.with_splits(5 + fewest)).high < 0.004
