"""Intervals that hold together for all methods of a comparison: the most extreme of their t statistics decides.

The level of each single interval is found by a parametric bootstrap of the whole procedure. Split effects and item
effects are drawn with the variances that were estimated, no difference is real, and each draw computes its own
variances, degrees of freedom and p-values. The level is what the smallest p-value falls below in 5 % of the draws. So
it counts the correlation of the methods, which share a control, and how little three splits say of a variance. The
correlation is that of the items' effects, for both: there are thousands of them, where a few split effects seem to be
more correlated than they are.

References:
    Hothorn, Bretz & Westfall (2008), "Simultaneous Inference in General Parametric Models",
        https://doi.org/10.1002/bimj.200810425
    Romano & Wolf (2005), "Exact and Approximate Stepdown Methods for Multiple Hypothesis Testing",
        https://doi.org/10.1198/016214504000000539: levels from resampled maxima.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
from scipy import stats

from analysis.statistics.intervals import LEVEL, Interval, interval, interval_of
from analysis.statistics.variance import Effects, Variance

_DRAWS = 10_000
_SEED = 0

_Floats = npt.NDArray[np.float64]


def simultaneous(found: Sequence[tuple[Variance, Effects]]) -> list[Interval]:
    """Return the interval of each difference, with 95 % confidence in all of them together, and its adjusted p-value.

    A difference without an interval of its own, such as of one split, does not count as a comparison.

    Args:
        found: The variance and the effects of each difference, all over the same splits and items.
    """
    alone = [interval(one) for one, _ in found]
    made = [place for place, own in enumerate(alone) if np.isfinite(own.standard_error) and own.standard_error > 0]
    if not made:
        return alone
    smallest = _smallest_p([found[place] for place in made])
    level = min(LEVEL, float(np.quantile(smallest, LEVEL)))
    for place in made:
        own, (one, _) = alone[place], found[place]
        p = max(own.p_value, float((smallest <= own.p_value).mean()))
        alone[place] = interval_of(one.estimate, one.standard_error, one.freedom, level=level, p_value=p)
    return alone


def _smallest_p(found: Sequence[tuple[Variance, Effects]]) -> _Floats:
    """Draw the smallest p-value of all differences when none is real: (draws,)."""
    random = np.random.default_rng(_SEED)
    parts = [one for one, _ in found]
    n_splits, shared = parts[0].n_splits, parts[0].shared
    training, residual = (np.array([getattr(one, name) for one in parts]) for name in ("training", "residual"))
    rest = np.array([one.items + max(one.own_items, 0.0) for one in parts])
    items = np.stack([own.items for _, own in found])
    deviation = np.sqrt((items**2).sum(axis=1))
    directions = items / np.where(deviation > 0, deviation, 1.0)[:, None]
    root = _root(directions @ directions.T)
    # A training part below the residual is lifted to it.
    splits = random.standard_normal((_DRAWS, n_splits, len(found))) @ root
    splits *= np.sqrt(n_splits * np.maximum(training, residual))
    drawn = splits.var(axis=1, ddof=1) / n_splits
    estimate = splits.mean(axis=1) * np.sqrt(1 + shared * n_splits)
    estimate += random.standard_normal((_DRAWS, len(found))) @ root * np.sqrt(rest)
    part = np.maximum(drawn, residual) + shared * n_splits * np.maximum(drawn - residual, 0.0)
    total = part + rest
    ratio = np.divide(total, part, out=np.full_like(total, np.inf), where=part > 0)
    freedom = (n_splits - 1) * np.maximum(1.0, ratio**2)
    if not parts[0].crossed:
        many = np.array([float(one.n_items - n_splits) for one in parts])
        freedom = np.where(residual >= drawn, many, freedom)
    smallest: _Floats = (2 * stats.t.sf(np.abs(estimate) / np.sqrt(total), freedom)).min(axis=1)
    return smallest


def _root(correlation: _Floats) -> _Floats:
    """Return what independent normal numbers (draws, differences) are multiplied by to have a given correlation."""
    values, vectors = np.linalg.eigh(correlation)
    return np.asarray((vectors * np.sqrt(values.clip(min=0))).T)
