"""Figures of a trial that follow from its per-item results, each with the influence of every item.

The influence is the derivative of a figure to an item's weight, as a pseudo-value: the mean over the items that the
figure counts is the figure itself. For accuracies it is whether the item is right. So one analysis of variance over
splits and items serves all figures.

Scores are ranked as logits: in float32 the sigmoid of a logit above 17 is exactly 1, and ties would hide an order.

References:
    Efron (1982), "The Jackknife, the Bootstrap and Other Resampling Plans", chapter 6: the infinitesimal jackknife.
    DeLong, DeLong & Clarke-Pearson (1988), https://doi.org/10.2307/2531595: influences on an area under a ROC curve.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from trainables.records.types import N_BINS, ItemResults

_Floats = npt.NDArray[np.float64]
_Bools = npt.NDArray[np.bool_]


@dataclass(frozen=True)
class ItemFigure:
    """A figure and the influence of each item on it.

    Attributes:
        value: The figure; NaN where it is not defined.
        influence: (items,), NaN for items that the figure does not count.
    """

    value: float
    influence: _Floats


def mean_of(values: npt.NDArray[np.number] | _Bools, counted: _Bools | None = None) -> ItemFigure:
    """Return the mean of a value over the counted items, by default all."""
    influence = values.astype(np.float64)
    if counted is not None:
        influence = np.where(counted, influence, np.nan)
    there = influence[~np.isnan(influence)]
    return ItemFigure(float(there.mean()) if len(there) else math.nan, influence)


def confidence_bins(probability: _Floats, n_bins: int = N_BINS) -> npt.NDArray[np.int64]:
    """Return the bin of each probability, of equally wide bins that include their upper edge: (0, 1/n], (1/n, 2/n] ...

    A probability of 0 is in the first bin.
    """
    return np.searchsorted(np.linspace(0, 1, n_bins + 1)[1:-1], probability, side="left").astype(np.int64)


def calibration_error(probability: _Floats, right: _Bools, counted: _Bools | None = None) -> ItemFigure:
    """Return the expected calibration error over `N_BINS` bins, of the counted items, by default all.

    References:
        Guo, Pleiss, Sun & Weinberger (2017), https://arxiv.org/abs/1706.04599
    """
    counted = np.ones(len(right), np.bool_) if counted is None else counted
    bins = confidence_bins(probability[counted])
    gaps = right[counted] - probability[counted]
    influence = np.full(len(right), np.nan)
    influence[counted] = gaps * np.sign(np.bincount(bins, gaps, N_BINS))[bins]
    return mean_of(influence)


def auroc(score: npt.NDArray[np.floating], positive: _Bools) -> ItemFigure:
    """Return the area under the ROC curve, ties counting half; NaN where one kind is missing."""
    return concordance(score, positive, np.ones(len(score)))


def concordance(
    score: npt.NDArray[np.floating], positive: _Bools, worth: npt.NDArray[np.number] | _Bools
) -> ItemFigure:
    """Return the mean over all pairs of a positive and a negative item of whether the positive one scores higher.

    Args:
        score: (items,); ties count half.
        positive: (items,).
        worth: What a won pair counts, by its positive item (items,); 1 gives the AUROC.
    """
    n, n_positive = len(score), int(positive.sum())
    n_negative = n - n_positive
    if n_positive == 0 or n_negative == 0:
        return ItemFigure(math.nan, np.full(n, np.nan))
    counts = worth.astype(np.float64)
    high, low = score[positive], np.sort(score[~positive])
    won = (np.searchsorted(low, high, "left") + np.searchsorted(low, high, "right")) / (2 * n_negative)
    won = won * counts[positive]
    value = float(won.mean())
    order = np.argsort(high, kind="stable")
    above = np.concatenate([np.cumsum(counts[positive][order][::-1])[::-1], [0.0]])
    ranked = high[order]
    lost_to = (
        above[np.searchsorted(ranked, score[~positive], "left")]
        + above[np.searchsorted(ranked, score[~positive], "right")]
    ) / (2 * n_positive)
    influence = np.empty(n)
    influence[positive] = value + (won - value) * n / n_positive
    influence[~positive] = value + (lost_to - value) * n / n_negative
    return ItemFigure(value, influence)


def average_precision(score: npt.NDArray[np.floating], positive: _Bools) -> ItemFigure:
    """Return the average precision; items of one score stay together. NaN where one kind is missing.

    References:
        Davis & Goadrich (2006), https://doi.org/10.1145/1143844.1143874
    """
    n, n_positive = len(score), int(positive.sum())
    if n_positive in (0, n):
        return ItemFigure(math.nan, np.full(n, np.nan))
    order = np.argsort(-score, kind="stable")
    ranked, hit = score[order], positive[order].astype(np.float64)
    last = np.searchsorted(-ranked, -ranked, "right") - 1  # the last item of the same score
    true, taken = np.cumsum(hit)[last], (last + 1).astype(np.float64)
    precision = true / taken
    value = float((precision * hit).sum() / n_positive)
    first = np.searchsorted(-ranked, -ranked, "left")  # an item changes the precision from its own score downwards
    of_hits = np.concatenate([np.cumsum((hit * (taken - true) / taken**2)[::-1])[::-1], [0.0]])[first]
    of_misses = np.concatenate([np.cumsum((hit * true / taken**2)[::-1])[::-1], [0.0]])[first]
    change = np.where(hit > 0, precision - value + of_hits, -of_misses)
    influence = np.empty(n)
    influence[order] = value + change * n / n_positive
    return ItemFigure(value, influence)


def false_positives_at_95(score: npt.NDArray[np.floating], positive: _Bools) -> float:
    """Return the share of negatives that score at least as high as the 95 % best positives; NaN if a kind is missing.

    It is a quantile, and has no useful influence per item.
    """
    high, low = np.sort(score[positive])[::-1], score[~positive]
    if len(high) == 0 or len(low) == 0:
        return math.nan
    threshold = high[math.ceil(0.95 * len(high) - 1e-9) - 1]
    return float((low >= threshold).mean())


def balanced_accuracy(label: npt.NDArray[np.integer], right: _Bools, counted: _Bools) -> ItemFigure:
    """Return the mean over classes of the accuracy on the class."""
    _, place = np.unique(label[counted], return_inverse=True)
    influence = np.full(len(label), np.nan)
    if len(place) == 0:
        return ItemFigure(math.nan, influence)
    sizes = np.bincount(place)
    recall = np.bincount(place, right[counted]) / sizes
    value, n = float(recall.mean()), len(place)
    influence[counted] = value + (right[counted] - recall[place]) * n / (sizes[place] * len(sizes))
    return ItemFigure(value, influence)


def macro_f1(label: npt.NDArray[np.integer], predicted: npt.NDArray[np.integer], counted: _Bools) -> ItemFigure:
    """Return the mean over classes, those of the items and the predicted ones, of the F1 score."""
    influence = np.full(len(label), np.nan)
    own, told = label[counted], predicted[counted]
    if len(own) == 0:
        return ItemFigure(math.nan, influence)
    _, places = np.unique(np.concatenate([own, told]), return_inverse=True)
    own, told = places[: len(own)], places[len(own) :]
    n_classes, right = int(places.max()) + 1, own == told
    total = np.bincount(own, minlength=n_classes) + np.bincount(told, minlength=n_classes)
    f1 = 2 * np.bincount(own, right, n_classes) / total
    value = float(f1.mean())
    change = 2 * right / total[own] - f1[own] / total[own] - f1[told] / total[told]
    influence[counted] = value + change * len(own) / n_classes
    return ItemFigure(value, influence)


def risk_coverage(score: npt.NDArray[np.floating], right: _Bools, counted: _Bools) -> ItemFigure:
    """Return the area under the risk-coverage curve: the mean error of the most confident items, over all coverages.

    Items of one score stay together.

    References:
        Geifman & El-Yaniv (2017), https://arxiv.org/abs/1705.08500
    """
    influence = np.full(len(score), np.nan)
    chosen = np.flatnonzero(counted)
    if len(chosen) == 0:
        return ItemFigure(math.nan, influence)
    order = chosen[np.argsort(-score[chosen], kind="stable")]
    ranked, wrong = -score[order].astype(np.float64), (~right[order]).astype(np.float64)
    last = np.searchsorted(ranked, ranked, "right") - 1
    first = np.searchsorted(ranked, ranked, "left")
    n_taken = (last + 1).astype(np.float64)
    risk = np.cumsum(wrong)[last] / n_taken
    after = np.concatenate([np.cumsum((1 / n_taken)[::-1])[::-1], [0.0]])[first]
    of_risk = np.concatenate([np.cumsum((risk / n_taken)[::-1])[::-1], [0.0]])[first]
    influence[order] = risk + wrong * after - of_risk
    return ItemFigure(float(risk.mean()), influence)


def top1(items: ItemResults) -> ItemFigure:
    """Return the accuracy over known items, without a threshold."""
    return mean_of(_right(items), items.known)


def _right(items: ItemResults) -> _Bools:
    return np.asarray(items.predicted == items.label)


# Every figure that follows from the per-item results, by name.
ITEM_FIGURES: Mapping[str, Callable[[ItemResults], ItemFigure]] = {
    "auc_weighted": lambda items: mean_of(items.auc_influence),
    "accuracy": lambda items: mean_of(items.correct),
    "accuracy_known": lambda items: mean_of(items.correct, items.known),
    "accuracy_none": lambda items: mean_of(items.correct, ~items.known),
    "top1": top1,
    "balanced_accuracy": lambda items: balanced_accuracy(items.label, _right(items), items.known),
    "macro_f1": lambda items: macro_f1(items.label, items.predicted, items.known),
    "overconfidence_known": lambda items: mean_of(items.confidence - _right(items), items.known),
    "overconfidence_open": lambda items: mean_of(items.confidence - (_right(items) & items.known)),
    "ece_known": lambda items: calibration_error(items.confidence, _right(items), items.known),
    "ece_open": lambda items: calibration_error(items.confidence, _right(items) & items.known),
    "aurc": lambda items: risk_coverage(items.logit, _right(items), items.known),
    "oscr": lambda items: concordance(items.logit, items.known, _right(items)),
    "ood_auroc": lambda items: auroc(-items.logit, ~items.known),
    "ood_aupr": lambda items: average_precision(-items.logit, ~items.known),
}


def item_metrics(items: ItemResults) -> dict[str, float]:
    """Return the value of every figure that follows from the per-item results, by name; NaN where undefined."""
    found = {name: figure(items).value for name, figure in ITEM_FIGURES.items()}
    return {**found, "ood_fpr95": false_positives_at_95(-items.logit, ~items.known)}
