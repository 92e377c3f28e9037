"""The metrics of a trial, on its validation items.

Scores are ranked as logits. A probability is a monotone function of its logit, but in float32 the sigmoid of a logit
above 17 is exactly 1: among probabilities, an overconfident classifier would have ties that its logits do not have.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import binary_cross_entropy_with_logits, one_hot

# Confidence thresholds of the accuracy curves.
THRESHOLDS = np.arange(0.05, 0.951, 0.05).astype(np.float32)

# False-positive rates of the ROC curve: dense near 0, where the curves differ.
ROC_GRID = np.unique(np.concatenate([[0.0], np.logspace(-4, 0, 81), np.linspace(0, 1, 51)])).astype(np.float32)


@dataclass(frozen=True)
class Accuracies:
    """Accuracies at one or several thresholds; every field is (...,), NaN where there is no such item.

    Attributes:
        all: Accuracy over all items.
        known: Accuracy over items of known classes.
        none: Accuracy over "none" items.
    """

    all: Tensor
    known: Tensor
    none: Tensor


def correct_at(confidence: Tensor, predicted: Tensor, target: Tensor, threshold: float) -> Tensor:
    """Return whether each prediction is right: a class if its probability exceeds the threshold, else "none".

    Args:
        confidence: Highest probability of each item (..., items).
        predicted: Class of that probability (..., items).
        target: Class of each item, -1 for "none" (..., items).
        threshold: In [0, 1].

    Returns:
        bool (..., items).

    References:
        Wolfe & Lundgaard (2019), sections 2.5 and 3.5, https://arxiv.org/abs/1912.00772
    """
    return torch.where(confidence > threshold, predicted == target, target == -1)


def accuracies(correct: Tensor, target: Tensor) -> Accuracies:
    """Return the accuracies over all, known and "none" items; arguments (..., items), as for `correct_at`."""
    right, none = correct.double(), (target == -1).double()
    n_none = none.sum(-1)
    return Accuracies(
        all=right.mean(-1),
        known=(right * (1 - none)).sum(-1) / (none.shape[-1] - n_none),
        none=(right * none).sum(-1) / n_none,
    )


@dataclass(frozen=True)
class WeightedAuc:
    """The weighted one-vs-rest ROC AUC, its parts, and its curve.

    Attributes:
        auc: Mean of the AUC over known classes and "none", weighted by their shares of the items.
        influence: float64 (items,), each item's influence on `auc` by DeLong's placement values; its mean is `auc`.
        roc_tpr: float64 (len(ROC_GRID),), weighted mean of the true-positive rates at each false-positive rate.
    """

    auc: float
    influence: Tensor
    roc_tpr: Tensor


def weighted_auc(logits: Tensor, target: Tensor) -> WeightedAuc:
    """Compute the weighted one-vs-rest AUC over known classes and "none", with per-item influences.

    Equals scikit-learn's weighted one-vs-rest `roc_auc_score` with a "none" column of 1 - max probability. A class
    without a positive or without a negative item has no AUC; the others' weights are renormalised.

    For each class only the positives are sorted, and every item is placed among them: O(items log positives) per class
    instead of a sort of all items.

    Args:
        logits: (items, classes).
        target: Class of each item, -1 for "none" (items,).

    References:
        DeLong, DeLong & Clarke-Pearson, "Comparing the Areas under Two or More Correlated ROC Curves" (1988),
        https://doi.org/10.2307/2531595
    """
    n, n_classes = logits.shape
    device = logits.device
    by_class = target.argsort(stable=True)
    ends = torch.searchsorted(target[by_class], torch.arange(-1, n_classes + 1, device=device)).tolist()
    influence = torch.zeros(n, dtype=torch.float64, device=device)
    roc_tpr = torch.zeros(len(ROC_GRID), dtype=torch.float64, device=device)
    grid = torch.from_numpy(ROC_GRID).double().to(device)
    auc = weights = 0.0
    for index in range(n_classes + 1):  # index 0 is "none", whose target is -1
        members = by_class[ends[index] : ends[index + 1]]
        n_pos = len(members)
        n_neg = n - n_pos
        if n_pos == 0 or n_neg == 0:
            continue
        score = -logits.amax(-1) if index == 0 else logits[:, index - 1].contiguous()
        pos, order = score[members].sort()
        members = members[order]
        below = torch.searchsorted(pos, score)  # positives strictly below each item
        upto = torch.searchsorted(pos, score, right=True)  # positives below or equal
        # Counts of all items, then of positives alone, give those of negatives.
        n_below = torch.bincount(upto, minlength=n_pos + 1) - torch.bincount(upto[members], minlength=n_pos + 1)
        n_upto = torch.bincount(below, minlength=n_pos + 1) - torch.bincount(below[members], minlength=n_pos + 1)
        negatives_below = n_below.cumsum(0)[:-1].double()
        negatives_upto = n_upto.cumsum(0)[:-1].double()
        placement_pos = (negatives_below + negatives_upto) / (2 * n_neg)
        class_auc = float(placement_pos.mean())
        weight = n_pos / n
        placement = 1 - (below + upto).double() / (2 * n_pos)
        share = (placement - class_auc) * (n / n_neg)
        share[members] = (placement_pos - class_auc) * (n / n_pos)
        influence += weight * (share + class_auc)
        fpr = 1 - negatives_below / n_neg  # negatives at or above each positive
        reached = torch.searchsorted(fpr.flip(0).contiguous(), grid, right=True).double() / n_pos
        roc_tpr += weight * reached
        auc += weight * class_auc
        weights += weight
    weights = weights or math.nan  # no class has both: nothing is defined
    return WeightedAuc(auc / weights, influence / weights, roc_tpr / weights)


def accuracy_curves(confidence: Tensor, predicted: Tensor, target: Tensor) -> Accuracies:
    """Return the accuracies at each of `THRESHOLDS`; arguments (items,), as for `correct_at`."""
    at = torch.stack([correct_at(confidence, predicted, target, float(t)) for t in THRESHOLDS])
    return accuracies(at, target.expand(len(THRESHOLDS), -1))


def figures(logits: Tensor, target: Tensor, against_threshold: Accuracies) -> dict[str, float]:
    """Compute the metrics of one trial that need all its probabilities, by name; see also `records.figures`.

    Args:
        logits: (items, classes).
        target: Class of each item, -1 for "none" (items,).
        against_threshold: Accuracies at each of `THRESHOLDS`.
    """
    return {
        **proper_scores(logits, target),
        "ood_prevalence": float((target == -1).double().mean()),
        "crossing_threshold": crossing_threshold(against_threshold.all, against_threshold.none),
    }


def proper_scores(logits: Tensor, target: Tensor) -> dict[str, float]:
    """Return `brier` and `nll`, by name.

    `brier` is the mean over items of the summed squared errors of the class probabilities, `nll` that of the summed
    binary cross-entropies. The target of a "none" item is 0 for every class.

    Args:
        logits: (items, classes).
        target: Class of each item, -1 for "none" (items,).
    """
    exact = logits.double()
    expected = one_hot(target + 1, logits.shape[1] + 1)[:, 1:].double()
    return {
        "brier": float((exact.sigmoid() - expected).square().sum(-1).mean()),
        "nll": float(nll_of_items(logits, target).mean()),
    }


def nll_of_items(logits: Tensor, target: Tensor) -> Tensor:
    """Return each item's summed binary cross-entropies, float64 (items,); arguments are those of `proper_scores`."""
    expected = one_hot(target + 1, logits.shape[1] + 1)[:, 1:].double()
    return binary_cross_entropy_with_logits(logits.double(), expected, reduction="none").sum(-1)


def crossing_threshold(overall: Tensor, none: Tensor) -> float:
    """Return where overall and "none" accuracy at each of `THRESHOLDS` cross, interpolated; NaN where they do not."""
    gap = (overall - none).cpu().numpy()
    for index in range(1, len(gap)):
        if gap[index - 1] >= 0 >= gap[index] and gap[index - 1] > gap[index]:
            share = gap[index - 1] / (gap[index - 1] - gap[index])
            return float(THRESHOLDS[index - 1] + share * (THRESHOLDS[index] - THRESHOLDS[index - 1]))
    return float("nan")
