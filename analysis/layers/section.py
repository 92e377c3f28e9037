"""The layers of a Deep Augmentation study: everything that the page, `layers.csv` and `results.json` show of them."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from analysis.layers.claims import AutoChoice, BestHidden, Claim, TestedClaim, auto_choices, best_hidden, weigh_claims
from analysis.layers.figures import Drawing, gain_figures, layer_name, similarity_figures
from analysis.layers.gains import OBJECTIVES, Gains, Target, chosen_layers, find_targets, measure
from analysis.results.aggregate import StudyResults
from analysis.results.controls import CONTROL
from analysis.results.load import each_with_items
from analysis.statistics.decisions import PER_ITEM
from trainables.records.types import CONTRASTIVE, TrialRecord


@dataclass(frozen=True)
class FigureLayers:
    """What a study says of the layers in one figure.

    Attributes:
        gains: Of every target.
        claims: Every claim that the study has the targets for.
        best: The best hidden target of contrastive learning; None of the linear probe, and without intervals.
        autos: Every family where trials chose their layer.
    """

    gains: Gains
    claims: tuple[TestedClaim, ...]
    best: BestHidden | None
    autos: tuple[AutoChoice, ...]


@dataclass(frozen=True)
class Layers:
    """What a study says of the layers that it augments.

    Attributes:
        figures: One entry per figure; first the one that leads: the study's objective, if it is a mean over items.
        chosen: The layers that trials of each target `AUTO` chose, by split.
        controls: The trials of each objective's control, without items.
        several: Whether some target is the mean over several values of other hyperparameters.
        phase: The phase of the trials.
    """

    figures: tuple[FigureLayers, ...]
    chosen: Mapping[Target, Mapping[int, set[int]]]
    controls: Mapping[str, Sequence[TrialRecord]]
    several: bool
    phase: str

    @property
    def targets(self) -> list[Target]:
        """Every target with a gain in some figure, in the order of the tables."""
        return sorted({target for own in self.figures for target in own.gains.values}, key=lambda target: target.rank)

    def elsewhere(self, claim: Claim) -> list[tuple[Gains, TestedClaim]]:
        """Return the tests of a claim in all figures but the leading one."""
        return [(own.gains, one) for own in self.figures[1:] for one in own.claims if one.claim == claim]


def study_layers(directory: Path, results: StudyResults, within: Mapping[str, float]) -> Layers | None:
    """Measure and test what a study says of layers; None where it augments fewer than two or has no control.

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
    main = description.objective if description.objective in PER_ITEM else "auc_weighted"
    measured = measure(results, groups, each_with_items(directory, {record.config for record in records}), within)
    controls = {name: groups[control] for name in OBJECTIVES if (control := Target(name, CONTROL)) in groups}
    return Layers(
        tuple(
            FigureLayers(
                gains,
                tuple(weigh_claims(gains)),
                best_hidden(gains, CONTRASTIVE) if gains.figure in PER_ITEM else None,
                tuple(auto_choices(gains)),
            )
            for gains in sorted(measured, key=lambda gains: gains.figure != main)
        ),
        chosen_layers(groups, records),
        {name: [record for record in records if record.config.candidate in own] for name, own in controls.items()},
        any(len(candidates) > 1 for candidates in groups.values()),
        description.choosing_phase,
    )


def drawings(layers: Layers) -> list[Drawing]:
    """Describe the figures of the section."""
    of_gains = [drawing for own in layers.figures for drawing in gain_figures(own.gains)]
    return [*of_gains, *similarity_figures(layers.controls)]


def gains_csv(layers: Layers) -> str:
    """Write every gain as CSV, one row per figure and target."""
    table = pd.DataFrame(_gain_rows(layers)).astype({"stop_gradient": int})
    return table.to_csv(index=False, lineterminator="\n")


def layers_json(layers: Layers) -> dict[str, Any]:
    """Return the numbers for `results.json`, which documents the keys."""
    found: dict[str, list[dict[str, Any]]] = {"gains": _gain_rows(layers), "claims": [], "exploratory": [], "auto": []}
    for own in layers.figures:
        gains, figure = own.gains, {"figure": own.gains.figure}
        for one in own.claims:
            claim = {"claim": one.claim.name, "text": one.claim.text, "measured": one.claim.measured}
            judged = {"basis": gains.basis, "verdict": one.verdict, **dataclasses.asdict(one.interval)}
            found["claims"].append({**figure, **claim, **judged})
        if own.best is not None:
            numbers = {"n_tests": own.best.n_tests, "adjusted_p": own.best.adjusted_p, "decision": own.best.decision}
            interval = dataclasses.asdict(own.best.interval)
            found["exploratory"].append({**figure, **_coordinates(own.best.target), **numbers, **interval})
        for auto in own.autos:
            chosen = {split: sorted(of_split) for split, of_split in layers.chosen.get(auto.target, {}).items()}
            intervals = (gains.intervals[auto.target], gains.intervals[auto.best], auto.regret)
            numbers = dict(zip(("gain", "best_gain", "regret"), map(dataclasses.asdict, intervals), strict=True))
            place = {"chosen": chosen, "best_layer": auto.best.layer}
            found["auto"].append({**figure, **_coordinates(auto.target), **place, **numbers})
    return {"phase": layers.phase, **found}


def _gain_rows(layers: Layers) -> list[dict[str, Any]]:
    return [
        {
            "figure": own.gains.figure,
            **_coordinates(target),
            **dataclasses.asdict(interval),
            "basis": own.gains.basis,
        }
        for own in layers.figures
        for target, interval in own.gains.intervals.items()
    ]


def _coordinates(target: Target) -> dict[str, Any]:
    return {**dataclasses.asdict(target), "layer": None if target.layer is None else layer_name(target.layer)}
