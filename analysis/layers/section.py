"""The layers of a Deep Augmentation study as the report shows them: verdicts in words, tables, CSV and JSON."""

from __future__ import annotations

import csv
import dataclasses
import io
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from analysis.format import FIGURE_NAMES, UNDEFINED_TEXT, signed
from analysis.layers.claims import AutoChoice, Best, Tested, auto_choices, best_hidden, weigh_claims
from analysis.layers.figures import Drawing, family_name, gain_figures, layer_name, similarity_figures
from analysis.layers.gains import AUTO, OBJECTIVES, Gains, Target, chosen_layers, interval_over, measure, targets
from analysis.results.controls import CONTROL
from analysis.results.load import StudyResults, each_with_items
from analysis.statistics.decisions import PER_ITEM
from analysis.statistics.intervals import Interval
from trainables.records.types import CONTRASTIVE, TrialRecord

LAYER_FIGURE_NAMES: Mapping[str, str] = {
    **FIGURE_NAMES,
    "probe_auc_weighted": "linear probe’s weighted AUC",
    "probe_accuracy": "linear probe’s accuracy",
}


@dataclass(frozen=True)
class Layers:
    """What a study says of the layers that it augments.

    Attributes:
        main: The figure that verdicts are given in first: the study's objective, if it is a mean over items.
        gains: Of every target, one entry a figure, the main one first.
        tested: Every claim in every figure.
        best: The best hidden target in each figure of the items; exploratory.
        autos: Every family where trials chose their layer, in every figure.
        chosen: The layers that they chose, by split.
        unaugmented: The trials of each objective's control, without items.
        several: Whether some target is the mean over several values of other hyperparameters.
        phase: The phase of the trials.
    """

    main: str
    gains: tuple[Gains, ...]
    tested: tuple[Tested, ...]
    best: tuple[Best, ...]
    autos: tuple[AutoChoice, ...]
    chosen: Mapping[Target, Mapping[int, set[int]]]
    unaugmented: Mapping[str, Sequence[TrialRecord]]
    several: bool
    phase: str


@dataclass(frozen=True)
class Verdict:
    """A claim for the page.

    Attributes:
        word: The verdict in the main figure, or `exploratory`.
        claim: The claim.
        text: What was measured, with its interval.
        beside: The verdicts in the other figures, in short.
    """

    word: str
    claim: str
    text: str
    beside: str


def study_layers(directory: Path, results: StudyResults, within: Mapping[str, float]) -> Layers | None:
    """Measures and tests what a study says of layers; None where it augments fewer than two, or has no control.

    Args:
        directory: The study's directory; the items are read from it one file at a time.
        results: The study.
        within: Region of practical equivalence of each figure.

    Raises:
        ReportError: Trials of one split were judged on different items.
    """
    groups = targets(results)
    if not groups:
        return None
    phase = results.description.choosing_phase
    shown = {candidate for candidates in groups.values() for candidate in candidates}
    records = [one for one in results.records if one.config.phase == phase and one.config.candidate in shown]
    gains = measure(groups, each_with_items(directory, {record.config for record in records}), within)
    objective = results.description.objective
    main = objective if objective in PER_ITEM else "auc_weighted"
    gains.sort(key=lambda own: own.figure != main)
    objectives = [name for name in OBJECTIVES if any(target.objective == name for target in groups)]
    best = [best_hidden(own, CONTRASTIVE) for own in gains if own.figure in PER_ITEM]
    controls = {name: set(groups[Target(name, CONTROL)]) for name in objectives}
    return Layers(
        main=main,
        gains=tuple(gains),
        tested=tuple(one for own in gains for one in weigh_claims(own, objectives)),
        best=tuple(one for one in best if one is not None),
        autos=tuple(one for own in gains for one in auto_choices(own)),
        chosen=chosen_layers(groups, records),
        unaugmented={
            name: [record for record in records if record.config.candidate in own] for name, own in controls.items()
        },
        several=any(len(candidates) > 1 for candidates in groups.values()),
        phase=phase,
    )


