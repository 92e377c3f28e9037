"""Compare studies: other embeddings, another version of the data, other settings.

A method in each further study, with what its splits chose, is compared with the same in the first study. Where both
studies have the same split, with the same seed, phase and test items, the difference is taken item by item.
Otherwise Welch's t is applied to the error of each study. Two studies of the same items then look less certain than
they are, as the variance of the shared items is counted twice. Where candidates were chosen by the reported figures, a
difference has neither interval nor decision.

References:
    Welch (1947), "The generalization of 'Student's' problem", https://doi.org/10.1093/biomet/34.1-2.28
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from analysis.format import flatten
from analysis.results.aggregate import MethodSummary, StudyResults
from analysis.results.controls import objective_of
from analysis.results.load import ReportError, load_study, read_items
from analysis.statistics.decisions import count_items, figure_matrix, regions, sampling_of
from analysis.statistics.intervals import Decision, Interval, decide, interval, interval_of, interval_over_splits
from analysis.statistics.variance import Values
from trainables.records.types import TrialRecord

# Figures that studies are compared in.
COMPARED = ("auc_weighted", "top1")

# Settings that do not affect results.
_IRRELEVANT = ("name", "preset", "directory", "resources.", "tracking.")


@dataclass(frozen=True)
class Side:
    """One of the compared studies.

    Attributes:
        name: A name that differs from the other studies' names.
        results: The study.
        reported: The trials behind each method's reported figures; without items if they come from a server.
    """

    name: str
    results: StudyResults
    reported: Mapping[str, Sequence[TrialRecord]]

    @cached_property
    def summaries(self) -> Mapping[str, MethodSummary]:
        """The summary of each method."""
        return {summary.method: summary for summary in self.results.methods}


@dataclass(frozen=True)
class Contrast:
    """The difference of one method between a further study and the first study.

    Attributes:
        study: Name of the further study.
        interval: Of the difference; holds together with those of all methods of one objective and all studies, and its
            p-value is adjusted alike.
        n_splits: Number of paired splits; 0 if the difference is unpaired.
        basis: Whether the difference is paired, and why not, in words.
        region: Half width of the region of practical equivalence.
        decision: Result of the comparison for the further study.
    """

    method: str
    study: str
    figure: str
    interval: Interval
    n_splits: int
    basis: str
    region: float
    decision: Decision = Decision.UNDECIDED


@dataclass(frozen=True)
class Comparison:
    """Several studies compared with the first.

    Attributes:
        sides: The studies.
        methods: All their methods, in the order of the study files.
        contrasts: Differences of the methods that both studies have finished.
        differing: Settings and data that differ: (key, value in each study).
    """

    sides: tuple[Side, ...]
    methods: tuple[str, ...]
    contrasts: tuple[Contrast, ...]
    differing: tuple[tuple[str, tuple[str, ...]], ...]

    @property
    def convergence(self) -> list[tuple[str, str]]:
        """The study, and what to say of methods that have not converged or could not be judged."""
        return [(side.name, text) for side in self.sides for text in side.results.convergence]


def compare(places: Sequence[str]) -> Comparison:
    """Read studies and compare them with the first.

    Args:
        places: Directories of studies, or `URI#NAME` for a study on an MLflow server; at least two.

    Raises:
        ReportError: There are fewer than two studies, or a server does not have one of them.
        DescriptionError: A directory holds no study.
        RecordError: A record file is damaged or of another version.
    """
    if len(places) < 2:
        raise ReportError(f"A comparison needs at least two studies, got {len(places)}: name another directory.")
    loaded = [_load(place) for place in places]
    names = _names([results.description.name for results, _ in loaded], places)
    sides = tuple(Side(name, *study) for name, study in zip(names, loaded, strict=True))
    methods = tuple(dict.fromkeys(method for side in sides for method in side.results.description.methods))
    within = regions(sides[0].results.description.settings)
    contrasts: list[Contrast] = []
    for figure in COMPARED:
        found = [
            _contrast(sides[0], side, method, figure, within[figure])
            for method in methods
            for side in sides[1:]
            if sides[0].reported.get(method) and side.reported.get(method)
        ]
        objectives = dict.fromkeys(objective_of(method) for method in methods)
        for objective in objectives:
            contrasts += _decided([contrast for contrast in found if objective_of(contrast.method) == objective])
    unconverged = {(side.name, method) for side in sides for method in side.results.not_converged}
    contrasts = [
        replace(one, decision=Decision.NOT_CONVERGED)
        if {(sides[0].name, one.method), (one.study, one.method)} & unconverged
        else one
        for one in contrasts
    ]
    return Comparison(sides, methods, tuple(contrasts), tuple(_differing(sides)))


def welch_interval(first: Interval, second: Interval) -> Interval:
    """Return Welch's interval of the difference second - first.

    Args:
        first: Interval of the figure in the first study.
        second: Interval of the figure in the second study.
    """
    estimate = second.estimate - first.estimate
    variances = (first.standard_error**2, second.standard_error**2)
    if not math.isfinite(sum(variances)) or sum(variances) == 0:
        return interval_of(estimate, math.nan, 0)
    freedom = sum(variances) ** 2 / (variances[0] ** 2 / first.freedom + variances[1] ** 2 / second.freedom)
    return interval_of(estimate, math.sqrt(sum(variances)), freedom)


def _load(place: str) -> tuple[StudyResults, Mapping[str, Sequence[TrialRecord]]]:
    uri, _, name = place.rpartition("#")
    if "://" in uri or uri.startswith("sqlite:"):
        from analysis.results.mlflow import load_runs

        results = load_runs(uri, name)
        return results, results.reported_records
    results = load_study(Path(place))
    return results, read_items(Path(place), results.reported_records)


def _names(names: Sequence[str], places: Sequence[str]) -> list[str]:
    """Return the studies' names, or for studies of one name the places that they were read from."""
    return [name if names.count(name) == 1 else place for name, place in zip(names, places, strict=True)]


