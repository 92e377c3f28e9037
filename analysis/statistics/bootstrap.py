"""Differences in figures that are not a mean over items, judged by a bootstrap over splits and items at once.

A figure is given as an object that is called with weights of the items and answers with its value on each split: under
weights of 1 its own value, under drawn weights a bootstrap replicate. All methods see the same draws.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
from scipy import sparse

from analysis.statistics.intervals import Interval, Values, interval_of, two_way_bootstrap

N_BINS = 15

_DRAWS = 400

_SEED = 0


class SplitFigures(Protocol):
    """One or several figures of one method, under any weights of the items."""

    def __call__(self, weights: Values) -> npt.NDArray[np.float64]:
        """The figures of each split (figures, splits), the items (n_items,) counting by their weights."""
        ...


class CalibrationErrors:
    """The expected calibration error on known items.

    Args:
        items: Per-item results of each split.
        n_items: Items in all.

    References:
        Guo, Pleiss, Sun and Weinberger (2017), https://proceedings.mlr.press/v70/guo17a.html
    """

    def __init__(self, items: Sequence[Any], n_items: int) -> None:
        self._n_splits = len(items)
        rows, columns, gaps = [], [], []
        for split, one in enumerate(items):
            known = one.known
            confidence = one.confidence[known].astype(np.float64)
            bins = np.minimum((confidence * N_BINS).astype(np.int64), N_BINS - 1)
            rows.append(split * N_BINS + bins)
            columns.append(one.item[known])
            gaps.append(confidence - (one.predicted == one.label)[known])
        row, column = np.concatenate(rows), np.concatenate(columns)
        shape = (self._n_splits * N_BINS, n_items)
        self._gaps = sparse.csr_array((np.concatenate(gaps), (row, column)), shape=shape)
        self._counts = sparse.csr_array((np.ones(len(row)), (row // N_BINS, column)), shape=(self._n_splits, n_items))

    def __call__(self, weights: Values) -> npt.NDArray[np.float64]:
        """The error of each split (1, splits)."""
        gaps = np.abs(self._gaps @ weights).reshape(self._n_splits, N_BINS).sum(axis=1)
        return np.asarray(gaps / (self._counts @ weights), dtype=np.float64)[None]


class Detection:
    """How well low confidence tells "none" items from known ones: AUROC, and average precision (AUPR).

    Each "none" item is placed among the known ones once; a draw then only sums weights.

    Args:
        items: Per-item results of each split, with "none" and known items in every one.

    References:
        Hendrycks and Gimpel (2017), https://arxiv.org/abs/1610.02136; Davis and Goadrich (2006),
        https://doi.org/10.1145/1143844.1143874, for ties: a threshold takes all items of a score or none.
    """

    def __init__(self, items: Sequence[Any]) -> None:
        self._splits = [_Placed(one) for one in items]

    def __call__(self, weights: Values) -> npt.NDArray[np.float64]:
        """AUROC and AUPR of each split (2, splits); NaN where the weights leave no item of a kind."""
        return np.array([split(weights) for split in self._splits]).T


class _Placed:
    """The "none" items of one split, each placed among the known ones by falling score 1 - confidence."""

    def __init__(self, items: Any) -> None:
        none, known = items.confidence[~items.known], items.confidence[items.known]
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
    """Every method minus their control in each figure, with its interval, and the difference of each split.

    The bootstrap's variance of J splits is short by (J - 1)/J, which is made up for. Draws that leave a figure
    undefined do not count.

    Args:
        figures: Of each method, control among them, all on the same splits and items.
        control: Name of the method to compare with.
        n_items: Items in all.

    Returns:
        By method, for each figure: the interval of the mean over splits; (splits,).
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