def drawings(layers: Layers) -> list[Drawing]:
    """The figures of the section."""
    return [*gain_figures(layers.gains, LAYER_FIGURE_NAMES), *similarity_figures(layers.unaugmented)]


def verdicts(layers: Layers) -> list[Verdict]:
    """Each claim in the main figure, and the other figures beside it; the best target last."""
    found = []
    for one in layers.tested:
        if one.figure != layers.main:
            continue
        others = [other for other in layers.tested if other.claim.name == one.claim.name and other.figure != one.figure]
        text = f"{one.claim.measured} in {_name(one.figure)}: {_with_interval(one.interval)}."
        beside = "; ".join(
            f"{_name(other.figure)} {other.verdict}, {_short(other.interval)}"
            + (f", {other.basis}" if other.basis != one.basis else "")
            for other in others
        )
        found.append(Verdict(str(one.verdict), one.claim.text, f"{text} {one.claim.note}".strip(), beside))
    for best in layers.best:
        if best.figure == layers.main:
            found.append(
                Verdict(
                    "exploratory",
                    f"Of {best.n_tests} hidden targets of contrastive learning, "
                    f"{family_name(*best.target.family)} at layer {layer_name(best.target.layer)} does best against "
                    "the same at the input.",
                    f"Its gain over that in {_name(best.figure)}: {_with_interval(best.interval)}, "
                    f"{_p(best.adjusted_p)} after Holm over the {best.n_tests}: {best.decision}.",
                    "",
                )
            )
    return found


def remark(layers: Layers) -> str:
    """What the gains are means over, where that is not plain."""
    text = ""
    if layers.several:
        text += " A gain is the mean over all values of the other hyperparameters, not that of the best."
    if layers.phase == "search":
        text += " On the search’s splits, where every layer is trained."
    return text


def rule(layers: Layers) -> str:
    """How the verdicts come about."""
    within = ", ".join(f"±{own.region:g} {_name(own.figure)}" for own in layers.gains if own.figure in PER_ITEM)
    return (
        "Each verdict by its own 95 % interval, paired by split and item, and not adjusted for being several. There "
        f"is a gain where the interval lies above 0 and reaches beyond the region of practical equivalence ({within}); "
        "there is none where it ends below the region’s upper end; else it is undecided. Layers, dropout and PCA "
        "count alike, in contrastive learning also with and without stop-gradient. Supervised training with a "
        "stop-gradient is shown, and not judged: the layers below it keep their initial weights."
    )


def gain_rows(layers: Layers) -> tuple[list[str], list[list[tuple[str, str]]]]:
    """The table of gains: its headings, and rows of (text, interval beneath it)."""
    headings = ["Objective", "Augmentation", "Layer", *(f"Gain in {_name(own.figure)}" for own in layers.gains)]
    rows = []
    for target in sorted({target for own in layers.gains for target in own.values}, key=_place):
        cells = [(target.objective, ""), (family_name(*target.family), ""), (layer_name(target.layer), "")]
        for own in layers.gains:
            if target in own.values:
                interval = interval_over(own.values[target])
                cells.append((signed(interval.estimate), _ends(interval)))
            else:
                cells.append((UNDEFINED_TEXT, ""))
        rows.append(cells)
    return headings, rows


def auto_rows(layers: Layers) -> list[list[tuple[str, str]]]:
    """The table of what `auto` chose, in the main figure: rows of (text, interval beneath it)."""
    rows = []
    for one in layers.autos:
        if one.figure == layers.main:
            chosen = layers.chosen.get(one.target, {})
            picked = [_layers(values) for values in chosen.values()]
            hits = sum(values == {one.best} for values in chosen.values())
            rows.append(
                [
                    (one.target.objective, ""),
                    (family_name(*one.target.family), ""),
                    (", ".join(picked) or UNDEFINED_TEXT, ""),
                    (layer_name(one.best), f"chosen on {hits} of {len(picked)} splits" if picked else ""),
                    (signed(one.gain.estimate), _ends(one.gain)),
                    (signed(one.best_gain.estimate), _ends(one.best_gain)),
                    (signed(one.regret.estimate), _ends(one.regret)),
                ]
            )
    return rows


