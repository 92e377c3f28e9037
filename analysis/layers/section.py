"""The layers of a Deep Augmentation study: everything that the page, `layers.csv` and `results.json` show of them."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from analysis.layers.figures import Drawing, gain_figures, layer_name, similarity_figures
from analysis.layers.gains import (
    GAIN_FIGURES,
    OBJECTIVES,
    AutoChoice,
    Gains,
    Target,
    auto_choices,
    chosen_layers,
    find_targets,
    measure,
)
from analysis.results.aggregate import StudyResults
from analysis.results.controls import CONTROL
from analysis.results.load import each_with_items
from trainables.records.types import SplitId, TrialRecord


@dataclass(frozen=True)
class Layers:
    """What a study says of the layers that it augments.

    Attributes:
        gains: One entry per figure; first the one that leads: the study's objective, if it is a mean over items.
        chosen: The layers that trials of each target `AUTO` chose, by split.
        controls: The trials of each objective's control, without items.
        several: Whether some target is the mean over several values of other hyperparameters.
        phase: The phase of the trials.
    """

    gains: tuple[Gains, ...]
    chosen: Mapping[Target, Mapping[SplitId, set[int]]]
    controls: Mapping[str, Sequence[TrialRecord]]
    several: bool
    phase: str

    @property
    def targets(self) -> list[Target]:
        """Every target with a gain in some figure, in the order of the tables."""
        return sorted({target for own in self.gains for target in own.values}, key=lambda target: target.rank)

    @property
    def autos(self) -> list[AutoChoice]:
        """Every family where trials chose their layer, in the leading figure."""
        return auto_choices(self.gains[0])


def study_layers(directory: Path, results: StudyResults, within: Mapping[str, float]) -> Layers | None:
    """Measure the gain of each augmented layer; None where a study augments fewer than two or has no control.

    Args:
        directory: The study's directory; the items are read from it one file at a time.
        results: The study.
        within: Region of practical equivalence of each figure.

    Raises:
        ReportError: Two trials of one split were judged on different items.
    """
    groups = find_targets(results)
    if not groups:
        return None
    description = results.description
    shown = {candidate for candidates in groups.values() for candidate in candidates}
    records = [
        r for r in results.records if r.config.phase == description.choosing_phase and r.config.candidate in shown
    ]
    main = description.objective if description.objective in GAIN_FIGURES else "auc_weighted"
    measured = measure(results, groups, each_with_items(directory, {record.config for record in records}), within)
    controls = {name: groups[control] for name in OBJECTIVES if (control := Target(name, CONTROL)) in groups}
    return Layers(
        tuple(sorted(measured, key=lambda gains: gains.figure != main)),
        chosen_layers(groups, records),
        {name: [record for record in records if record.config.candidate in own] for name, own in controls.items()},
        any(len(candidates) > 1 for candidates in groups.values()),
        description.choosing_phase,
    )


def drawings(layers: Layers) -> list[Drawing]:
    """Describe the figures of the section."""
    of_gains = [drawing for gains in layers.gains for drawing in gain_figures(gains)]
    return [*of_gains, *similarity_figures(layers.controls)]


def gains_csv(layers: Layers) -> str:
    """Write every gain as CSV, one row per figure and target."""
    table = pd.DataFrame(_gain_rows(layers)).astype({"stop_gradient": int})
    return table.to_csv(index=False, lineterminator="\n")


def layers_json(layers: Layers) -> dict[str, Any]:
    """Return the numbers for `results.json`, which documents the keys."""
    autos = []
    for gains in layers.gains:
        for auto in auto_choices(gains):
            chosen = {str(split): sorted(of_split) for split, of_split in layers.chosen.get(auto.target, {}).items()}
            intervals = (gains.intervals[auto.target], gains.intervals[auto.best], auto.regret)
            numbers = dict(zip(("gain", "best_gain", "regret"), map(dataclasses.asdict, intervals), strict=True))
            place = {"chosen": chosen, "best_layer": auto.best.layer}
            autos.append({"figure": gains.figure, **_coordinates(auto.target), **place, **numbers})
    return {"phase": layers.phase, "gains": _gain_rows(layers), "auto": autos}


def _gain_rows(layers: Layers) -> list[dict[str, Any]]:
    return [
        {"figure": gains.figure, **_coordinates(target), **dataclasses.asdict(interval), "basis": gains.basis}
        for gains in layers.gains
        for target, interval in gains.intervals.items()
    ]


def _coordinates(target: Target) -> dict[str, Any]:
    return {**dataclasses.asdict(target), "layer": None if target.layer is None else layer_name(target.layer)}
