"""Curves of a study's trials: accuracy against threshold, ROC, learning curves."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from analysis.figures.types import LineFigure, Series
from trainables.records.types import TrialRecord

_ZOOM_SIDES = (0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0)


def line_figures(reported: Mapping[str, Sequence[TrialRecord]], threshold: float) -> list[LineFigure]:
    """Return the curves of a study, without figures for which no trial has values.

    Args:
        reported: The trials behind each method's reported figures, in the study's order of methods.
        threshold: The study's threshold, for the notes.
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
        *(
            LineFigure(
                f"learning-{name}",
                f"{title} while learning",
                band,
                "epoch",
                label,
                over_splits(reported, "epoch", field),
                x_limits=(0.0, last_epoch),
            )
            for name, title, label, field in (
                ("accuracy", "Accuracy", "accuracy", "epoch_accuracy"),
                ("none-accuracy", "“None” accuracy", none_label, "epoch_accuracy_none"),
            )
        ),
    ]
    return [figure for figure in figures if figure.series]


def crossings(overall: Sequence[Series], none: Sequence[Series]) -> dict[str, tuple[float, float]]:
    """Return where mean overall and mean "none" accuracy first cross, by method, as (threshold, accuracy).

    A method whose curves do not cross has no entry.
    """
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
    """Return mean, minimum and maximum over splits of one curve, for every method that has it.

    Args:
        reported: The trials behind each method's reported figures.
        x: Field of `Curves` with the positions.
        y: Field of `Curves` with the values.
    """
    found = []
    for method, records in reported.items():
        if not records:
            continue
        positions = np.asarray(getattr(records[0].curves, x), dtype=np.float64)
        if any(not np.array_equal(getattr(record.curves, x), getattr(records[0].curves, x)) for record in records):
            continue  # trials of different schedules have no common positions
        values = np.stack([np.asarray(getattr(record.curves, y), dtype=np.float64) for record in records])
        if values.size == 0 or np.isnan(values).all():
            continue
        found.append(Series.over_splits(method, positions, values))
    return tuple(found)


def _zoom_side(series: Sequence[Series]) -> float:
    """Return the side of the corner where ROC curves differ: twice the largest equal error rate, rounded up."""
    errors = [float(curve.x[int(np.nanargmin(np.abs(1.0 - curve.mean - curve.x)))]) for curve in series]
    wanted = 2.0 * max(errors, default=0.1)
    return next((side for side in _ZOOM_SIDES if side >= wanted), 1.0)