def _contrast(first: Side, second: Side, method: str, figure: str, region: float) -> Contrast:
    mine, theirs = first.reported[method], second.reported[method]
    if first.results.chosen_on_reported or second.results.chosen_on_reported:
        means = [float(np.mean([record.metrics[figure] for record in records])) for records in (mine, theirs)]
        seen = interval_of(means[1] - means[0], math.nan, 0)
        return Contrast(
            method, second.name, figure, seen, len(theirs), "chosen by the reported figures: no interval", region
        )
    pairs, why = _pairs(first, second, mine, theirs)
    if pairs:
        n_items = count_items(record for pair in pairs for record in pair)
        before, after = (figure_matrix(records, figure, n_items) for records in zip(*pairs, strict=True))
        most = max(len(mine), len(theirs))
        basis = f"paired on {len(pairs)} splits" if len(pairs) == most else f"paired on {len(pairs)} of {most} splits"
        seen = _crossed(after - before, first)
        return Contrast(method, second.name, figure, seen, len(pairs), basis, region)
    seen = welch_interval(_alone(mine, figure, first), _alone(theirs, figure, second))
    return Contrast(method, second.name, figure, seen, 0, f"unpaired: {why}", region)


def _crossed(values: Values, side: Side) -> Interval:
    """Return the interval of a mean over splits and items that were made by one study's design."""
    return interval(sampling_of(side.results.description).variance_of(values)[0])


def _pairs(
    first: Side, second: Side, mine: Sequence[TrialRecord], theirs: Sequence[TrialRecord]
) -> tuple[list[tuple[TrialRecord, TrialRecord]], str]:
    """Return the trials of both studies on the same split of the same items; without any, the reason."""
    if any(record.items is None for record in (*mine, *theirs)):
        return [], "a server has no per-item results, so the interval counts only splits"
    if _items_digests(first) != _items_digests(second):
        return [], "the items differ"
    by_split = {(record.config.phase, record.config.split): record for record in mine}
    shared = [(by_split[key], own) for own in theirs if (key := (own.config.phase, own.config.split)) in by_split]
    if not shared:
        return [], "no split is shared"
    pairs = [pair for pair in shared if _same_items(*pair)]
    return pairs, "" if pairs else "the test items of the splits differ"


def _items_digests(side: Side) -> tuple[Any, ...]:
    """Return what is the same in two studies of the same items."""
    data = side.results.description.data
    ids = {options.get("ids_digest") for options in data.embeddings.values()}
    return (data.n_items, data.class_names, ids)


def _same_items(first: TrialRecord, second: TrialRecord) -> bool:
    a, b = first.items, second.items
    return a is not None and b is not None and np.array_equal(a.item, b.item) and np.array_equal(a.label, b.label)


def _alone(records: Sequence[TrialRecord], figure: str, side: Side) -> Interval:
    """Return the interval of one study's figure: over splits and items, or without items over splits only."""
    if all(record.items is not None for record in records):
        return _crossed(figure_matrix(records, figure, count_items(records)), side)
    return interval_over_splits(np.array([record.metrics[figure] for record in records]))


def _decided(found: Sequence[Contrast]) -> list[Contrast]:
    """Return contrasts with intervals that hold together, and decisions."""
    n = max(1, sum(math.isfinite(contrast.interval.low) for contrast in found))
    joint = [replace(contrast, interval=contrast.interval.of_several(n)) for contrast in found]
    return [replace(contrast, decision=decide(contrast.interval, contrast.region)) for contrast in joint]


def _differing(sides: Sequence[Side]) -> list[tuple[str, tuple[str, ...]]]:
    """Return the settings and data that differ between the studies, in the order of the study file."""
    flat = []
    for side in sides:
        description = side.results.description
        settings = {key: text for key, text in flatten(description.settings) if not key.startswith(_IRRELEVANT)}
        columns = {
            f"embeddings.{name}": entry.get("encoder", "") for name, entry in description.data.embeddings.items()
        }
        counted = {"items": description.data.n_items, "classes": description.data.n_classes}
        flat.append({**settings, **{key: str(value) for key, value in {**columns, **counted}.items()}})
    keys = dict.fromkeys(key for one in flat for key in one)
    rows = [(key, tuple(one.get(key, "–") for one in flat)) for key in keys]
    return [(key, values) for key, values in rows if len(set(values)) > 1]
