"""The variance of a mean difference between two methods, over splits and items that are crossed.

All splits of a study share most of their test items. A difference D[j, i] of two methods on split j and item i is
modelled as mean + split effect + item effect + residual, fitted by least squares, since an item that a split trains on
is missing there. With J splits and n items, the variance of the mean difference has up to five parts:

    A = s²(split effects) / J            the training draw, with the residual's share
    R = s²(residual) / (n J)             the residual alone
    B = max(0, s²(item effects) / n - R) the items, without the residual
    C = 2 (n_train / n) cov(split effect, mean item effect of the split's own training items)
    V = max(A, R) + B + max(0, C)

C exists where the splits train on different items of those that they test: an item that is easy for one method helps it
twice, as a training item and as a test item of the other splits. Random splits share training items, a fraction f of
them. That correlates their effects, and V grows by f / (1 - f) J max(A - R, 0); and it hides that part of the
covariance, so C is divided by 1 - f. With k-fold cross-validation every item is tested once, and items cannot be told
from the residual: V = max(A, s²(items within folds) / n). The folds train on nearly the same items, so V does not hold
the luck of these: it is the variance of the trained models' mean difference on new items.

`python tests/benchmarks/bench_analysis_intervals.py` measures how often the intervals are wrong.

References:
    Obuchowski & Rockette (1995), https://doi.org/10.1080/03610919508813243, and Hillis (2007),
        https://doi.org/10.1002/sim.2532: variance and degrees of freedom with crossed readers and cases.
    Bayle, Bayle, Janson & Mackey (2020), "Cross-validation Confidence Intervals for Test Error",
        https://arxiv.org/abs/2007.12671: k-fold.
    Nadeau & Bengio (2003), "Inference for the Generalization Error", https://doi.org/10.1023/A:1024068626366: the form
        of the correlation of random splits.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
import numpy.typing as npt

from trainables.records.types import Design

Values = npt.NDArray[np.floating]
Mask = npt.NDArray[np.bool_]


@dataclass(frozen=True)
class Variance:
    """A mean difference and the parts of its variance, for the splits that were made or for another number of them.

    Attributes:
        estimate: Mean over splits of the mean over test items.
        n_splits: J.
        n_items: n, items that at least one split tests.
        training: s²(split effects) / J, with the residual's share; NaN with one split.
        residual: s²(residual) / (n J).
        items: Variance of the mean item effect, without the residual, at least 0.
        own_items: Twice the covariance of the mean split effect and the mean item effect.
        shared: f / (1 - f) for random splits that share a fraction f of their training items; else 0.
        crossed: Whether several splits test an item; false for k-fold cross-validation.
    """

    estimate: float
    n_splits: int
    n_items: int
    training: float
    residual: float
    items: float
    own_items: float = 0.0
    shared: float = 0.0
    crossed: bool = True

    @cached_property
    def total(self) -> float:
        """V, the variance of the estimate."""
        return self._from_splits + self.items + max(self.own_items, 0.0)

    @property
    def standard_error(self) -> float:
        """The square root of V; NaN with one split."""
        return math.sqrt(self.total)

    @cached_property
    def freedom(self) -> float:
        """Degrees of freedom of the standard error, never below J - 1; 0 with one split."""
        if self.n_splits < 2:
            return 0.0
        if not self.crossed and self.residual >= self.training:
            return float(self.n_items - self.n_splits)
        part = self._from_splits
        return (self.n_splits - 1) * max(1.0, (self.total / part) ** 2 if part > 0 else 1.0)

    @property
    def _from_splits(self) -> float:
        """The part of V that J split effects determine."""
        correlated = self.shared * self.n_splits * max(self.training - self.residual, 0.0)
        return max(self.training, self.residual) + correlated

    def with_splits(self, n_splits: int, training: float | None = None) -> Variance:
        """Return the variance that another number of splits would have, if nothing else changed.

        Args:
            n_splits: The other number.
            training: Replaces `training` of the splits that were made, before their number is changed.
        """
        share = self.n_splits / n_splits
        own = self.training if training is None else training
        return replace(self, n_splits=n_splits, training=own * share, residual=self.residual * share)


@dataclass(frozen=True)
class Effects:
    """The fitted effects of a difference: (splits,) and (items,), each with mean 0."""

    splits: npt.NDArray[np.float64]
    items: npt.NDArray[np.float64]


def variance(
    difference: Values, design: Design, *, shared: float = 0.0, tested: Mask | None = None
) -> tuple[Variance, Effects]:
    """Return the variance of a mean difference, and its effects.

    Args:
        difference: (splits, items); NaN where a split has no value for an item.
        design: How the splits were made.
        shared: Fraction of its training items that a random split shares with another, in [0, 1).
        tested: Whether a split tests an item (splits, items): its other items are those that it trains on. By default
            where it has a value, which is wrong for a figure over some of its test items alone.

    Raises:
        ValueError: A split has no value, or there are fewer than two items.
    """
    there = np.isfinite(difference)
    used: Mask = np.asarray(there.any(axis=0))
    if not there.any(axis=1).all() or used.sum() < 2:
        raise ValueError(
            f"A comparison needs at least one split and two items per split, got an array of {difference.shape}."
        )
    trained = (~there if tested is None else ~tested)[:, used]
    there, values = there[:, used], np.where(there, difference, 0.0)[:, used].astype(np.float64)
    n_splits, n_items = values.shape
    means = values.sum(axis=1) / there.sum(axis=1)
    estimate = float(means.mean())
    if design is Design.FOLDS:
        within = np.where(there, values - means[:, None], 0.0)
        residual = float((within**2).sum() / max(1, n_items - n_splits)) / n_items
        training = float(means.var(ddof=1)) / n_splits if n_splits > 1 else math.nan
        found = Variance(estimate, n_splits, n_items, training, residual, 0.0, crossed=False)
        return found, Effects(means - estimate, _spread_out(within.sum(axis=0), used))
    effects, residuals = _fit(values, there)
    if n_splits < 2:
        found = Variance(estimate, n_splits, n_items, math.nan, math.nan, math.nan)
        return found, Effects(effects.splits, _spread_out(effects.items, used))
    n_values = int(there.sum())
    residual_variance = float((residuals**2).sum()) / max(1, n_values - n_splits - n_items + 1)
    odds = shared / (1 - shared) if design is Design.RANDOM else 0.0
    own_items = 0.0
    if design in (Design.REVERSE_FOLDS, Design.RANDOM) and trained.any(axis=1).all():
        own = (trained * effects.items).sum(axis=1) / trained.sum(axis=1)
        share = trained.sum() / (n_splits * n_items)
        own_items = 2 * share * (1 + odds) * float(np.cov(effects.splits, own)[0, 1])
    found = Variance(
        estimate=estimate,
        n_splits=n_splits,
        n_items=n_items,
        training=float(effects.splits.var(ddof=1)) / n_splits,
        residual=residual_variance / (n_items * n_splits),
        # An item has n_values / n_items values on average: its mean holds that share of the residual.
        items=max(0.0, float(effects.items.var(ddof=1)) / n_items - residual_variance / n_values),
        own_items=own_items,
        shared=odds,
    )
    return found, Effects(effects.splits, _spread_out(effects.items, used))


def _fit(values: npt.NDArray[np.float64], there: Mask) -> tuple[Effects, npt.NDArray[np.float64]]:
    """Fit split and item effects by least squares; return them and the residuals (splits, items)."""
    weight = there.astype(np.float64)
    n_each = weight.sum(axis=0)
    means = values.sum(axis=0) / n_each
    # The items' effects are eliminated: what is left is one equation per split.
    equations = np.diag(weight.sum(axis=1)) - (weight / n_each) @ weight.T
    splits = np.linalg.pinv(equations, hermitian=True) @ (values.sum(axis=1) - weight @ means)
    splits -= splits.mean()
    items = (values - weight * splits[:, None]).sum(axis=0) / n_each
    residuals = np.where(there, values - splits[:, None] - items, 0.0)
    return Effects(splits, items - items.mean()), residuals


def _spread_out(items: npt.NDArray[np.float64], used: npt.NDArray[np.bool_]) -> npt.NDArray[np.float64]:
    """Return the effects of all items: 0 where no split has a value."""
    found = np.zeros(len(used))
    found[used] = items
    return found
