"""The figures of the layers: gain by layer, and how alike neighbouring layers are where nothing is augmented."""

from __future__ import annotations

import math
import warnings
from collections.abc import Iterable, Mapping, Sequence
from itertools import pairwise

import numpy as np

from analysis.figures.styles import LineStyle, depth_styles, family_styles, objective_styles
from analysis.figures.types import LineFigure, Series
from analysis.layers.gains import AUTO, BESIDE, INPUT, OBJECTIVES, PROBE, Gains, Target, interval_over
from trainables.records.types import TrialRecord

Drawing = tuple[LineFigure, dict[str, LineStyle]]

"""A figure, and the style of each of its series."""


AUGMENTATION_NAMES: Mapping[str, str] = {
    "deep_dropout": "dropout",
    "deep_pca": "PCA",
    "uniform_dropout": "uniform dropout",
    "gaussian_noise": "input noise",
    "feature_corruption": "input corruption",
}

"""What an augmentation is called where it is clear that layers are augmented; others go by their own name."""

_APART = 1.25

"""Distance between positions that are no neighbouring layers: further than what a line joins."""


def family_name(augmentation: str, stop_gradient: bool) -> str:
    """An augmentation, with or without a stop-gradient, in words."""
    name = AUGMENTATION_NAMES.get(augmentation, augmentation)
    return f"{name}, stop-gradient" if stop_gradient else name


def layer_name(layer: int | None) -> str:
    """A layer in a word; a dash for none."""
    return {None: "–", AUTO: "auto", INPUT: "input"}.get(layer, str(layer))


def pair_names(n: int) -> list[str]:
    """The n neighbouring pairs of layers, from input and first hidden layer to last hidden layer and output."""
    places = ["input", *map(str, range(1, n)), "output"]
    return [f"{below}–{above}" for below, above in pairwise(places)]


def gain_figures(gains: Sequence[Gains], names: Mapping[str, str]) -> list[Drawing]:
    """Gain by layer in each figure, one drawing an objective, on the same axes.

    Args:
        gains: Of each figure.
        names: How figures are called.
    """
    found = []
    for own in gains:
        objectives = [objective for objective in OBJECTIVES if own.families(objective)]
        layers = sorted({target.layer for target in own.values if target.layer not in (None, AUTO)}, key=int)
        others = [name for name in BESIDE if any(target.augmentation == name for target in own.values)]
        positions: dict[int | str, float] = {layer: float(layer) for layer in layers if layer is not None}
        if any(target.layer == AUTO for target in own.values):
            positions[AUTO] = max(positions.values()) + _APART
        for name in others:
            positions[name] = max(positions.values()) + _APART
        ticks = {x: _tick(at) for at, x in positions.items()}
        families = [*dict.fromkeys(f for objective in objectives for f in own.families(objective))]
        families += [(name, False) for name in others]
        styles = {family_name(*family): style for family, style in zip(families, family_styles(families), strict=True)}
        drawn = {objective: _series(own, objective, families, positions) for objective in objectives}
        # What is not judged may run off, so that the rest can be read.
        judged = {
            objective: {
                family_name(*family) for family in (*own.judged(objective), *((name, False) for name in others))
            }
            for objective in objectives
        }
        shown = [one for objective in objectives for one in drawn[objective] if one.method in judged[objective]]
        limits = _limits(shown, -own.region, own.region)
        off = {objective: _off(drawn[objective], limits) for objective in objectives}
        name = names.get(own.figure, own.figure)
        narrow = ", too narrow" if own.figure in PROBE else ""
        for objective in objectives:
            found.append(
                (
                    LineFigure(
                        f"layers-{own.figure}-{objective}",
                        f"{objective.capitalize()}: gain in {name} by layer",
                        f"Bar: 95 % {own.basis}{narrow}. Shade: ±{own.region:g}, practically equal.{off[objective]}",
                        "augmented layer",
                        f"gain in {name}",
                        drawn[objective],
                        x_limits=(min(positions.values()) - 0.6, max(positions.values()) + 0.6),
                        y_limits=limits,
                        spread="bars",
                        reference="zero",
                        ticks=ticks,
                        region=own.region,
                        columns=("gain", "low", "high"),
                    ),
                    styles,
                )
            )
    return found


