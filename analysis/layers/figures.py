"""The figures of the layers: gain by layer, and how similar neighbouring layers are without augmentation."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from itertools import pairwise

import numpy as np

from analysis.figures.styles import OBJECTIVE_STYLES, LineStyle, depth_styles, family_styles
from analysis.figures.types import LineFigure, Series
from analysis.format import figure_name, signed
from analysis.layers.gains import AUTO, BESIDE, INPUT, OBJECTIVES, PROBE, Family, Gains
from trainables.records.types import SUPERVISED, TrialRecord

# A figure, and the style of each of its series.
Drawing = tuple[LineFigure, dict[str, LineStyle]]

# What augmentations are called in a section about layers; others keep their own name.
_AUGMENTATION_NAMES: Mapping[str, str] = {
    "deep_dropout": "dropout",
    "deep_pca": "PCA",
    "uniform_dropout": "uniform dropout",
    "gaussian_noise": "input noise",
    "feature_corruption": "input corruption",
}

# Distance between positions that are no neighbouring layers: further than what a line joins.
_APART = 1.25


def family_name(family: Family) -> str:
    """Return an augmentation, with or without a stop-gradient, in words."""
    name = _AUGMENTATION_NAMES.get(family[0], family[0])
    return f"{name}, stop-gradient" if family[1] else name


def layer_name(layer: int | None) -> str:
    """Return a layer in a word; a dash for none."""
    return {None: "–", AUTO: "auto", INPUT: "input"}.get(layer, str(layer))


def pair_names(n: int) -> list[str]:
    """Name the n neighbouring pairs of layers, from input and first hidden layer to last hidden layer and output."""
    return [f"{below}–{above}" for below, above in pairwise(["input", *range(1, n), "output"])]


def gain_figures(gains: Gains) -> list[Drawing]:
    """Describe the gains by layer in one figure: one drawing per objective, all on the same axes."""
    layers = {target.layer for target in gains.intervals if target.layer is not None}
    beside = [name for name in BESIDE if any(target.augmentation == name for target in gains.intervals)]
    # Layers lie at their number; `auto` and the methods beside follow, apart from them.
    positions: dict[int | str, float] = {layer: float(layer) for layer in sorted(layers - {AUTO})}
    apart: list[int | str] = [*layers & {AUTO}, *beside]
    for place in apart:
        positions[place] = max(positions.values()) + _APART
    objectives = [objective for objective in OBJECTIVES if gains.families(objective)]
    of_layers = (family for objective in objectives for family in gains.families(objective))
    families = list(dict.fromkeys((*of_layers, *((name, False) for name in beside))))
    styles = dict(zip(map(family_name, families), family_styles(families), strict=True))
    drawn = {objective: _series(gains, objective, families, positions) for objective in objectives}
    # In supervised training with a stop-gradient the layers below keep their initial weights. What that costs is not
    # the augmentation's fault, and may run off the axis, so that the rest can be read.
    shown = [
        one
        for objective, own in drawn.items()
        for (_, stops), one in own.items()
        if objective != SUPERVISED or not stops
    ]
    limits = _limits(shown, -gains.region, gains.region)
    name, narrow = figure_name(gains.figure), ", too narrow" if gains.figure in PROBE else ""
    note = f"Bar: 95 % interval {gains.basis}{narrow}. Shade: ±{gains.region:g}, practically equal."
    return [
        (
            LineFigure(
                f"layers-{gains.figure}-{objective}",
                f"{objective.capitalize()}: gain in {name} by layer",
                note + _off_axis(own.values(), limits),
                "augmented layer",
                f"gain in {name}",
                tuple(own.values()),
                x_limits=(min(positions.values()) - 0.6, max(positions.values()) + 0.6),
                y_limits=limits,
                spread="bars",
                reference="zero",
                ticks={x: _tick(place) for place, x in positions.items()},
                region=gains.region,
                columns=("gain", "low", "high"),
            ),
            styles,
        )
        for objective, own in drawn.items()
    ]


def similarity_figures(controls: Mapping[str, Sequence[TrialRecord]]) -> list[Drawing]:
    """Describe the CKA of neighbouring layers in the controls: through training, on the same axes, and at its end."""
    learning: dict[str, tuple[Series, ...]] = {}
    finals: list[Series] = []
    for objective, records in controls.items():
        epochs, values = _through_training(records)
        if values.size:
            pairs = enumerate(pair_names(values.shape[2]))
            learning[objective] = tuple(Series.over_splits(name, epochs, values[:, :, place]) for place, name in pairs)
        if (final := final_similarity(records)).size:
            finals.append(Series.over_splits(objective, np.arange(final.shape[1], dtype=np.float64), final))
    limits = _limits([series for drawn in learning.values() for series in drawn])
    found: list[Drawing] = []
    for objective, drawn in learning.items():
        figure = LineFigure(
            f"layers-cka-{objective}",
            f"{objective.capitalize()}: similarity of neighbouring layers",
            "Linear CKA without augmentation. Line: mean over splits; shade: minimum to maximum.",
            "epoch",
            "CKA",
            drawn,
            x_limits=(0.0, float(drawn[0].x[-1])),
            y_limits=limits,
        )
        found.append((figure, dict(zip((one.method for one in drawn), depth_styles(len(drawn)), strict=True))))
    if finals:
        n = max(len(one.x) for one in finals)
        figure = LineFigure(
            "layers-cka",
            "Similarity of neighbouring layers at the end",
            "Linear CKA without augmentation. Bar: minimum to maximum over splits.",
            "pair of layers",
            "CKA",
            tuple(finals),
            x_limits=(-0.6, n - 0.4),
            spread="bars",
            ticks=dict(zip(map(float, range(n)), pair_names(n), strict=True)),
        )
        found.append((figure, {one.method: OBJECTIVE_STYLES[one.method] for one in finals}))
    return found


def final_similarity(records: Iterable[TrialRecord]) -> np.ndarray:
    """Return the CKA of each layer with the next at the end of training, (trials, pairs); empty where not recorded."""
    rows = []
    for record in records:
        n_pairs = sum(name.startswith("cka_") for name in record.metrics)
        rows.append([record.metrics[f"cka_{place}"] for place in range(n_pairs)])
    return np.array(rows) if rows and all(len(row) == len(rows[0]) > 0 for row in rows) else np.empty((0, 0))


def _through_training(records: Sequence[TrialRecord]) -> tuple[np.ndarray, np.ndarray]:
    """Return epochs (points,) and the CKA there (trials, points, pairs); empty where trials differ or have none."""
    values = [np.asarray(record.curves.epoch_cka, dtype=np.float64) for record in records]
    epochs = [record.curves.epoch for record in records]
    differ = len({own.shape for own in values}) != 1 or any(not np.array_equal(at, epochs[0]) for at in epochs)
    if differ or not values[0].size:
        return np.empty(0), np.empty((0, 0, 0))
    stacked = np.stack(values)
    # Once contrastive layers are frozen, CKA is no longer recorded.
    defined = np.isfinite(stacked).any(axis=(0, 2))
    return np.asarray(epochs[0], dtype=np.float64)[defined], stacked[:, defined]


def _series(
    gains: Gains, objective: str, families: Sequence[Family], positions: Mapping[int | str, float]
) -> dict[Family, Series]:
    """Return one series per family, with a point at each of its positions."""
    points: dict[Family, list[tuple[float, ...]]] = {}
    for target, own in gains.intervals.items():
        if target.objective == objective:
            x = positions[target.augmentation if target.layer is None else target.layer]
            points.setdefault(target.family, []).append((x, own.estimate, own.low, own.high))
    return {f: Series(family_name(f), *np.array(points[f]).T) for f in families if f in points}


def _limits(series: Sequence[Series], *also: float) -> tuple[float, float]:
    """Return axis limits that hold every end of some curves, and some further values."""
    values = np.concatenate([also, *(ends for one in series for ends in (one.mean, one.low, one.high))])
    values = values[np.isfinite(values)]
    low, high = (float(values.min()), float(values.max())) if values.size else (0.0, 1.0)
    margin = 0.06 * (high - low)
    return low - margin, high + margin


def _off_axis(series: Iterable[Series], limits: tuple[float, float]) -> str:
    """Return a sentence on the curves with points off the axis; empty where there are none."""
    off = [one for one in series if (one.mean < limits[0]).any() or (one.mean > limits[1]).any()]
    ends = (f"{one.method}, {signed(one.mean.min(), 3)} to {signed(one.mean.max(), 3)}" for one in off)
    return f" Off the axis: {'; '.join(ends)}." if off else ""


def _tick(place: int | str) -> str:
    return layer_name(place) if isinstance(place, int) else family_name((place, False)).replace(" ", "\n")
