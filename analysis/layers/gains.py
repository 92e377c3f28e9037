"""What augmenting one layer gains over no augmentation, layer by layer.

A *target* is what a candidate augments: one layer, by one method, with or without a stop-gradient below it. Its gain is
its value minus that of its objective's control, paired by split and, where the figure is a mean over items, by item.
Where a study tries several values of other hyperparameters, target and control are means over all of them: the best of
several would owe part of its gain to luck, which no interval here counts.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np

from analysis.results.aggregate import StudyResults
from analysis.results.controls import CONTROL
from analysis.statistics.decisions import Sampling, check_paired, figure_matrix, sampling_of
from analysis.statistics.intervals import Interval, interval, interval_over_splits
from analysis.statistics.variance import Values
from trainables.records.types import AUTO as RECORDED_AUTO
from trainables.records.types import CONTRASTIVE, SUPERVISED, Candidate, SplitId, TrialRecord

Family = tuple[str, bool]

# The input as a layer, and the layer that each trial chooses by CKA.
INPUT, AUTO = 0, int(RECORDED_AUTO)

OBJECTIVES = (CONTRASTIVE, SUPERVISED)

# Figures with a value per item that gains are computed in.
GAIN_FIGURES = ("auc_weighted", "accuracy")

# Methods that target no layer and are shown beside those that do: dropout at every layer, and noise at the input.
BESIDE = ("uniform_dropout", "gaussian_noise", "feature_corruption")

# The linear probe's figures, which have no values per item, and the figure whose region of equivalence each shares.
PROBE: Mapping[str, str] = {"probe_auc_weighted": "auc_weighted", "probe_accuracy": "accuracy"}


@dataclass(frozen=True)
class Target:
    """What a candidate augments.

    Attributes:
        objective: One of `OBJECTIVES`.
        augmentation: Name of the method without its objective.
        stop_gradient: Whether gradients stop below the layer.
        layer: `INPUT`, a hidden layer from 1 on, or `AUTO`; None for a method that targets no layer.
    """

    objective: str
    augmentation: str
    stop_gradient: bool = False
    layer: int | None = None

    @property
    def family(self) -> Family:
        """Augmentation and stop-gradient: what stays the same along the layers."""
        return self.augmentation, self.stop_gradient

    @property
    def rank(self) -> tuple[int, bool, Family, float]:
        """Sort key: objective, families with layers first, layers from the input on, `AUTO` last."""
        depth = math.inf if self.layer == AUTO else float(self.layer or 0)
        return OBJECTIVES.index(self.objective), self.layer is None, self.family, depth


@dataclass(frozen=True)
class Gains:
    """The gains of every target in one figure.

    Attributes:
        region: Half width of the figure's region of practical equivalence.
        values: Gain of each target (splits, items), NaN for items that a split does not judge; (splits,) for the linear
            probe.
        sampling: How the splits sample the items.
    """

    figure: str
    region: float
    values: Mapping[Target, Values]
    sampling: Sampling

    @property
    def basis(self) -> str:
        """What the intervals count."""
        return "over splits alone" if self.figure in PROBE else "over splits and items"

    @cached_property
    def intervals(self) -> dict[Target, Interval]:
        """The 95 % interval of each target's mean gain, in the order of `Target.rank`."""
        ranked = sorted(self.values, key=lambda target: target.rank)
        return {target: self.interval_over(self.values[target]) for target in ranked}

    def interval_over(self, values: Values) -> Interval:
        """Return the 95 % interval of a mean gain: over splits and items, or a paired t over splits for (splits,)."""
        if values.ndim == 1:
            return interval_over_splits(values)
        return interval(self.sampling.variance_of(values)[0])

    def families(self, objective: str) -> list[Family]:
        """Return the families of an objective that target layers."""
        found = (t.family for t in self.intervals if t.objective == objective and t.layer is not None)
        return list(dict.fromkeys(found))

    def by_layer(self, objective: str, family: Family) -> dict[int, Values]:
        """Return the gains of a family at each fixed layer, from the input on."""
        targets = (target for target in self.intervals if (target.objective, target.family) == (objective, family))
        return {t.layer: self.values[t] for t in targets if t.layer is not None and t.layer != AUTO}


@dataclass(frozen=True)
class AutoChoice:
    """A family where each trial chose its layer, compared with the family's best fixed layer.

    Attributes:
        target: The family's target `AUTO`.
        best: The fixed target of the highest mean gain.
        regret: Gain of the best minus that of `AUTO`; overstated, as the best was chosen on the same items.
    """

    target: Target
    best: Target
    regret: Interval


def auto_choices(gains: Gains) -> list[AutoChoice]:
    """Compare every family where trials chose their layer with its best fixed layer.

    Of layers with equal gains, the best is the one nearest the input.
    """
    found = []
    for target in gains.intervals:
        if target.layer == AUTO and (layers := gains.by_layer(target.objective, target.family)):
            best = max(layers, key=lambda layer: gains.interval_over(layers[layer]).estimate)
            regret = gains.interval_over(layers[best] - gains.values[target])
            found.append(AutoChoice(target, replace(target, layer=best), regret))
    return found