def to_csv(layers: Layers) -> str:
    """Every gain, one row a target and figure."""
    stream = io.StringIO()
    writer = csv.writer(stream, lineterminator="\n")
    ends = ("estimate", "low", "high", "standard_error", "p_value")
    writer.writerow(["figure", "objective", "augmentation", "stop_gradient", "layer", *ends, "basis"])
    for own in layers.gains:
        for target, values in own.values.items():
            interval = interval_over(values)
            numbers = [getattr(interval, end) for end in ends]
            cells = ["" if math.isnan(value) else value for value in numbers]
            layer = "" if target.layer is None else layer_name(target.layer)
            coordinates = (target.objective, target.augmentation, int(target.stop_gradient), layer)
            writer.writerow([own.figure, *coordinates, *cells, own.basis])
    return stream.getvalue()


def to_json(layers: Layers) -> dict[str, Any]:
    """The numbers for `results.json`, which documents the keys."""
    return {
        "phase": layers.phase,
        "gains": [
            {"figure": own.figure, "basis": own.basis, **_coordinates(target), **_numbers(interval_over(values))}
            for own in layers.gains
            for target, values in own.values.items()
        ],
        "claims": [
            {
                "claim": one.claim.name,
                "text": one.claim.text,
                "measured": one.claim.measured,
                "figure": one.figure,
                "basis": one.basis,
                "verdict": one.verdict,
                **_numbers(one.interval),
            }
            for one in layers.tested
        ],
        "exploratory": [
            {
                "figure": one.figure,
                **_coordinates(one.target),
                "n_tests": one.n_tests,
                "adjusted_p": one.adjusted_p,
                "decision": one.decision,
                **_numbers(one.interval),
            }
            for one in layers.best
        ],
        "auto": [
            {
                "figure": one.figure,
                **_coordinates(one.target),
                "chosen": {split: sorted(found) for split, found in layers.chosen.get(one.target, {}).items()},
                "best_layer": one.best,
                **{name: _numbers(getattr(one, name)) for name in ("gain", "best_gain", "regret")},
            }
            for one in layers.autos
        ],
    }


def _coordinates(target: Target) -> dict[str, Any]:
    return {**dataclasses.asdict(target), "layer": None if target.layer is None else layer_name(target.layer)}


def _numbers(interval: Interval) -> dict[str, float]:
    return dataclasses.asdict(interval)


def _place(target: Target) -> tuple[int, bool, tuple[str, bool], float]:
    """Order of the table of gains: by objective, what targets no layer last, families, layers from the input on."""
    at = math.inf if target.layer == AUTO else float(target.layer or 0)
    return OBJECTIVES.index(target.objective), target.layer is None, target.family, at


def _layers(values: set[int]) -> str:
    return "/".join(layer_name(layer) for layer in sorted(values))


def _name(figure: str) -> str:
    return LAYER_FIGURE_NAMES.get(figure, figure)


def _ends(interval: Interval) -> str:
    return f"{signed(interval.low)} to {signed(interval.high)}" if math.isfinite(interval.low) else ""


def _with_interval(interval: Interval) -> str:
    ends = _ends(interval)
    return f"{signed(interval.estimate)} ({f'95 % interval {ends}' if ends else 'one split: nothing to judge by'})"


def _short(interval: Interval) -> str:
    ends = _ends(interval)
    return f"{signed(interval.estimate)} ({ends})" if ends else signed(interval.estimate)


def _p(value: float) -> str:
    return "p < 0.001" if value < 0.001 else f"p = {value:.3f}"
