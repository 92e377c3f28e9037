"""The figures of a report as numbers: what each shows, before anything is drawn.

One description serves the page, the SVG and PDF files and the CSV of the numbers.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from trainables.records import TrialRecord

Values = npt.NDArray[np.float64]

_ZOOM_SIDES = (0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0)


@dataclass(frozen=True)
class Series:
    """A curve of one method over its splits; the arrays are (points,).

    Attributes:
        method: Name of the method, or of what else the curve is of.
        x: Positions.
        mean: Mean over the splits.
        low: Minimum over the splits, or the lower end of an interval.
        high: Maximum over the splits, or the upper end of an interval.
        points: Single splits to show as dots, (dots, 2) of x and y.
    """

    method: str
    x: Values
    mean: Values
    low: Values
    high: Values
    points: Values = field(default_factory=lambda: np.empty((0, 2)))


@dataclass(frozen=True)
class LineFigure:
    """Curves on one pair of axes.

    Attributes:
        name: File name without its ending.
        title: What is seen, in a few words.
        note: One plain sentence on how to read it.
        x_label: What runs along the x axis.
        y_label: What runs along the y axis.
        series: One curve a method; without any there is nothing to show.
        x_limits: Range of the x axis.
        y_limits: Range of the y axis; None to fit the curves.
        spread: How low and high are drawn: `dotted` lines, a `band`, `bars` at points that stand beside each other, or
            `none`.
        x_scale: `linear` or `log`.
        reference: A line to read against: `none`, `zero`, the `diagonal`.
        steps: Whether a curve holds its value up to the next point.
        marks: A point to mark on each method's curve, by method.
        ticks: What the positions are called, where they are no numbers; positions further apart than 1 are not joined.
        region: Half width of a region to shade around 0; None to shade none.
        columns: What mean, low and high are called in the CSV file.
    """

    name: str
    title: str
    note: str
    x_label: str
    y_label: str
    series: tuple[Series, ...]
    x_limits: tuple[float, float] = (0.0, 1.0)
    y_limits: tuple[float, float] | None = None
    spread: str = "band"
    x_scale: str = "linear"
    reference: str = "none"
    steps: bool = False
    marks: Mapping[str, tuple[float, float]] = field(default_factory=dict)
    ticks: Mapping[float, str] = field(default_factory=dict)
    region: float | None = None
    columns: tuple[str, str, str] = ("mean", "minimum", "maximum")

    @property
    def alternative_text(self) -> str:
        """The figure in words, for those who do not see it."""
        if self.ticks:
            ends = "; ".join(f"{series.method}: {_points_in_words(series, self)}" for series in self.series)
        else:
            ends = "; ".join(f"{series.method} {_in_words(series)}" for series in self.series)
        return f"{self.title}. {self.y_label} against {self.x_label}. {ends}."


def line_figures(reported: Mapping[str, Sequence[TrialRecord]], threshold: float) -> list[LineFigure]:
    """The curves of a study; a figure that no trial has numbers for is left out.

    Args:
        reported: The trials behind each method's reported figures, by method, in the order of the study.
        threshold: The study's threshold, for the texts.
    """
    epochs = [float(epoch) for records in reported.values() for record in records for epoch in record.curves.epoch[-1:]]
    last_epoch = max([1.0, *epochs])
    roc = over_splits(reported, "roc_fpr", "roc_tpr")
    side = _zoom_side(roc)
    dotted = "Solid: mean over splits. Dotted: minimum and maximum."
    band = f"At threshold {threshold:g}. Line: mean over splits; shade: minimum to maximum."
    overall = over_splits(reported, "threshold", "threshold_accuracy")
    none = over_splits(reported, "threshold", "threshold_accuracy_none")
    none_label = "accuracy on “none” items"
    figures = [
        LineFigure(
            "accuracy-by-threshold",
            "Accuracy against threshold",
            f"{dotted} Ring: where it meets “none” accuracy." if none else dotted,
            "threshold",
            "accuracy",
            overall,
            spread="dotted",
            marks=crossings(overall, none),
        ),
        LineFigure(
            "none-accuracy-by-threshold",
            "“None” accuracy against threshold",
            dotted,
            "threshold",
            none_label,
            none,
            y_limits=(0.0, 1.02),
            spread="dotted",
        ),
        LineFigure(
            "roc",
            "ROC, weighted over classes",
            "One against the rest, weighted by each class’s share.",
            "false-positive rate",
            "true-positive rate",
            roc,
            y_limits=(0.0, 1.02),
        ),
        LineFigure(
            "roc-corner",
            "ROC, upper-left corner",
            "The same curves where they part.",
            "false-positive rate",
            "true-positive rate",
            roc,
            x_limits=(0.0, side),
            y_limits=(1.0 - side, 1.0 + 0.02 * side),
        ),
        LineFigure(
            "learning-accuracy",
            "Accuracy while learning",
            band,
            "epoch",
            "accuracy",
            over_splits(reported, "epoch", "epoch_accuracy"),
            x_limits=(0.0, last_epoch),
        ),
        LineFigure(
            "learning-none-accuracy",
            "“None” accuracy while learning",
            band,
            "epoch",
            none_label,
            over_splits(reported, "epoch", "epoch_accuracy_none"),
            x_limits=(0.0, last_epoch),
        ),
    ]
    return [figure for figure in figures if figure.series]


def crossings(overall: Sequence[Series], none: Sequence[Series]) -> dict[str, tuple[float, float]]:
    """Where mean overall and mean "none" accuracy first meet, as (threshold, accuracy), for methods where they do."""
    found = {}
    for own, other in ((own, other) for own in overall for other in none if own.method == other.method):
        gap = own.mean - other.mean
        (places,) = np.nonzero((gap[:-1] > 0) & (gap[1:] <= 0))
        if places.size:
            at = int(places[0])
            share = gap[at] / (gap[at] - gap[at + 1])
            x, y = (float(v[at] + share * (v[at + 1] - v[at])) for v in (own.x, own.mean))
            found[own.method] = (x, y)
    return found


def over_splits(reported: Mapping[str, Sequence[TrialRecord]], x: str, y: str) -> tuple[Series, ...]:
    """Mean, minimum and maximum over splits of one curve, for every method that has it."""
    found = []
    for method, records in reported.items():
        if not records:
            continue
        positions = np.asarray(getattr(records[0].curves, x), dtype=np.float64)
        if any(not np.array_equal(getattr(record.curves, x), getattr(records[0].curves, x)) for record in records):
            continue  # Trials of other schedules share no positions to average at.
        values = np.stack([np.asarray(getattr(record.curves, y), dtype=np.float64) for record in records])
        if values.size == 0 or np.isnan(values).all():
            continue
        with warnings.catch_warnings():
            # A position that no split defines stays NaN, and is not drawn.
            warnings.simplefilter("ignore", category=RuntimeWarning)
            found.append(Series(method, positions, np.nanmean(values, 0), np.nanmin(values, 0), np.nanmax(values, 0)))
    return tuple(found)


def _zoom_side(series: Sequence[Series]) -> float:
    """Side of the corner that shows where ROC curves part: twice the largest equal error rate, rounded up."""
    errors = [float(curve.x[int(np.nanargmin(np.abs(1.0 - curve.mean - curve.x)))]) for curve in series]
    wanted = 2.0 * max(errors, default=0.1)
    return next((side for side in _ZOOM_SIDES if side >= wanted), 1.0)


def _in_words(series: Series) -> str:
    defined = ~np.isnan(series.mean)
    x, mean = series.x[defined], series.mean[defined]
    top = int(np.argmax(mean))
    ends = f"from {mean[0]:.3f} at {x[0]:.3g} to {mean[-1]:.3f} at {x[-1]:.3g}"
    inner = 0 < top < len(mean) - 1 and not math.isclose(mean[top], max(mean[0], mean[-1]))
    return f"{ends}, highest {mean[top]:.3f} at {x[top]:.3g}" if inner else ends


def _points_in_words(series: Series, figure: LineFigure) -> str:
    sign = "+" if figure.reference == "zero" else ""
    points = zip(series.x, series.mean, series.low, series.high, strict=True)
    words = []
    for x, mean, low, high in points:
        ends = f" ({low:{sign}.4f} to {high:{sign}.4f})" if math.isfinite(low) else ""
        words.append(f"{figure.ticks[float(x)]} {mean:{sign}.4f}{ends}".replace("\n", " "))
    return ", ".join(words)
