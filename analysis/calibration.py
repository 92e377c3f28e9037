"""Differences in calibration error: not a mean over items, so judged by a bootstrap over splits and items at once."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy import sparse

from analysis.comparison import Interval, Values, interval_of, two_way_bootstrap

N_BINS = 15
_DRAWS = 400
_SEED = 0


class CalibrationErrors:
    """The expected calibration error of one method on known items, under any weights of the items.

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
        """The error of each split (splits,), the items (n_items,) counting by their weights."""
        gaps = np.abs(self._gaps @ weights).reshape(self._n_splits, N_BINS).sum(axis=1)
        return np.asarray(gaps / (self._counts @ weights), dtype=np.float64)


def ece_difference(method: CalibrationErrors, control: CalibrationErrors, n_items: int) -> tuple[Interval, Values]:
    """Difference in calibration error with its interval, and the difference of each split.

    The bootstrap's variance of J splits is short by (J - 1)/J, which is made up for.

    Args:
        method: Of the method.
        control: Of control, on the same splits.
        n_items: Items in all.

    Returns:
        The interval, of the mean over splits; (splits,).
    """

    def difference(of_splits: Values, of_items: Values) -> Values:
        return np.asarray(of_splits @ (method(of_items) - control(of_items)) / of_splits.sum())

    split_means = method(np.ones(n_items)) - control(np.ones(n_items))
    j = len(split_means)
    if j < 2:
        return interval_of(float(split_means.mean()), math.nan, j - 1), split_means
    draws = two_way_bootstrap(difference, j, n_items, draws=_DRAWS, seed=_SEED)
    error = float(draws.std(ddof=1)) * math.sqrt(j / (j - 1))
    return interval_of(float(split_means.mean()), error, j - 1), split_means
