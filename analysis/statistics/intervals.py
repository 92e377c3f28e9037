"""Intervals of a mean difference, the decision that follows from one, and the splits that would decide."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from enum import StrEnum

import numpy as np
from scipy import stats

from analysis.format import signed
from analysis.statistics.variance import Values, Variance

# Rate of false positives of intervals and decisions.
LEVEL = 0.05

# The probability of a decision that `splits_to_decide` aims at.
POWER = 0.8

# Further splits to consider: where more are needed, more items are the better remedy.
_MAX_FURTHER_SPLITS = 1000


class Decision(StrEnum):
    """The result of a comparison with a control."""

    BETTER = "better"
    SLIGHTLY_BETTER = "slightly better"
    EQUIVALENT = "equivalent"
    SLIGHTLY_WORSE = "slightly worse"
    WORSE = "worse"
    UNDECIDED = "undecided"
    NOT_CONVERGED = "not converged"


@dataclass(frozen=True)
class Interval:
    """A mean difference with its interval; all but the estimate are NaN with one split.

    Attributes:
        estimate: Mean difference.
        low: Lower end of the interval.
        high: Upper end of the interval.
        standard_error: Standard error of the estimate.
        p_value: Two-sided p-value of no difference.
        freedom: Degrees of freedom of the standard error.
    """

    estimate: float
    low: float
    high: float
    standard_error: float
    p_value: float
    freedom: float

    @property
    def ends(self) -> str:
        """The interval as text, "−0.0010 to +0.0200"; empty with one split."""
        return f"{signed(self.low)} to {signed(self.high)}" if math.isfinite(self.low) else ""

    def within(self, low: float, high: float) -> Interval:
        """Return the interval cut to what the figure can be."""
        return replace(self, low=max(self.low, low), high=min(self.high, high))

    @property
    def mirrored(self) -> Interval:
        """The interval of the opposite difference."""
        return replace(self, estimate=-self.estimate, low=-self.high, high=-self.low)

    def of_several(self, n: int) -> Interval:
        """Return the interval, and the p-value, that hold together with those of n - 1 others (Bonferroni)."""
        p = min(1.0, n * self.p_value)
        return interval_of(self.estimate, self.standard_error, self.freedom, level=LEVEL / n, p_value=p)


def interval_of(
    estimate: float, standard_error: float, freedom: float, *, level: float = LEVEL, p_value: float | None = None
) -> Interval:
    """Return Student's interval of an estimate, and its p-value.

    Args:
        estimate: Mean difference.
        standard_error: Its standard error; NaN gives an interval of NaN.
        freedom: Degrees of freedom, not always an integer; below 1 gives an interval of NaN.
        level: One minus the confidence.
        p_value: The p-value, where it is already adjusted.
    """
    if freedom < 1 or math.isnan(standard_error):
        return Interval(estimate, math.nan, math.nan, math.nan, math.nan, freedom)
    reach = float(stats.t.ppf(1 - level / 2, freedom)) * standard_error
    if p_value is None and standard_error == 0.0:
        p_value = 1.0 if estimate == 0.0 else 0.0
    elif p_value is None:
        p_value = float(2 * stats.t.sf(abs(estimate) / standard_error, freedom))
    return Interval(estimate, estimate - reach, estimate + reach, standard_error, p_value, freedom)


def interval(found: Variance) -> Interval:
    """Return the 95 % interval of one mean difference."""
    return interval_of(found.estimate, found.standard_error, found.freedom)


def interval_over_splits(values: Values) -> Interval:
    """Return the paired t interval of a mean over splits (splits,): too narrow, since splits share items."""
    n_splits = len(values)
    error = math.sqrt(float(np.var(values, ddof=1)) / n_splits) if n_splits > 1 else math.nan
    return interval_of(float(np.mean(values)), error, n_splits - 1)


def decide(seen: Interval, region: float) -> Decision:
    """Return what an interval says of a difference.

    Better or worse: zero is outside the interval. Slightly so: the whole interval is also inside the region of
    equivalence, so that the difference is certain, and certainly too small to matter.

    Args:
        seen: Of method minus control; higher is better.
        region: Half width of the region of practical equivalence, above 0.
    """
    inside = -region < seen.low and seen.high < region
    if seen.low > 0:
        return Decision.SLIGHTLY_BETTER if inside else Decision.BETTER
    if seen.high < 0:
        return Decision.SLIGHTLY_WORSE if inside else Decision.WORSE
    return Decision.EQUIVALENT if inside else Decision.UNDECIDED


def splits_to_decide(found: Variance, region: float, level: float = LEVEL) -> tuple[int, int | None] | None:
    """Return how many splits decide an undecided comparison with a power of 80 %, if its estimate is the true one.

    The variance of the training draw is known from J splits alone: the range holds its middle half.

    Args:
        found: Variance of the difference.
        region: Half width of the region of practical equivalence, above 0.
        level: One minus the confidence of the interval that decides.

    Returns:
        The smallest and the largest number of splits to add, the largest None where it is above 1,000; None with one
        split, and if even 1,000 more splits would not decide.
    """
    if found.n_splits < 2:
        return None
    degrees = found.n_splits - 1
    low, high = (found.training * degrees / float(stats.chi2.ppf(q, degrees)) for q in (0.75, 0.25))
    fewest = _needed(found, region, level, low)
    return None if fewest is None else (fewest, _needed(found, region, level, high))


def _needed(found: Variance, region: float, level: float, training: float) -> int | None:
    n_splits = found.n_splits + np.arange(1, _MAX_FURTHER_SPLITS + 1)
    for further in n_splits:
        more = found.with_splits(int(further), training)
        error, t = more.standard_error, float(stats.t.ppf(1 - level / 2, more.freedom))
        if error == 0.0:
            return int(further) - found.n_splits
        away = abs(found.estimate) / error
        called = stats.norm.sf(t - away)
        inside = region / error - t  # how far from 0 the estimate may be for its interval to lie inside the region
        equivalent = stats.norm.cdf(inside - away) - stats.norm.cdf(-inside - away) if inside > 0 else 0.0
        if max(called, equivalent) >= POWER:
            return int(further) - found.n_splits
    return None
