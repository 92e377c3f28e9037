"""Figures that rest on the items of the trials: differences to the controls, calibration, confidence, classes."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from analysis.figures.types import ForestFigure, ForestRow, LineFigure, Series, Values
from analysis.results.controls import each_with_its_own, is_reference, reference_of, references_text
from analysis.statistics.decisions import ECE, MethodEvidence
from trainables.records.types import TrialRecord

N_RELIABILITY_BINS = 15

_N_CONFIDENCE_BINS = 20

_FEWEST_IN_BIN = 10

"""Items below which a bin's share of right predictions says nothing."""

_MOST_CLASS_GROUPS = 8


def forest_figures(evidence: Mapping[str, MethodEvidence], names: Mapping[str, str]) -> list[ForestFigure]:
    """Forest plots of the differences to the controls, one a figure; none without control or with one split."""
    figures = dict.fromkeys(figure for own in evidence.values() for figure in own.differences)
    found = []
    for figure in figures:
        differences = {method: own.differences[figure] for method, own in evidence.items() if figure in own.differences}
        rows = tuple(
            ForestRow(
                method,
                seen.two_way.estimate,
                (seen.two_way.low, seen.two_way.high),
                (seen.naive.low, seen.naive.high),
                (seen.nadeau_bengio.low, seen.nadeau_bengio.high),
                str(seen.decision),
            )
            for method, seen in differences.items()
            if math.isfinite(seen.two_way.low)
        )
        if rows:
            name = names.get(figure, figure)
            region = next(iter(differences.values())).region
            own = f" {each}" if (each := each_with_its_own(differences)) else ""
            note = (
                f"Bar: 95 % over splits and items. Thin, above: over splits alone, too narrow; below: Nadeau and "
                f"Bengio, too wide, with an arrow where it runs on. Shade: ±{region:g}, practically equal.{own}"
            )
            found.append(
                ForestFigure(
                    f"differences-{figure}",
                    f"{name[:1].upper()}{name[1:]} against {references_text(differences)}",
                    f"{note} Left is better." if figure == ECE else note,
                    f"difference in {name}",
                    region,
                    rows,
                )
            )
    return found


def item_figures(reported: Mapping[str, Sequence[TrialRecord]]) -> list[LineFigure]:
    """Calibration, confidence and per-class figures, from trials read with their items."""
    shade = "Line: mean over splits; shade: minimum to maximum."
    edges = np.linspace(0, 1, N_RELIABILITY_BINS + 1)
    narrow = np.linspace(0, 1, _N_CONFIDENCE_BINS + 1)

    def reliability(items: Any) -> Values:
        right = (items.predicted == items.label)[items.known]
        return _binned_mean(items.confidence[items.known], right, edges, _FEWEST_IN_BIN)

    def confidence(known: bool) -> Callable[[Any], Values]:
        def share(items: Any) -> Values:
            chosen = items.confidence[items.known == known]
            counts = np.histogram(chosen, narrow)[0]
            return counts / len(chosen) if len(chosen) else np.full(len(counts), np.nan)

        return share

    reliable = LineFigure(
        "reliability",
        "Reliability on known classes",
        f"On the diagonal, confidence equals accuracy; bins of {_FEWEST_IN_BIN} items or more. {shade}",
        "confidence",
        "accuracy",
        _of_items(reported, edges, reliability),
        y_limits=(0.0, 1.02),
        reference="diagonal",
    )
    confident = [
        LineFigure(
            f"confidence-{name}",
            f"Confidence on {what}",
            shade,
            "confidence",
            f"share of {items}",
            _of_items(reported, narrow, confidence(name == "known")),
        )
        for name, what, items in (
            ("known", "known classes", "known items"),
            ("none", "“none” items", "“none” items"),
        )
    ]
    figures = [reliable, *_class_gains(reported, shade), *confident]
    return [figure for figure in figures if figure.series]


def _class_gains(reported: Mapping[str, Sequence[TrialRecord]], shade: str) -> list[LineFigure]:
    """Gain in accuracy over the method's control against the size of a class, in groups of classes of like size."""
    references = {name: records for name, records in reported.items() if is_reference(name)}
    methods = [method for method in reported if method not in references and reference_of(method) in references]
    if not methods:
        return []
    labels: dict[int, int] = {}
    for record in references[reference_of(methods[0])]:
        if record.items is not None:
            labels.update(zip(record.items.item.tolist(), record.items.label.tolist(), strict=True))
    sizes = np.bincount(list(labels.values()))
    present = np.flatnonzero(sizes)
    # Classes of one size stay together, so that the groups differ in size.
    edges = np.unique(np.quantile(sizes[present], np.linspace(0, 1, _MOST_CLASS_GROUPS + 1))[1:-1])
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
            "items of the class",
            "gain in accuracy",
            tuple(series),
            x_limits=(float(x[0]) / 1.15, float(x[-1]) * 1.15),
            x_scale="log",
            reference="zero",
        )
    ]


def _class_means(record: TrialRecord, n_classes: int) -> Values:
    """Accuracy on each class at the study's threshold; NaN for a class without an item."""
    if record.items is None:
        raise ValueError(f"{record.config} was read without its items.")
    counts = np.bincount(record.items.label, minlength=n_classes)
    right = np.bincount(record.items.label, weights=record.items.correct, minlength=n_classes)
    return np.where(counts > 0, right / np.maximum(counts, 1), np.nan)


def _group_means(values: Values, groups: Sequence[Any]) -> Values:
    means = [values[group][np.isfinite(values[group])] for group in groups]
    return np.array([float(kept.mean()) if kept.size else math.nan for kept in means])


def _of_items(
    reported: Mapping[str, Sequence[TrialRecord]], edges: Values, curve: Callable[[Any], Values]
) -> tuple[Series, ...]:
    centres = (edges[:-1] + edges[1:]) / 2
    found = [
        Series.over_splits(method, centres, [curve(record.items) for record in records])
        for method, records in reported.items()
    ]
    return tuple(series for series in found if np.isfinite(series.mean).any())


def _binned_mean(position: Values, value: Values, edges: Values, fewest: int) -> Values:
    """Mean of a value in each bin of a position; NaN for a bin of fewer values."""
    place = np.clip(np.digitize(position, edges) - 1, 0, len(edges) - 2)
    counts = np.bincount(place, minlength=len(edges) - 1)
    sums = np.bincount(place, weights=value, minlength=len(edges) - 1)
    return np.where(counts >= fewest, sums / np.maximum(counts, 1), np.nan)
