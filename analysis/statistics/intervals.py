"""Intervals and decisions for the difference between two methods.

All splits of a study share nearly the same validation items: with 10 % training, two splits have nine items in ten in
common. A difference over such splits has two sources of variance: the training draw, which changes from split to split,
and the items, which are the same in all splits. A paired t-test over splits counts only the first, and calls true nulls
differences. The correction of Nadeau and Bengio, made for much training and little testing, calls almost nothing a
difference. The two-way interval estimates both sources from the data.

How many of 100 studies call a difference at a nominal 5 %, by simulation of the protocol with 2,000 items and true
differences of 0 and more (`python tests/benchmarks/bench_analysis_intervals.py`, 1,000 studies per row, so ± 1.4):

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

With 1,000 items, of which 100 train, the two-way interval of the weighted AUC at J = 10 calls a difference in 7.6 of
100 true nulls, and in 5.0 `with overlap`, which also counts the training items that random splits share (see
`two_way_interval`). With three splits the two-way interval is very wide: Student's t has two degrees of freedom.

References:
    Owen (2007), "The pigeonhole bootstrap", https://doi.org/10.1214/07-AOAS122: variance of a mean over two crossed
        random factors; the sum of the two one-way variances is rather too large than too small.
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

# Rate of false positives of intervals and decisions.
LEVEL = 0.05

# Further splits to consider: where more are needed, more items are the better remedy.
_MAX_FURTHER_SPLITS = 1000


class Decision(StrEnum):
    """The result of a comparison with a control."""

    BETTER = "better"
    EQUIVALENT = "equivalent"
    WORSE = "worse"
    UNDECIDED = "undecided"
    NOT_CONVERGED = "not converged"


@dataclass(frozen=True)
class Interval:
    """A mean difference with its 95 % interval; all but the estimate are NaN with one split.

    Attributes:
        estimate: Mean difference.
        low: Lower end of the interval.
        high: Upper end of the interval.
        standard_error: Standard error of the estimate.
        p_value: Two-sided p-value of no difference.
    """

    estimate: float
    low: float
    high: float
    standard_error: float
    p_value: float

    @property
    def ends(self) -> str:
        """The interval as text, "−0.0010 to +0.0200"; empty with one split."""
        return f"{signed(self.low)} to {signed(self.high)}" if math.isfinite(self.low) else ""


@dataclass(frozen=True)
class Components:
    """The variance components of a difference over J splits and n items.

    Attributes:
        estimate: Mean difference over splits.
        split_variance: Variance of the split means.
        item_variance: Variance over items that more splits would not reduce.
        residual_variance: Variance that neither split nor item explains.
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
        """Return the two-way standard error, sqrt(s²(split means)/J + s²(item means)/n), for this or another J."""
        j = self.n_splits if n_splits is None else n_splits
        items = self.item_variance + self.residual_variance / j
        return math.sqrt(self.split_variance / j + items / self.n_items)


