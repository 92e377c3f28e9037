"""Bootstrap intervals over splits and items for figures that are not a mean over items.

A figure is a callable that takes item weights and returns its value on each split. Weights of 1 give the figure itself,
drawn weights a bootstrap replicate. All methods see the same draws.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
from scipy import sparse

from analysis.statistics.intervals import Interval, Values, interval_of, two_way_bootstrap
from trainables.records.types import N_BINS

_DRAWS = 400
_SEED = 0


class SplitFigures(Protocol):
    """One or more figures of one method, as a function of item weights."""

    def __call__(self, weights: Values) -> npt.NDArray[np.float64]:
        """Return the figures of each split (figures, splits) under item weights (n_items,)."""
        ...


def confidence_bins(confidence: npt.NDArray[np.floating], n_bins: int) -> npt.NDArray[np.int64]:
    """Return the bin of each confidence in [0, 1], of equally wide bins."""
    return np.minimum((confidence.astype(np.float64) * n_bins).astype(np.int64), n_bins - 1)


class CalibrationErrors:
    """The expected calibration error on known items.

    Args:
        items: Per-item results of each split.
        n_items: Number of items of the study.

    References:
        Guo, Pleiss, Sun and Weinberger (2017), https://proceedings.mlr.press/v70/guo17a.html
    """

    def __init__(self, items: Sequence[Any], n_items: int) -> None:
        self._n_splits = len(items)
        rows, columns, gaps = [], [], []
        for split, one in enumerate(items):
            known = one.known
            confidence = one.confidence[known]
            rows.append(split * N_BINS + confidence_bins(confidence, N_BINS))
            columns.append(one.item[known])
            gaps.append(confidence - (one.predicted == one.label)[known])
        row, column = np.concatenate(rows), np.concatenate(columns)
        shape = (self._n_splits * N_BINS, n_items)
        self._gaps = sparse.csr_array((np.concatenate(gaps), (row, column)), shape=shape)
        self._counts = sparse.csr_array((np.ones(len(row)), (row // N_BINS, column)), shape=(self._n_splits, n_items))

    def __call__(self, weights: Values) -> npt.NDArray[np.float64]:
        """Return the error of each split (1, splits)."""
        gaps = np.abs(self._gaps @ weights).reshape(self._n_splits, N_BINS).sum(axis=1)
        return np.asarray(gaps / (self._counts @ weights), dtype=np.float64)[None]


class Detection:
    """AUROC and average precision (AUPR) of detecting "none" items by their low confidence, ranked as logits.

    Each "none" item is ranked among the known ones once; a draw then only sums weights.

    Args:
        items: Per-item results of each split; every split has "none" and known items.

    References:
        Hendrycks and Gimpel (2017), https://arxiv.org/abs/1610.02136; Davis and Goadrich (2006),
        https://doi.org/10.1145/1143844.1143874, for ties: a threshold includes all items with one score, or none.
    """

    def __init__(self, items: Sequence[Any]) -> None:
        self._splits = [_Ranked(one) for one in items]

    def __call__(self, weights: Values) -> npt.NDArray[np.float64]:
        """Return AUROC and AUPR of each split (2, splits); NaN where all "none" or all known items have weight 0."""
        return np.array([split(weights) for split in self._splits]).T


class _Ranked:
    """The "none" items of one split, ranked among the known ones by logit, lowest first."""

    def __init__(self, items: Any) -> None:
        none, known = items.logit[~items.known], items.logit[items.known]
        by_none, by_known = np.argsort(none, kind="stable"), np.argsort(known, kind="stable")
        none, known = none[by_none], known[by_known]
        self._none = items.item[~items.known][by_none]
        self._known = items.item[items.known][by_known]
        self._before, self._upto = np.searchsorted(known, none), np.searchsorted(known, none, side="right")
        self._tied = np.searchsorted(none, none, side="right")

    def __call__(self, weights: Values) -> tuple[float, float]:
        positive = weights[self._none]
        false = np.concatenate([[0.0], np.cumsum(weights[self._known])])
        true = np.concatenate([[0.0], np.cumsum(positive)])
        n_positive, n_negative = float(true[-1]), float(false[-1])
        if n_positive == 0 or n_negative == 0:
            return math.nan, math.nan
        above = (false[self._before] + false[self._upto]) / 2
        auroc = 1 - float(positive @ above) / (n_positive * n_negative)
        hits, counted = true[self._tied], positive > 0
        precision = hits[counted] / (hits[counted] + false[self._upto][counted])
        return auroc, float(positive[counted] @ precision) / n_positive


def bootstrap_differences(
    figures: Mapping[str, SplitFigures], control: str, n_items: int
) -> dict[str, list[tuple[Interval, npt.NDArray[np.float64]]]]:
    """Return the difference of every method to the control, with its interval.

    The bootstrap variance of J splits is too small by the factor (J - 1)/J, which is corrected. Draws in which a figure
    is not defined do not count.

    Args:
        figures: The figures of each method, the control included, all on the same splits and items.
        control: Name of the method to compare with.
        n_items: Number of items of the study.

    Returns:
        For each method, one pair per figure: the interval of the mean difference, and the difference of each split
        (splits,).
    """
    others = [method for method in figures if method != control]

    def values(of_items: Values) -> npt.NDArray[np.float64]:
        base = figures[control](of_items)
        return np.stack([figures[method](of_items) - base for method in others])

    def means(of_splits: Values, of_items: Values) -> Values:
        return np.asarray(values(of_items) @ of_splits / of_splits.sum())

    own = values(np.ones(n_items))
    j = own.shape[-1]
    errors = np.full(own.shape[:2], math.nan)
    if j > 1:
        draws = two_way_bootstrap(means, j, n_items, draws=_DRAWS, seed=_SEED)
        errors = np.nanstd(draws, axis=0, ddof=1) * math.sqrt(j / (j - 1))
    return {
        method: [
            (interval_of(float(split_values.mean()), float(error), j - 1), split_values)
            for split_values, error in zip(own[place], errors[place], strict=True)
        ]
        for place, method in enumerate(others)
    }
