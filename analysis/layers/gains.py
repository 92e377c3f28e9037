"""What augmenting one layer gains over no augmentation, layer by layer.

A *target* is what a candidate augments: one layer, by one method, with or without a stop-gradient below it. Its gain is
its own value minus that of its objective's control on the same split and, where the figure is a mean over items, the
same item. Where the study tried several values of other hyperparameters, a target is the mean over all of them, and so
is the control: a best of several would rest on its own luck, which none of the intervals counts.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from analysis.results.aggregate import summarise_candidates
from analysis.results.controls import CONTROL
from analysis.results.load import ReportError, StudyResults
from analysis.statistics.decisions import PER_ITEM
from analysis.statistics.intervals import Interval, naive_interval, two_way_interval
from trainables.records.types import AUTO as RECORDED_AUTO
from trainables.records.types import CONTRASTIVE, SUPERVISED, Candidate, TrialRecord

Values = npt.NDArray[np.floating]

INPUT, AUTO = 0, int(RECORDED_AUTO)

"""The input as a layer, and the layer that each trial chose by itself."""

OBJECTIVES = (CONTRASTIVE, SUPERVISED)

BESIDE = ("uniform_dropout", "gaussian_noise", "feature_corruption")

"""Methods to show beside a targeted layer: dropout at every layer, and noise at the input."""

PROBE: Mapping[str, str] = {"probe_auc_weighted": "auc_weighted", "probe_accuracy": "accuracy"}

"""Figures of the linear probe, which have no per-item values, and the figure that each is of."""


@dataclass(frozen=True)
class Target:
    """What a candidate augments.

    Attributes:
        objective: One of `OBJECTIVES`.
        augmentation: Name of the method without its objective.
        stop_gradient: Whether gradients stop below the layer.
        layer: `INPUT`, a hidden layer from 1 on, or `AUTO`; None for a method that targets none.
    """

    objective: str
    augmentation: str
    stop_gradient: bool = False
    layer: int | None = None

    @property
    def family(self) -> tuple[str, bool]:
        """Augmentation and stop-gradient: what is the same along the layers."""
        return self.augmentation, self.stop_gradient


@dataclass(frozen=True)
class Gains:
    """The gains of every target in one figure.

    Attributes:
        figure: Name of the figure.
        region: Half width of its region of practical equivalence.
        values: Gain of each target, (splits, items), NaN for items that a split does not judge; of the linear probe
            (splits,).
    """

    figure: str
    region: float
    values: Mapping[Target, Values]

    @property
    def basis(self) -> str:
        """What the intervals count."""
        return "over splits alone" if self.figure in PROBE else "over splits and items"

    def families(self, objective: str) -> list[tuple[str, bool]]:
        """The families of an objective, in the order of the study."""
        found = (target.family for target in self.values if target.objective == objective and target.layer is not None)
        return list(dict.fromkeys(found))

    def judged(self, objective: str) -> list[tuple[str, bool]]:
        """The families that claims are about: not those of supervised training with a stop-gradient.

        There the layers below keep their initial weights, and what that costs is not the augmentation's. In contrastive
        learning they learn from the other view.
        """
        return [family for family in self.families(objective) if objective != SUPERVISED or not family[1]]

    def by_layer(self, objective: str, family: tuple[str, bool]) -> dict[int, Values]:
        """Gains of a family at each layer that was fixed, from the input on."""
        found = {
            target.layer: values
            for target, values in self.values.items()
            if (target.objective, target.family) == (objective, family) and target.layer not in (None, AUTO)
        }
        return {layer: found[layer] for layer in sorted(layer for layer in found if layer is not None)}

    def auto(self, objective: str, family: tuple[str, bool]) -> Values | None:
        """Gain of a family where each trial chose its layer."""
        return self.values.get(Target(objective, *family, layer=AUTO))


def interval_over(values: Values) -> Interval:
    """The 95 % interval of a mean gain: two-way of (splits, items); a paired t over splits of (splits,)."""
    return two_way_interval(values) if values.ndim == 2 else naive_interval(values)


def target_of(candidate: Candidate) -> Target:
    """What a candidate augments."""
    params = dict(candidate.params)
    if "layer" not in params:
        return Target(candidate.objective, candidate.augmentation)
    stop = params.get("stop_gradient", 0) > 0
    return Target(candidate.objective, candidate.augmentation, stop, int(params["layer"]))


def targets(results: StudyResults) -> dict[Target, list[Candidate]]:
    """The candidates of each target that finished every split, with the controls that they are compared with.

    Of the nested protocol these are the trials of the search, where every layer is trained.

    Returns:
        Empty where no objective has a control and two fixed layers.
    """
    found: dict[Target, list[Candidate]] = {}
    for summary in summarise_candidates(results, results.description.choosing_phase):
        target = target_of(summary.candidate)
        if summary.complete and (target.layer is not None or target.augmentation in (CONTROL, *BESIDE)):
            found.setdefault(target, []).append(summary.candidate)
    shown = []
    for objective in OBJECTIVES:
        layers = {target.layer for target in found if target.objective == objective} - {None, AUTO}
        if len(layers) > 1 and Target(objective, CONTROL) in found:
            shown.append(objective)
    return {target: candidates for target, candidates in found.items() if target.objective in shown}


def chosen_layers(
    groups: Mapping[Target, Sequence[Candidate]], records: Iterable[TrialRecord]
) -> dict[Target, dict[int, set[int]]]:
    """The layers that trials of each target `AUTO` chose, by split; several where candidates of a target differ.

    Args:
        groups: The candidates of each target.
        records: Trials, with or without items.
    """
    found: dict[Target, dict[int, set[int]]] = {}
    owners = {candidate: target for target, candidates in groups.items() for candidate in candidates}
    for record in records:
        target = owners.get(record.config.candidate)
        if target is not None and target.layer == AUTO and "layer_targeted" in record.metrics:
            of_splits = found.setdefault(target, {})
            of_splits.setdefault(record.config.split, set()).add(int(record.metrics["layer_targeted"]))
    return {target: dict(sorted(of_splits.items())) for target, of_splits in found.items()}


def measure(
    groups: Mapping[Target, Sequence[Candidate]], records: Iterable[TrialRecord], within: Mapping[str, float]
) -> list[Gains]:
    """The gains of every target in each figure that the trials have.

    Args:
        groups: The candidates of each target, as `targets` gives them.
        records: The trials of all of them on one phase's splits, with their items, in any order; read one at a time.
        within: Region of practical equivalence of each figure.

    Raises:
        ReportError: Two trials were judged on different items in one split.
    """
    found = {candidate: target for target, candidates in groups.items() for candidate in candidates}
    judged: dict[int, npt.NDArray[np.int32]] = {}
    sums: dict[str, dict[Target, dict[int, Values]]] = {figure: {} for figure in (*PER_ITEM, *PROBE)}
    for record in records:
        target, split = found[record.config.candidate], record.config.split
        for figure, values in _figures(record, judged).items():
            own = sums[figure].setdefault(target, {})
            own[split] = own.get(split, 0) + values / np.float32(len(groups[target]))
    n_items = 1 + max((int(items.max()) for items in judged.values()), default=0)
    found_gains = []
    for figure, of_targets in sums.items():
        place = None if figure in PROBE else judged
        gained = {
            target: _gain(of_splits, of_targets[control], place, n_items)
            for target, of_splits in of_targets.items()
            if (control := Target(target.objective, CONTROL)) in of_targets and target != control
        }
        if gained:
            found_gains.append(Gains(figure, within[PROBE.get(figure, figure)], _with_inputs(gained)))
    return found_gains


def _figures(record: TrialRecord, judged: dict[int, npt.NDArray[np.int32]]) -> dict[str, Values]:
    """A trial's values of each item, and of the linear probe; remembers which items each split judges."""
    items = record.items
    if items is None:
        raise ValueError(f"{record.config} was read without its items; read it with them to compare it.")
    if not np.array_equal(judged.setdefault(record.config.split, items.item), items.item):
        raise ReportError(
            f"{record.config} was judged on other items than other trials of its split, so they cannot be paired. "
            "Remove its record and run the study again."
        )
    found = {figure: np.asarray(getattr(items, column), dtype=np.float32) for figure, column in PER_ITEM.items()}
    return found | {figure: np.array([record.metrics[figure]]) for figure in PROBE if figure in record.metrics}


def _gain(
    own: Mapping[int, Values], control: Mapping[int, Values], judged: Mapping[int, Any] | None, n_items: int
) -> Values:
    """Values minus the control's: (splits, n_items) at the items judged, or (splits,) where values are of no item."""
    gains = {split: own[split] - control[split] for split in sorted(own)}
    if judged is None:
        return np.concatenate(list(gains.values()))
    matrix = np.full((len(gains), n_items), np.nan, dtype=np.float32)
    for row, (split, gain) in zip(matrix, gains.items(), strict=True):
        row[judged[split]] = gain
    return matrix


def _with_inputs(gained: Mapping[Target, Values]) -> dict[Target, Values]:
    """The same, with the input in every family: nothing is below it, so a stop-gradient there is not trained apart."""
    found = dict(gained)
    for target in gained:
        if target.stop_gradient:
            plain = replace(target, stop_gradient=False, layer=INPUT)
            if plain in gained:
                found.setdefault(replace(target, layer=INPUT), gained[plain])
    return found