def components(difference: Values) -> Components:
    """Return the variance components of paired differences: of splits, of items, and the residual.

    Args:
        difference: (splits, items); NaN where the split does not validate on the item.

    Raises:
        ValueError: A split has no item, or there are fewer than two items.
    """
    there = np.isfinite(difference)
    if difference.shape[0] < 1 or not there.any(axis=1).all() or there.any(axis=0).sum() < 2:
        raise ValueError(
            f"A comparison needs at least one split and two items per split, got an array of {difference.shape}."
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
    # The variance of the item means contains the residual's, divided by J. The rest is the items', and never below 0.
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
    """Return the interval of a mean difference, with variance s²(split means)/J + s²(item means)/n.

    The sum counts the residual twice, which makes the interval too wide, but only slightly with many items. Student's t
    has J - 1 degrees of freedom, those of the component that is known least.

    Random splits also share training items: a fraction f of them, if f is the training fraction. This correlates their
    training draws and makes s²(split means)/J too small. With `overlap` f the first term is
    s²(split means)·(1/J + f/(1 - f)), which is right if all variance comes from the training draw, and too wide
    otherwise. Disjoint folds share no training items.

    Args:
        difference: (splits, items), NaN where the split does not validate on the item: differences in correctness, or
            in influences on the AUC, whose mean over items is the AUC.
        overlap: Fraction of its training items that a split shares with another, in [0, 1).

    References:
        Owen (2007), https://doi.org/10.1214/07-AOAS122; DeLong, DeLong and Clarke-Pearson (1988),
        https://doi.org/10.2307/2531595 for the influences; Nadeau and Bengio (2003),
        https://doi.org/10.1023/A:1024068626366 for the form of the correlation term.
    """
    parts = components(difference)
    error = parts.standard_error()
    if overlap:
        error = math.sqrt(error**2 + parts.split_variance * overlap / (1 - overlap))
    return interval_of(parts.estimate, error, parts.n_splits - 1)


def naive_interval(split_means: Values) -> Interval:
    """Return the paired t interval of mean differences (splits,), for comparison: too narrow, as splits share items."""
    j = len(split_means)
    error = math.sqrt(float(np.var(split_means, ddof=1)) / j) if j > 1 else math.nan
    return interval_of(float(np.mean(split_means)), error, j - 1)


def nadeau_bengio_interval(split_means: Values, n_train: int, n_test: int) -> Interval:
    """Return the corrected resampled t interval, with variance s²(split means)·(1/J + n_test/n_train).

    It is very wide here, and shown for comparison.

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
    """Return p-values adjusted so that the rate of any false positive among the tests is controlled.

    Args:
        p_values: (tests,); NaN, for a test that is not defined, stays NaN and does not count as a test.

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
    """Return equivalent if the interval lies within the region, else decide by the adjusted p-value.

    A significant difference is therefore called equivalent if it is certainly too small to matter.

    Args:
        interval: Of method minus control; higher is better.
        adjusted_p: The interval's p-value after `holm`.
        region: Half width of the region of practical equivalence, above 0.
    """
    if -region < interval.low and interval.high < region:
        return Decision.EQUIVALENT
    if adjusted_p < LEVEL:
        return Decision.BETTER if interval.estimate > 0 else Decision.WORSE
    return Decision.UNDECIDED


def further_splits(parts: Components, region: float, n_tests: int = 1) -> int | None:
    """Return how many more splits would decide a comparison if its estimate and variances stayed the same.

    Args:
        parts: Components of an undecided difference.
        region: Half width of the region of practical equivalence, above 0.
        n_tests: Number of tests by which Holm's adjustment multiplies this p-value.

    Returns:
        The number of splits to add; None with one split, and if even 1,000 more splits would not decide.
    """
    if parts.n_splits < 2:
        return None
    for n_splits in range(parts.n_splits + 1, parts.n_splits + _MAX_FURTHER_SPLITS + 1):
        found = interval_of(parts.estimate, parts.standard_error(n_splits), n_splits - 1)
        if decide(found, min(1.0, n_tests * found.p_value), region) is not Decision.UNDECIDED:
            return n_splits - parts.n_splits
    return None


def two_way_bootstrap(
    statistic: Callable[[Values, Values], Values], n_splits: int, n_items: int, *, draws: int, seed: int
) -> Values:
    """Resample splits and items together, for figures that are not a mean over items.

    Args:
        statistic: Function of split weights (splits,) and item weights (items,), which are counts; returns a figure of
            any shape.
        n_splits: Number of splits to draw from.
        n_items: Number of items to draw from.
        draws: Number of draws.
        seed: Seed of the draws.

    Returns:
        The figure in each draw, (draws, ...).

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
    """Return Student's 95 % interval of an estimate and its p-value.

    Args:
        estimate: Mean difference.
        standard_error: Its standard error; NaN gives an interval of NaN.
        freedom: Degrees of freedom, not always an integer; below 1 gives an interval of NaN.
    """
    if freedom < 1 or math.isnan(standard_error):
        return Interval(estimate, math.nan, math.nan, math.nan, math.nan)
    reach = float(stats.t.ppf(1 - LEVEL / 2, freedom)) * standard_error
    if standard_error == 0.0:
        p_value = 1.0 if estimate == 0.0 else 0.0
    else:
        p_value = float(2 * stats.t.sf(abs(estimate) / standard_error, freedom))
    return Interval(estimate, estimate - reach, estimate + reach, standard_error, p_value)
