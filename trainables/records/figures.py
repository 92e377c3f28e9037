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
from operator import attrgetter
from typing import Any

import numpy as np
import numpy.typing as npt

from trainables.records.types import LAYER_SCORES, LOGIT_SCORES, N_BINS, TEMPERATURE, THRESHOLD, ItemResults

# Figures of which lower values are better.
LOWER_IS_BETTER = frozenset(
    {
        "ece_known",
        "ece_open",
        "ece_known_scaled",
        "ece_open_scaled",
        "aurc",
        "nll",
        "nll_scaled",
        "brier",
        "brier_scaled",
    }
)

_Floats = npt.NDArray[np.float64]
_Bools = npt.NDArray[np.bool_]

# Metrics of a trial, by name; it may have `THRESHOLD` and `TEMPERATURE`.
Metrics = Mapping[str, float]


@dataclass(frozen=True)
class ItemFigure:
    """A figure and the influence of each item on it.

    Attributes:
        value: The figure; NaN where it is not defined.
        influence: (items,), NaN for items that the figure does not count.
    """

    value: float
    influence: _Floats


# Most scores that places refer to: it bounds the bytes of a record.
_MOST_PLACES = 4096

Figure = Callable[[ItemResults, Metrics], ItemFigure]


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


def auroc(score: npt.NDArray[np.number], positive: _Bools) -> ItemFigure:
    """Return the area under the ROC curve, ties counting half; NaN where one kind is missing."""
    return concordance(score, positive, np.ones(len(score)))


def concordance(score: npt.NDArray[np.number], positive: _Bools, worth: npt.NDArray[np.number] | _Bools) -> ItemFigure:
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


def places(score: npt.NDArray[np.floating], positive: _Bools) -> npt.NDArray[np.int32]:
    """Return each item's place among the scores of positive items: twice the number of lower ones, 1 more at a tie.

    The order of each positive and each other item is that of their scores, so `auroc`, `average_precision` and
    `false_positives_at_95` of places, and the influences, equal those of the scores. Of more than 4,096 positive
    scores, evenly spaced ones give the places: then the AUROC differs by less than 1/8,000, measured by 0.000003.

    Returns:
        int32 (items,); empty if a score is not a number.
    """
    if np.isnan(score).any():
        return np.empty(0, np.int32)
    others = np.unique(score[positive])
    if len(others) > _MOST_PLACES:
        evenly = np.linspace(0, positive.sum() - 1, _MOST_PLACES).astype(np.int64)
        others = np.unique(np.sort(score[positive])[evenly])
    return (np.searchsorted(others, score, "left") + np.searchsorted(others, score, "right")).astype(np.int32)


def average_precision(score: npt.NDArray[np.number], positive: _Bools) -> ItemFigure:
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


def false_positives_at_95(score: npt.NDArray[np.number], positive: _Bools) -> float:
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


def _right(items: ItemResults) -> _Bools:
    return np.asarray((items.predicted == items.label) & items.known)


def _right_as_chosen(items: ItemResults, metrics: Metrics) -> _Floats:
    """Return whether each item is right at the chosen threshold (items,); NaN without one."""
    threshold = metrics.get(THRESHOLD, math.nan)
    right = np.where(items.logit.astype(np.float64) > threshold, _right(items), ~items.known)
    return np.where(math.isnan(threshold), math.nan, right)


def _calibration(ending: str, confidence: Callable[[ItemResults, Metrics], _Floats]) -> dict[str, Figure]:
    """Return the figures of a confidence, by their names with an ending."""
    return {
        f"overconfidence_known{ending}": lambda items, metrics: mean_of(
            confidence(items, metrics) - _right(items), items.known
        ),
        f"overconfidence_open{ending}": lambda items, metrics: mean_of(confidence(items, metrics) - _right(items)),
        f"ece_known{ending}": lambda items, metrics: calibration_error(
            confidence(items, metrics), _right(items), items.known
        ),
        f"ece_open{ending}": lambda items, metrics: calibration_error(confidence(items, metrics), _right(items)),
    }


def _detection(ending: str, score: Callable[[ItemResults], npt.NDArray[np.number]]) -> dict[str, Figure]:
    """Return the figures of how well a score tells "none" items from the others, by their names with an ending."""

    def figure(measure: Callable[[npt.NDArray[Any], _Bools], ItemFigure]) -> Figure:
        def of(items: ItemResults, _: Metrics) -> ItemFigure:
            values = score(items)
            if len(values) == 0:
                return ItemFigure(math.nan, np.full(len(items.known), math.nan))
            return measure(values, ~items.known)

        return of

    return {f"ood_auroc{ending}": figure(auroc), f"ood_aupr{ending}": figure(average_precision)}


# The scores of how unknown an item is, by the ending of their figures' names: the published score has none.
_SCORES: Mapping[str, Callable[[ItemResults], npt.NDArray[np.number]]] = {
    "": lambda items: -items.logit,
    **{f"_{name}": attrgetter(name) for name in (*LOGIT_SCORES, *LAYER_SCORES)},
}

# Every figure that follows from the per-item results and, for those `_chosen` and `_scaled`, from the trial's
# threshold and temperature, by name. It is NaN where what it follows from is missing.
ITEM_FIGURES: Mapping[str, Figure] = {
    "auc_weighted": lambda items, _: mean_of(items.auc_influence),
    "accuracy": lambda items, _: mean_of(items.correct),
    "accuracy_known": lambda items, _: mean_of(items.correct, items.known),
    "accuracy_none": lambda items, _: mean_of(items.correct, ~items.known),
    "accuracy_chosen": lambda items, metrics: mean_of(_right_as_chosen(items, metrics)),
    "accuracy_known_chosen": lambda items, metrics: mean_of(_right_as_chosen(items, metrics), items.known),
    "accuracy_none_chosen": lambda items, metrics: mean_of(_right_as_chosen(items, metrics), ~items.known),
    "top1": lambda items, _: mean_of(_right(items), items.known),
    "balanced_accuracy": lambda items, _: balanced_accuracy(items.label, _right(items), items.known),
    "macro_f1": lambda items, _: macro_f1(items.label, items.predicted, items.known),
    **_calibration("", lambda items, _: items.confidence),
    **_calibration("_scaled", lambda items, metrics: items.scaled_confidence(metrics.get(TEMPERATURE, math.nan))),
    "aurc": lambda items, _: risk_coverage(items.logit, _right(items), items.known),
    "nll": lambda items, _: mean_of(items.nll),
    "oscr": lambda items, _: concordance(items.logit, items.known, _right(items)),
    **{name: figure for ending, score in _SCORES.items() for name, figure in _detection(ending, score).items()},
}


def item_metrics(items: ItemResults, chosen: Metrics) -> dict[str, float]:
    """Return the value of every figure that follows from the per-item results, by name; NaN where undefined.

    Args:
        items: The per-item results.
        chosen: The trial's `THRESHOLD` and `TEMPERATURE`, where it has them.
    """
    found = {name: figure(items, chosen).value for name, figure in ITEM_FIGURES.items()}
    for ending, score in _SCORES.items():
        values = score(items)
        found[f"ood_fpr95{ending}"] = false_positives_at_95(values, ~items.known) if len(values) else math.nan
    return found
