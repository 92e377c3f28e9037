"""Figures from per-item results: differences to the controls, calibration, confidence, gains of classes."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np
import numpy.typing as npt

from analysis.figures.types import FloatArray, ForestFigure, ForestRow, LineFigure, Series
from analysis.format import figure_name, heading
from analysis.results.controls import each_with_its_own, is_reference, reference_of, references_text
from analysis.statistics.decisions import MAIN_FIGURES, MethodEvidence, items_of
from trainables.records.figures import LOWER_IS_BETTER, confidence_bins
from trainables.records.types import N_BINS, ItemResults, TrialRecord

_N_CONFIDENCE_BINS = 20
_MAX_CLASS_GROUPS = 8

# Items below which the accuracy of a bin is too uncertain to show.
_MIN_IN_BIN = 10


def forest_figures(evidence: Mapping[str, MethodEvidence]) -> list[ForestFigure]:
    """Return a forest plot of the differences to the controls in the objective and each main figure.

    There is none with one split or no control.
    """
    figures = dict.fromkeys(
        figure
        for own in evidence.values()
        for figure, difference in own.differences.items()
        if difference.confirmatory or figure in MAIN_FIGURES
    )
    found = []
    for figure in figures:
        differences = {method: own.differences[figure] for method, own in evidence.items() if figure in own.differences}
        rows = tuple(
            ForestRow(
                method,
                seen.interval.estimate,
                (seen.interval.low, seen.interval.high),
                str(seen.decision),
            )
            for method, seen in differences.items()
            if math.isfinite(seen.interval.low)
        )
        if rows:
            name = figure_name(figure)
            region = next(iter(differences.values())).region
            own = f" {each}" if (each := each_with_its_own(differences)) else ""
            note = (
                f"Bar: interval over splits and items; all of them hold together with 95 % confidence. Shade: "
                f"±{region:g}, practically equal.{own}"
            )
            found.append(
                ForestFigure(
                    f"differences-{figure}",
                    f"{heading(name)} against {references_text(differences)}",
                    f"{note} Left is better." if figure in LOWER_IS_BETTER else note,
                    f"difference in {name}",
                    region,
                    rows,
                )
            )
    return found


def item_figures(reported: Mapping[str, Sequence[TrialRecord]]) -> list[LineFigure]:
    """Return the calibration, confidence and per-class figures of trials that were read with their items."""
    shade = "Line: mean over splits; shade: minimum to maximum."
    known = partial(_confidence_shares, known=True)
    none = partial(_confidence_shares, known=False)
    figures = [
        LineFigure(
            "reliability",
            "Reliability on known classes",
            f"On the diagonal, accuracy equals confidence; bins of {_MIN_IN_BIN} items or more. {shade}",
            "confidence",
            "accuracy",
            _in_bins(reported, N_BINS, _bin_accuracies),
            y_limits=(0.0, 1.02),
            reference="diagonal",
        ),
        *_class_gains(reported, shade),
        *(
            LineFigure(
                f"confidence-{name}",
                f"Confidence on {what}",
                shade,
                "confidence",
                f"fraction of {items}",
                _in_bins(reported, _N_CONFIDENCE_BINS, shares),
            )
            for name, what, items, shares in (
                ("known", "known classes", "known items", known),
                ("none", "“none” items", "“none” items", none),
            )
        ),
    ]
    return [figure for figure in figures if figure.series]


def _class_gains(reported: Mapping[str, Sequence[TrialRecord]], shade: str) -> list[LineFigure]:
    """Return the gain in accuracy over the control against class size, in groups of classes of similar size."""
    references = {name: records for name, records in reported.items() if is_reference(name)}
    methods = [method for method in reported if method not in references and reference_of(method) in references]
    if not methods:
        return []
    labels: dict[int, int] = {}
    for items in map(items_of, references[reference_of(methods[0])]):
        labels.update(zip(items.item.tolist(), items.label.tolist(), strict=True))
    sizes = np.bincount(list(labels.values()))
    present = np.flatnonzero(sizes)
    # Classes of one size stay in one group, so that no two groups have the same size.
    edges = np.unique(np.quantile(sizes[present], np.linspace(0, 1, _MAX_CLASS_GROUPS + 1))[1:-1])
    place = np.searchsorted(edges, sizes[present], side="left")
    groups = [present[place == index] for index in np.unique(place)]
    x = np.array([float(np.exp(np.log(sizes[group]).mean())) for group in groups])
    if len(x) < 2:
        return []
    before = {name: [_class_means(one, len(sizes)) for one in records] for name, records in references.items()}
    series = []
    for method in methods:
        pairs = zip(reported[method], before[reference_of(method)], strict=True)
        gains = [_class_means(record, len(sizes)) - base for record, base in pairs]
        series.append(Series.over_splits(method, x, [_group_means(gain, groups) for gain in gains]))
    return [
        LineFigure(
            "class-gains",
            "Gain by class size",
            f"Gain over {references_text(methods)}, mean over classes of similar size. {shade}",
            "items per class",
            "gain in accuracy",
            tuple(series),
            x_limits=(float(x[0]) / 1.15, float(x[-1]) * 1.15),
            x_scale="log",
            reference="zero",
        )
    ]


def _class_means(record: TrialRecord, n_classes: int) -> FloatArray:
    """Return the accuracy on each class at the study's threshold; NaN for a class without an item."""
    items = items_of(record)
    return _means(items.label, items.correct, n_classes)


def _group_means(values: FloatArray, groups: Sequence[Any]) -> FloatArray:
    means = [values[group][np.isfinite(values[group])] for group in groups]
    return np.array([float(kept.mean()) if kept.size else math.nan for kept in means])


def _in_bins(
    reported: Mapping[str, Sequence[TrialRecord]], n_bins: int, values: Callable[[ItemResults, int], FloatArray]
) -> tuple[Series, ...]:
    """Return a curve over bins of confidence for each method that has it."""
    edges = np.linspace(0, 1, n_bins + 1)
    centres = (edges[:-1] + edges[1:]) / 2
    found = [
        Series.over_splits(method, centres, [values(items_of(record), n_bins) for record in records])
        for method, records in reported.items()
    ]
    return tuple(series for series in found if np.isfinite(series.mean).any())


def _bin_accuracies(items: ItemResults, n_bins: int) -> FloatArray:
    """Return the accuracy, without threshold, on the known items of each bin of confidence."""
    right = (items.predicted == items.label)[items.known]
    return _means(confidence_bins(items.confidence[items.known], n_bins), right, n_bins, _MIN_IN_BIN)


def _confidence_shares(items: ItemResults, n_bins: int, *, known: bool) -> FloatArray:
    """Return the fraction of the known, or of the "none", items in each bin of confidence; NaN without such items."""
    chosen = items.confidence[items.known == known]
    counts = np.bincount(confidence_bins(chosen, n_bins), minlength=n_bins)
    return counts / len(chosen) if len(chosen) else np.full(n_bins, np.nan)


def _means(group: npt.NDArray[np.integer], value: npt.NDArray[Any], n_groups: int, fewest: int = 1) -> FloatArray:
    """Return the mean value of each group; NaN for a group of fewer values."""
    counts = np.bincount(group, minlength=n_groups)
    sums = np.bincount(group, weights=value, minlength=n_groups)
    return np.where(counts >= fewest, sums / np.maximum(counts, 1), np.nan)
