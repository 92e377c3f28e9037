"""Figures that need more than each trial's own curves: its items, or all the candidates of a study."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from analysis.aggregate import summarise_candidates
from analysis.curves import LineFigure, Series, Values
from analysis.decisions import CONTROL, MethodEvidence
from analysis.load import StudyResults
from trainables.records import Candidate, TrialRecord

N_RELIABILITY_BINS = 15
_N_CONFIDENCE_BINS = 20
_MOST_CLASS_GROUPS = 8


@dataclass(frozen=True)
class ForestRow:
    """One method of a forest plot; intervals are (low, high).

    Attributes:
        method: Name of the method.
        estimate: Its difference to control.
        two_way: The interval that decides.
        naive: Of a paired t over splits.
        nadeau_bengio: Of the corrected resampled t.
        decision: In one word.
    """

    method: str
    estimate: float
    two_way: tuple[float, float]
    naive: tuple[float, float]
    nadeau_bengio: tuple[float, float]
    decision: str


@dataclass(frozen=True)
class ForestFigure:
    """Differences to control in one figure, with their intervals.

    Attributes:
        name: File name without its ending.
        title: What is seen, in a few words.
        note: One plain sentence on how to read it.
        x_label: What runs along the x axis.
        region: Half width of the region of practical equivalence.
        rows: One a method, in the order of the study.
    """

    name: str
    title: str
    note: str
    x_label: str
    region: float
    rows: tuple[ForestRow, ...]

    @property
    def alternative_text(self) -> str:
        """The figure in words, for those who do not see it."""
        words = "; ".join(
            f"{row.method} {row.estimate:+.4f}, {row.two_way[0]:+.4f} to {row.two_way[1]:+.4f}, {row.decision}"
            for row in self.rows
        )
        return f"{self.title}, with 95 % intervals. {words}."


def forest_figures(evidence: Mapping[str, MethodEvidence], names: Mapping[str, str]) -> list[ForestFigure]:
    """Forest plots of the differences to control, one a figure; none without control or with one split."""
    figures = dict.fromkeys(figure for own in evidence.values() for figure in own.differences)
    found = []
    for figure in figures:
        differences = {method: own.differences[figure] for method, own in evidence.items() if figure in own.differences}
        rows = tuple(
            ForestRow(
                method, seen.two_way.estimate, (seen.two_way.low, seen.two_way.high),
                (seen.naive.low, seen.naive.high), (seen.nadeau_bengio.low, seen.nadeau_bengio.high),
                str(seen.decision),
            )
            for method, seen in differences.items()
            if math.isfinite(seen.two_way.low)
        )  # fmt: skip
        if rows:
            name = names.get(figure, figure)
            region = next(iter(differences.values())).region
            note = (
                f"Bar: 95 % over splits and items. Thin, above: over splits alone, too narrow; below: Nadeau and "
                f"Bengio, too wide. Shade: ±{region:g}, practically equal."
            )
            x_label = f"difference in {name[0].lower()}{name[1:]}"
            found.append(ForestFigure(f"differences-{figure}", f"{name} against control", note, x_label, region, rows))
    return found


def item_figures(reported: Mapping[str, Sequence[TrialRecord]]) -> list[LineFigure]:
    """Calibration, confidence and per-class figures, from trials read with their items."""
    shade = "Line: mean over splits; shade: minimum to maximum."
    edges = np.linspace(0, 1, N_RELIABILITY_BINS + 1)
    narrow = np.linspace(0, 1, _N_CONFIDENCE_BINS + 1)

    def reliability(items: Any) -> Values:
        right = (items.predicted == items.label)[items.known]
        return _binned_mean(items.confidence[items.known], right, edges)

    def confidence(known: bool) -> Callable[[Any], Values]:
        def share(items: Any) -> Values:
            chosen = items.confidence[items.known == known]
            counts = np.histogram(chosen, narrow)[0]
            return counts / len(chosen) if len(chosen) else np.full(len(counts), np.nan)

        return share

    figures = [
        LineFigure(
            "reliability", "Reliability on known classes", f"On the diagonal, confidence is deserved. {shade}",
            "confidence", "share right", (0.0, 1.0), (0.0, 1.02), "band",
            _of_items(reported, edges, reliability), reference="diagonal",
        ),
        *_class_gains(reported, shade),
        LineFigure(
            "confidence-known", "Confidence on known classes", shade, "confidence", "share of known items",
            (0.0, 1.0), None, "band", _of_items(reported, narrow, confidence(True)),
        ),
        LineFigure(
            "confidence-none", "Confidence on “none” items", shade, "confidence", "share of “none” items",
            (0.0, 1.0), None, "band", _of_items(reported, narrow, confidence(False)),
        ),
    ]  # fmt: skip
    return [figure for figure in figures if figure.series]


def search_figures(results: StudyResults, objective: str) -> list[LineFigure]:
    """How the objective answers to each hyperparameter, and what it cost to find the best.

    Args:
        results: The study.
        objective: How the objective is called.
    """
    trials: dict[Candidate, list[TrialRecord]] = {}
    for record in results.records:
        if record.config.phase == results.description.choosing_phase:
            trials.setdefault(record.config.candidate, []).append(record)
    complete = [
        summary.candidate
        for summary in summarise_candidates(results, results.description.choosing_phase)
        if summary.complete
    ]
    scores = {
        candidate: np.array([record.metrics[results.description.objective] for record in trials[candidate]])
        for candidate in complete
    }
    found = list(_responses(scores, objective))
    budget = _budget(results.description.methods, trials, scores)
    if len(complete) > len(results.description.methods) and budget:
        end = max(float(series.x[-1]) for series in budget)
        found.append(
            LineFigure(
                "budget", "What the search cost", "Best mean score found so far.", "device seconds",
                f"best {objective}", (0.0, 1.02 * end), None, "dots", budget, steps=True,
            )
        )  # fmt: skip
    return found


def _responses(scores: Mapping[Candidate, Values], objective: str) -> Iterator[LineFigure]:
    names = dict.fromkeys(name for candidate in scores for name, _ in candidate.params)
    for name in names:
        series = []
        for method in dict.fromkeys(candidate.method for candidate in scores):
            own = {c: values for c, values in scores.items() if c.method == method and name in dict(c.params)}
            # With several hyperparameters, the best of the others stands for each value of this one.
            best: dict[float, Values] = {}
            for candidate, values in own.items():
                x = dict(candidate.params)[name]
                if x not in best or values.mean() > best[x].mean():
                    best[x] = values
            if best:
                series.append(_response(method, dict(sorted(best.items()))))
        values = np.concatenate([one.x for one in series])
        if len(np.unique(values)) < 2:
            continue
        margin = 0.04 * float(values.max() - values.min())
        limits = (float(values.min()) - margin, float(values.max()) + margin)
        flat = [
            Series(c.method, np.array(limits), *(np.full(2, value) for value in (s.mean(), s.min(), s.max())))
            for c, s in scores.items()
            if c == Candidate(CONTROL)
        ]
        yield LineFigure(
            f"response-{name}", f"Response to {name}", "Dot: one split. Line: mean over splits.", name, objective,
            limits, None, "dots", (*flat, *series),
        )  # fmt: skip


def _response(method: str, best: Mapping[float, Values]) -> Series:
    return Series(
        method,
        np.array(list(best)),
        np.array([values.mean() for values in best.values()]),
        np.array([values.min() for values in best.values()]),
        np.array([values.max() for values in best.values()]),
        np.array([(x, value) for x, values in best.items() for value in values]),
    )


def _budget(
    methods: Sequence[str], trials: Mapping[Candidate, list[TrialRecord]], scores: Mapping[Candidate, Values]
) -> tuple[Series, ...]:
    """Best mean score so far against device seconds spent, candidates in the order in which they started."""
    found = []
    for method in methods:
        own = sorted(
            (candidate for candidate in scores if candidate.method == method),
            key=lambda candidate: min(record.started_at_s for record in trials[candidate]),
        )
        if own:
            spent = np.cumsum([sum(record.duration_s for record in trials[candidate]) for candidate in own])
            best = np.maximum.accumulate([scores[candidate].mean() for candidate in own])
            found.append((method, spent, best))
    end = max((float(spent[-1]) for _, spent, _ in found), default=0.0)
    curves = [(method, np.append(spent, end), np.append(best, best[-1])) for method, spent, best in found]
    return tuple(Series(method, spent, best, best, best) for method, spent, best in curves)


def _class_gains(reported: Mapping[str, Sequence[TrialRecord]], shade: str) -> list[LineFigure]:
    """Gain in accuracy over control against the size of a class, in groups of classes of like size."""
    control = reported.get(CONTROL)
    if not control or len(reported) < 2:
        return []
    labels: dict[int, int] = {}
    for record in control:
        if record.items is not None:
            labels.update(zip(record.items.item.tolist(), record.items.label.tolist(), strict=True))
    sizes = np.bincount(list(labels.values()))
    present = np.flatnonzero(sizes)
    order = present[np.argsort(sizes[present], kind="stable")]
    groups = [group for group in np.array_split(order, min(_MOST_CLASS_GROUPS, len(order))) if group.size]
    x = np.array([float(np.exp(np.log(sizes[group]).mean())) for group in groups])
    if x[0] == x[-1]:
        return []
    before = [_class_means(record, len(sizes)) for record in control]
    series = []
    for method, records in reported.items():
        if method != CONTROL:
            gains = [_class_means(record, len(sizes)) - base for record, base in zip(records, before, strict=True)]
            series.append(_series(method, x, [_group_means(gain, groups) for gain in gains]))
    note = f"Gain over control, mean over classes of like size. {shade}"
    limits = (float(x[0]) / 1.15, float(x[-1]) * 1.15)
    return [
        LineFigure(
            "class-gains", "Which classes profit", note, "items of the class", "gain in accuracy", limits, None,
            "band", tuple(series), x_scale="log", reference="zero",
        )
    ]  # fmt: skip


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
        _series(method, centres, [curve(record.items) for record in records]) for method, records in reported.items()
    ]
    return tuple(series for series in found if np.isfinite(series.mean).any())


def _series(method: str, x: Values, of_splits: Sequence[Values]) -> Series:
    values = np.stack(of_splits)
    with warnings.catch_warnings():
        # A bin that no split fills stays NaN, and is not drawn.
        warnings.simplefilter("ignore", category=RuntimeWarning)
        return Series(method, x, np.nanmean(values, 0), np.nanmin(values, 0), np.nanmax(values, 0))


def _binned_mean(position: Values, value: Values, edges: Values) -> Values:
    """Mean of a value in each bin of a position; NaN for an empty bin."""
    place = np.clip(np.digitize(position, edges) - 1, 0, len(edges) - 2)
    counts = np.bincount(place, minlength=len(edges) - 1)
    sums = np.bincount(place, weights=value, minlength=len(edges) - 1)
    return np.where(counts > 0, sums / np.maximum(counts, 1), np.nan)
