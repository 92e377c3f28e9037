"""What a trial chooses on items held out from its training: its threshold for "none", and its temperature."""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt
import torch
from scipy.optimize import brentq
from torch import Tensor
from torch.nn.functional import one_hot

from trainables.evaluation.metrics import proper_scores

# Temperatures lie between this and its inverse: without a wrong prediction the best one would be 0.
_LOWEST = 0.01


def choose_threshold(
    logit: npt.NDArray[np.float32], right: npt.NDArray[np.bool_], known: npt.NDArray[np.bool_]
) -> float:
    """Return the threshold of the highest balanced accuracy of known and "none" items, as a logit.

    A class is predicted if its logit exceeds the threshold, else "none". The balanced accuracy is the mean of two: the
    share of known items whose class is predicted, and that of the other items for which "none" is. All distinct logits
    are tried; the threshold lies in the middle between two neighbours, or 1 outside the extremes. Of equally good ones
    it is the lowest, which gives most items a class.

    Args:
        logit: Highest logit of each item (items,).
        right: Whether its class is the item's (items,).
        known: Whether the item is of a known class (items,).

    Returns:
        The threshold; its sigmoid is the confidence. NaN without known or without other items.
    """
    if known.all() or not known.any():
        return math.nan
    values, place = np.unique(logit.astype(np.float64), return_inverse=True)
    # At the cut before value k, items of places k and up are given a class.
    lost = np.bincount(place, right & known, len(values)) / known.sum()
    won = np.bincount(place, ~known, len(values)) / (~known).sum()
    best = int(np.argmax(np.concatenate([[0.0], np.cumsum(won - lost)]).round(12)))
    edges = np.concatenate([[values[0] - 2], values, [values[-1] + 2]])
    return float((edges[best] + edges[best + 1]) / 2)


def fit_temperature(logits: Tensor, target: Tensor) -> float:
    """Return the temperature that minimises the trial's `nll` if it divides every logit, from 0.01 to 100.

    The loss is convex in the inverse temperature, so the only zero of its slope is found by bisection and secants.

    Args:
        logits: (items, classes).
        target: Class of each item, -1 for "none" (items,).

    Returns:
        The temperature; NaN without items.

    References:
        Guo, Pleiss, Sun & Weinberger (2017), "On Calibration of Modern Neural Networks",
        https://arxiv.org/abs/1706.04599
    """
    if len(logits) == 0:
        return math.nan
    exact = logits.double()
    expected = one_hot(target + 1, logits.shape[1] + 1)[:, 1:].double()

    def slope(log_inverse: float) -> float:
        return float((exact * ((exact * math.exp(log_inverse)).sigmoid() - expected)).sum(-1).mean())

    low, high = math.log(_LOWEST), -math.log(_LOWEST)
    if slope(low) >= 0:
        return math.exp(-low)
    if slope(high) <= 0:
        return math.exp(-high)
    return math.exp(-float(brentq(slope, low, high, xtol=1e-10)))


@torch.inference_mode()
def scaled_scores(logits: Tensor, target: Tensor, temperature: float) -> dict[str, float]:
    """Return `brier_scaled` and `nll_scaled`: the proper scores if a temperature divides every logit."""
    return {f"{name}_scaled": value for name, value in proper_scores(logits.double() / temperature, target).items()}