def similarity_figures(unaugmented: Mapping[str, Sequence[TrialRecord]]) -> list[Drawing]:
    """CKA of neighbouring layers where nothing is augmented: through training, on the same axes, and at its end.

    Args:
        unaugmented: The trials of each objective's control.
    """
    learning = {}
    for objective, records in unaugmented.items():
        epochs, values = _through_training(records)
        if values.size:
            names = pair_names(values.shape[2])
            learning[objective] = tuple(
                _over_trials(name, epochs, values[:, :, place]) for place, name in enumerate(names)
            )
    limits = _limits([series for drawn in learning.values() for series in drawn])
    found: list[Drawing] = []
    for objective, series in learning.items():
        figure = LineFigure(
            f"layers-cka-{objective}",
            f"{objective.capitalize()}: how alike neighbouring layers are",
            "Linear CKA where nothing is augmented. Line: mean over splits; shade: minimum to maximum.",
            "epoch",
            "CKA",
            series,
            x_limits=(0.0, float(series[0].x[-1])),
            y_limits=limits,
        )
        styles = depth_styles(len(series))
        found.append((figure, {one.method: style for one, style in zip(series, styles, strict=True)}))
    finals = [
        _over_trials(objective, np.arange(values.shape[1], dtype=np.float64), values)
        for objective, records in unaugmented.items()
        if (values := final_similarity(records)).size
    ]
    if finals:
        n = max(len(one.x) for one in finals)
        figure = LineFigure(
            "layers-cka",
            "How alike neighbouring layers are in the end",
            "Linear CKA where nothing is augmented. Bar: minimum to maximum over splits.",
            "pair of layers",
            "CKA",
            tuple(finals),
            x_limits=(-0.6, n - 0.4),
            spread="bars",
            ticks=dict(zip(map(float, range(n)), pair_names(n), strict=True)),
        )
        names = [one.method for one in finals]
        found.append((figure, dict(zip(names, objective_styles(names), strict=True))))
    return found


def final_similarity(records: Iterable[TrialRecord]) -> np.ndarray:
    """CKA of each layer with the next at the end of training, (trials, pairs); empty where trials have none."""
    rows = []
    for record in records:
        n = sum(name.startswith("cka_") for name in record.metrics)
        rows.append([record.metrics.get(f"cka_{layer}", math.nan) for layer in range(n)])
    return np.array(rows) if rows and all(len(row) == len(rows[0]) > 0 for row in rows) else np.empty((0, 0))


def _through_training(records: Sequence[TrialRecord]) -> tuple[np.ndarray, np.ndarray]:
    """Epochs, and CKA at each, (trials, points, pairs), without points where no trial has it."""
    values = [np.asarray(record.curves.epoch_cka, dtype=np.float64) for record in records]
    epochs = [record.curves.epoch for record in records]
    same = all(
        own.shape == values[0].shape and np.array_equal(at, epochs[0]) for own, at in zip(values, epochs, strict=True)
    )
    if not values or not same or values[0].size == 0:
        return np.empty(0), np.empty((0, 0, 0))
    stacked = np.stack(values)
    there = np.isfinite(stacked).any(axis=(0, 2))
    return np.asarray(epochs[0], dtype=np.float64)[there], stacked[:, there]


def _series(
    own: Gains, objective: str, families: Sequence[tuple[str, bool]], positions: Mapping[int | str, float]
) -> tuple[Series, ...]:
    """One series a family, with a point at every position that it has; empty families keep their place."""
    found = []
    for augmentation, stop in families:
        points = []
        for at, x in positions.items():
            layered = isinstance(at, int)
            if not layered and at != augmentation:
                continue
            target = Target(objective, augmentation, stop, at if isinstance(at, int) else None)
            if target in own.values:
                interval = interval_over(own.values[target])
                points.append((x, interval.estimate, interval.low, interval.high))
        if points:
            x, mean, low, high = np.array(points).T
            found.append(Series(family_name(augmentation, stop), x, mean, low, high))
    return tuple(found)


def _over_trials(name: str, x: np.ndarray, values: np.ndarray) -> Series:
    with warnings.catch_warnings():
        # A point that no split defines stays NaN, and is not drawn.
        warnings.simplefilter("ignore", category=RuntimeWarning)
        return Series(name, x, np.nanmean(values, 0), np.nanmin(values, 0), np.nanmax(values, 0))


def _limits(series: Sequence[Series], *also: float) -> tuple[float, float]:
    """Limits of an axis that hold every end of some curves, and some values more."""
    values = np.array([*also, *(value for one in series for value in (*one.mean, *one.low, *one.high))])
    values = values[np.isfinite(values)]
    low, high = (float(values.min()), float(values.max())) if values.size else (0.0, 1.0)
    margin = 0.06 * (high - low)
    return low - margin, high + margin


def _off(series: Sequence[Series], limits: tuple[float, float]) -> str:
    """A sentence on curves with points off the axis; empty where there are none."""
    off = {one.method: one.mean for one in series if (one.mean < limits[0]).any() or (one.mean > limits[1]).any()}
    words = "; ".join(f"{name}, {mean.min():+.3f} to {mean.max():+.3f}" for name, mean in off.items())
    return f" Off the axis: {words}.".replace("-", "−").replace("stop−gradient", "stop-gradient") if off else ""


def _tick(at: int | str) -> str:
    return layer_name(at) if isinstance(at, int) else AUGMENTATION_NAMES.get(at, at).replace(" ", "\n")