def target_of(candidate: Candidate) -> Target:
    """Return what a candidate augments."""
    params = dict(candidate.params)
    if "layer" not in params:
        return Target(candidate.objective, candidate.augmentation)
    stop = params.get("stop_gradient", 0) > 0
    return Target(candidate.objective, candidate.augmentation, stop, int(params["layer"]))


def find_targets(results: StudyResults) -> dict[Target, list[Candidate]]:
    """Return the targets to compare, controls included, each with its candidates that finished every split.

    In a nested study these are the trials of the search, where every layer is trained. An objective without a control
    or with fewer than two fixed layers is left out; so is a study whose splits search on their own, where no layer has
    met all splits.
    """
    found: dict[Target, list[Candidate]] = {}
    if results.own_searches:
        return found
    for summary in results.candidates[results.description.choosing_phase]:
        target = target_of(summary.candidate)
        if summary.complete and (target.layer is not None or target.augmentation in (CONTROL, *BESIDE)):
            found.setdefault(target, []).append(summary.candidate)
    layers = {name: {t.layer for t in found if t.objective == name} - {None, AUTO} for name in OBJECTIVES}
    shown = [name for name in OBJECTIVES if len(layers[name]) > 1 and Target(name, CONTROL) in found]
    return {target: candidates for target, candidates in found.items() if target.objective in shown}


def chosen_layers(
    groups: Mapping[Target, Sequence[Candidate]], records: Iterable[TrialRecord]
) -> dict[Target, dict[SplitId, set[int]]]:
    """Return the layers that trials of each target `AUTO` chose, by split; several where candidates differ."""
    found: dict[Target, dict[SplitId, set[int]]] = {}
    for record in sorted(records, key=lambda record: record.config.split):
        target = target_of(record.config.candidate)
        shown = record.config.candidate in groups.get(target, ())
        if shown and target.layer == AUTO and "layer_targeted" in record.metrics:
            of_split = found.setdefault(target, {}).setdefault(record.config.split, set())
            of_split.add(int(record.metrics["layer_targeted"]))
    return found


def measure(
    results: StudyResults,
    groups: Mapping[Target, Sequence[Candidate]],
    records: Iterable[TrialRecord],
    within: Mapping[str, float],
) -> list[Gains]:
    """Compute the gains of every target in each figure that the trials have.

    Args:
        results: The study.
        groups: The candidates of each target, as `find_targets` returns them.
        records: All their trials of the choosing phase, with items, in any order; read one at a time.
        within: Region of practical equivalence of each figure.

    Raises:
        ReportError: Two trials of one split were judged on different items.
    """
    owners = {candidate: target for target, candidates in groups.items() for candidate in candidates}
    phase = results.description.choosing_phase
    splits = sorted(results.description.splits[phase])
    outer = list(dict.fromkeys(split.outer for split in splits))
    of_outer = [[place for place, split in enumerate(splits) if split.outer == one] for one in outer]
    shape = (len(splits), results.description.data.n_items)
    first: dict[SplitId, TrialRecord] = {}
    means: dict[str, dict[Target, Values]] = {figure: {} for figure in (*GAIN_FIGURES, *PROBE)}
    for record in records:
        target, split = owners[record.config.candidate], record.config.split
        check_paired([record], [first.setdefault(split, record)])
        values = {figure: figure_matrix([record], figure, shape[1])[0] for figure in GAIN_FIGURES}
        values |= {figure: np.asarray(record.metrics[figure]) for figure in PROBE if figure in record.metrics}
        for figure, own in values.items():
            mean = means[figure].setdefault(target, np.zeros(shape[: own.ndim + 1], own.dtype))
            mean[splits.index(split)] += own / own.dtype.type(len(groups[target]))
    found = []
    for figure, of_targets in means.items():
        gained = {
            target: _of_splits(own - of_targets[control], of_outer)
            for target, own in of_targets.items()
            if (control := Target(target.objective, CONTROL)) in of_targets and target != control
        }
        # Nothing lies below the input, so a stop-gradient there is not trained apart: the plain input stands for it.
        for stopped in [target for target in gained if target.stop_gradient]:
            if (plain := replace(stopped, stop_gradient=False, layer=INPUT)) in gained:
                gained.setdefault(replace(stopped, layer=INPUT), gained[plain])
        if gained:
            found.append(
                Gains(figure, within[PROBE.get(figure, figure)], gained, sampling_of(results.description, phase))
            )
    return found


def _of_splits(values: Values, of_outer: Sequence[Sequence[int]]) -> Values:
    """Return the mean over the inner splits of each split, of those that judge the item."""
    if all(len(own) == 1 for own in of_outer):
        return values
    there = np.isfinite(values)
    kept = np.where(there, values, 0.0)
    return np.stack([kept[own].sum(axis=0) / np.where(n := there[own].sum(axis=0), n, np.nan) for own in of_outer])
