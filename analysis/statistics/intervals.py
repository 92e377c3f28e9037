"""How sure a difference between two methods is.

All splits of a study share nearly the same validation items: with 10 % training, two splits have nine items in ten
in common. A difference over such splits carries two kinds of luck, that of the training draw, which differs from split
to split, and that of the items, which is the same in all. A paired t over splits sees the first alone, and calls
true nulls differences; the correction of Nadeau and Bengio, made for the reverse ratio of training to testing,
almost never calls anything one. The two-way interval counts both, each from the data.

How many of 100 studies call a difference at nominal 5 %, by simulation of the protocol with 2,000 items and true
differences of 0 and more (`python tests/benchmarks/bench_analysis_intervals.py`, 1,000 studies a row, so ± 1.4):

    figure          J   true difference   naive   two-way   with overlap   Nadeau-Bengio
    accuracy        3        0             9.5      0.0         0.0            0.4
    weighted AUC    3        0            13.1      0.3         0.3            0.2
    accuracy        5        0            18.5      0.8         0.6            0.1
    weighted AUC    5        0            25.9      2.1         1.4            0.0
    accuracy       10        0            34.3      3.8         2.5            0.0
    weighted AUC   10        0            45.5      5.6         3.6            0.0
    accuracy        3        0.0140       18.6      0.1         0.1            0.6
    weighted AUC    3        0.0077       39.4      4.3         3.5            1.8
    accuracy        5        0.0141       39.3      6.5         4.8            0.3
    weighted AUC    5        0.0074       69.8     30.3        25.1            0.9
    accuracy       10        0.0143       62.8     19.6        14.9            0.0
    weighted AUC   10        0.0076       87.5     53.7        46.9            0.4

With 1,000 items, of which 100 train, the two-way interval of the weighted AUC at J = 10 calls 7.6 true nulls in 100,
and 5.0 `with overlap`, which also counts the training items that random splits share (`two_way_interval`). With three
splits the two-way interval is very wide: Student's t has two degrees of freedom.

References:
    Owen (2007), "The pigeonhole bootstrap", https://doi.org/10.1214/07-AOAS122: variance of a mean over two crossed
        random factors, and that the sum of the two one-way variances errs on the large side.
    Nadeau and Bengio (2003), "Inference for the Generalization Error", https://doi.org/10.1023/A:1024068626366.
    Holm (1979), "A Simple Sequentially Rejective Multiple Test Procedure", https://www.jstor.org/stable/4615733.
    Schuirmann (1987), https://doi.org/10.1007/BF01068419: equivalence as an interval inside a region.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum

import numpy as np
import numpy.typing as npt
from scipy import stats

from analysis.format import signed

Values = npt.NDArray[np.floating]

LEVEL = 0.05

"""Rate of false positives that the intervals and decisions aim at."""

_MOST_SPLITS = 1000

"""Further splits beyond which more splits are not the answer."""


class Decision(StrEnum):
    """What the data say of a difference."""

    BETTER = "better"
    EQUIVALENT = "equivalent"
    WORSE = "worse"
    UNDECIDED = "undecided"


@dataclass(frozen=True)
class Interval:
    """A mean difference and what is known of it.

    Attributes:
        estimate: Mean difference.
        low: Lower end of the 95 % interval; NaN with one split.
        high: Upper end.
        standard_error: Standard error of the estimate.
        p_value: Two-sided, of no difference.
    """

    estimate: float
    low: float
    high: float
    standard_error: float
    p_value: float

    @property
    def ends(self) -> str:
        """The interval in words, "−0.0010 to +0.0200"; empty where there is none."""
        return f"{signed(self.low)} to {signed(self.high)}" if math.isfinite(self.low) else ""


@dataclass(frozen=True)
class Components:
    """The kinds of luck in a difference, for J splits of n items.

    Attributes:
        estimate: Mean difference over splits.
        split_variance: Variance of the split means; divided by J, their share of the estimate's variance.
        item_variance: Variance over items that more splits would not lessen.
        residual_variance: Variance of what neither split nor item explains.
        n_splits: J.
        n_items: n, items in at least one split.
    """

    estimate: float
    split_variance: float
    item_variance: float
    residual_variance: float
    n_splits: int
    n_items: int

    def standard_error(self, n_splits: int | None = None) -> float:
        """The two-way standard error, with these or another number of splits.

        With J splits it is sqrt(s²(split means)/J + s²(item means)/n).
        """
        j = self.n_splits if n_splits is None else n_splits
        items = self.item_variance + self.residual_variance / j
        return math.sqrt(self.split_variance / j + items / self.n_items)


def components(difference: Values) -> Components:
    """Splits the variance of paired differences between splits, items and the rest.

    Args:
        difference: (splits, items), of one item in one split; NaN where the split does not validate on the item.

    Raises:
        ValueError: A split has no item, or there are fewer than two items.
    """
    there = np.isfinite(difference)
    if difference.shape[0] < 1 or not there.any(axis=1).all() or there.any(axis=0).sum() < 2:
        raise ValueError(
            f"A comparison needs at least one split and two items in it, got an array of {difference.shape}."
        )
    difference, there = difference[:, there.any(axis=0)], there[:, there.any(axis=0)]
    values = np.where(there, difference, 0.0).astype(np.float64)
    n_splits, n_items = values.shape
    split_means = values.sum(axis=1) / there.sum(axis=1)
    item_means = values.sum(axis=0) / there.sum(axis=0)
    estimate = float(split_means.mean())
    if n_splits < 2:
        return Components(estimate, math.nan, math.nan, math.nan, n_splits, n_items)
    residual = np.where(there, values - split_means[:, None] - item_means[None, :] + estimate, 0.0)
    freedom = max(1, int(there.sum()) - n_splits - n_items + 1)
    residual_variance = float((residual**2).sum() / freedom)
    all_items = float(item_means.var(ddof=1))
    # The residual's share in the item means, as they are: what is left is the items' own, and never below 0.
    share = min(residual_variance, all_items * n_splits)
    return Components(
        estimate=estimate,
        split_variance=float(split_means.var(ddof=1)),
        item_variance=all_items - share / n_splits,
        residual_variance=share,
        n_splits=n_splits,
        n_items=n_items,
    )


def two_way_interval(difference: Values, *, overlap: float = 0.0) -> Interval:
    """Interval of a mean difference over splits and items: variance s²(split means)/J + s²(item means)/n.

    The sum counts the residual twice, so that it errs on the wide side, by little once items are many. Student's t
    has J - 1 degrees of freedom: those of the part that is known worst.

    Random splits also share training items, a share f of them at training fraction f. Their training luck is then
    correlated, and s²(split means)/J a little short. With `overlap` f the first term is
    s²(split means)·(1/J + f/(1 - f)): right where training luck is the whole of it, and wide elsewhere. Disjoint folds
    share none.

    Args:
        difference: (splits, items), NaN where the split does not validate on the item. Of correctness, or of
            influences on the AUC, whose mean over items is the AUC.
        overlap: Share of its training items that a split has in common with another, in [0, 1).

    References:
        Owen (2007), https://doi.org/10.1214/07-AOAS122; DeLong, DeLong and Clarke-Pearson (1988),
        https://doi.org/10.2307/2531595 for the influences; Nadeau and Bengio (2003),
        https://doi.org/10.1023/A:1024068626366 for the form of the correlation's share.
    """
    parts = components(difference)
    error = parts.standard_error()
    if overlap:
        error = math.sqrt(error**2 + parts.split_variance * overlap / (1 - overlap))
    return interval_of(parts.estimate, error, parts.n_splits - 1)


def naive_interval(split_means: Values) -> Interval:
    """Paired t over splits, as if each split had items of its own: too narrow, for comparison.

    Args:
        split_means: Mean difference of each split (splits,).
    """
    j = len(split_means)
    error = math.sqrt(float(np.var(split_means, ddof=1)) / j) if j > 1 else math.nan
    return interval_of(float(np.mean(split_means)), error, j - 1)


def nadeau_bengio_interval(split_means: Values, n_train: int, n_test: int) -> Interval:
    """Corrected resampled t, variance s²(split means)·(1/J + n_test/n_train): very wide here, for comparison.

    Args:
        split_means: Mean difference of each split (splits,).
        n_train: Training items of a split.
        n_test: Validation items of a split.

    References:
        Nadeau and Bengio (2003), https://doi.org/10.1023/A:1024068626366
    """
    j = len(split_means)
    factor = 1 / j + n_test / n_train
    error = math.sqrt(float(np.var(split_means, ddof=1)) * factor) if j > 1 else math.nan
    return interval_of(float(np.mean(split_means)), error, j - 1)


def holm(p_values: npt.ArrayLike) -> Values:
    """Adjusts p-values for being several, keeping the rate of any false positive.

    Args:
        p_values: (tests,); NaN, a test that could not be made, stays NaN and does not count.

    References:
        Holm (1979), https://www.jstor.org/stable/4615733
    """
    p = np.asarray(p_values, dtype=np.float64)
    adjusted = np.full(p.shape, np.nan)
    made = np.flatnonzero(~np.isnan(p))
    order = made[np.argsort(p[made], kind="stable")]
    steps = p[order] * np.arange(len(order), 0, -1)
    adjusted[order] = np.minimum(1.0, np.maximum.accumulate(steps))
    return adjusted


def decide(interval: Interval, adjusted_p: float, region: float) -> Decision:
    """What the data say: equivalent where the interval lies within the region, else by the adjusted p-value.

    A difference that is certain, but certainly too small to matter, is called equivalent.

    Args:
        interval: Of method minus control, higher is better.
        adjusted_p: Its p-value after `holm`.
        region: Half width of the region of practical equivalence, above 0.
    """
    if -region < interval.low and interval.high < region:
        return Decision.EQUIVALENT
    if adjusted_p < LEVEL:
        return Decision.BETTER if interval.estimate > 0 else Decision.WORSE
    return Decision.UNDECIDED


def further_splits(parts: Components, region: float, n_tests: int = 1) -> int | None:
    """Further splits that would decide, were the estimate and the variances to stay as they are.

    Args:
        parts: Of an undecided difference.
        region: Half width of the region of practical equivalence, above 0.
        n_tests: Tests that Holm's adjustment counts for this one.

    Returns:
        The number of splits to add; None where no number of splits up to 1,000 would do, as the items are too few.
    """
    if parts.n_splits < 2:
        return None
    for n_splits in range(parts.n_splits + 1, parts.n_splits + _MOST_SPLITS + 1):
        found = interval_of(parts.estimate, parts.standard_error(n_splits), n_splits - 1)
        if decide(found, min(1.0, n_tests * found.p_value), region) is not Decision.UNDECIDED:
            return n_splits - parts.n_splits
    return None


def optimism(choosing_score: float, reported_score: float) -> float:
    """By how much the score that chose a candidate exceeds the one on items that had no say."""
    return choosing_score - reported_score


def two_way_bootstrap(
    statistic: Callable[[Values, Values], Values], n_splits: int, n_items: int, *, draws: int, seed: int
) -> Values:
    """Bootstrap over splits and items at once, for figures that are not a mean over items.

    Args:
        statistic: From weights of splits (splits,) and of items (items,), whole numbers, to a figure of any shape.
        n_splits: Splits to draw from.
        n_items: Items to draw from.
        draws: Number of draws.
        seed: Of the draws.

    Returns:
        (draws, ...), the figure under each draw.

    References:
        Owen (2007), https://doi.org/10.1214/07-AOAS122
    """
    random = np.random.default_rng(seed)
    found = []
    for _ in range(draws):
        of_splits = np.bincount(random.integers(0, n_splits, n_splits), minlength=n_splits)
        of_items = np.bincount(random.integers(0, n_items, n_items), minlength=n_items)
        found.append(statistic(of_splits.astype(np.float64), of_items.astype(np.float64)))
    return np.stack(found)


def interval_of(estimate: float, standard_error: float, freedom: float) -> Interval:
    """Student's interval of an estimate, and its p-value; without degrees of freedom, or an error, NaN.

    Args:
        estimate: Mean difference.
        standard_error: Its standard error.
        freedom: Degrees of freedom, not always a whole number.
    """
    if freedom < 1 or math.isnan(standard_error):
        return Interval(estimate, math.nan, math.nan, math.nan, math.nan)
    reach = float(stats.t.ppf(1 - LEVEL / 2, freedom)) * standard_error
    if standard_error == 0.0:
        p_value = 1.0 if estimate == 0.0 else 0.0
    else:
        p_value = float(2 * stats.t.sf(abs(estimate) / standard_error, freedom))
    return Interval(estimate, estimate - reach, estimate + reach, standard_error, p_value)
