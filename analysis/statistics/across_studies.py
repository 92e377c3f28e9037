"""Two or more studies side by side: other embeddings, another version of the data, other settings.

A method's best candidate in each further study is compared with its best in the first one. Where a split is the same in
both, that is, its seed, its phase and the items that it judges, the difference is taken item by item. Otherwise Welch's
t is used, on the two-way error of each study by itself; two studies of the same items then look less certain than they
are, as what they share is counted as luck twice.

References:
    Welch (1947), "The generalization of 'Student's' problem", https://doi.org/10.1093/biomet/34.1-2.28
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from analysis.format import flatten
from analysis.results.aggregate import MethodSummary, reported_records, summarise
from analysis.results.controls import objective_of
from analysis.results.load import ReportError, StudyResults, load_items, load_study
from analysis.statistics.decisions import PER_ITEM, item_matrix, regions
from analysis.statistics.intervals import Decision, Interval, Values, decide, holm, interval_of, two_way_interval
from trainables.records.types import TrialRecord

_IRRELEVANT = ("name", "preset", "directory", "resources.", "tracking.")

"""Settings whose difference between studies says nothing of their results."""


@dataclass(frozen=True)
class Side:
    """One of the studies.

    Attributes:
        name: What it is called here; unlike the others' names.
        results: The study.
        summaries: The best candidate of each method.
        reported: The trials behind each method's reported figures; of a server, without items.
    """

    name: str
    results: StudyResults
    summaries: Mapping[str, MethodSummary]
    reported: Mapping[str, Sequence[TrialRecord]]


@dataclass(frozen=True)
class Contrast:
    """One method in a further study minus the same in the first one.

    Attributes:
        method: Name of the method.
        study: Name of the further study.
        figure: Name of the figure.
        interval: 95 % interval of the difference.
        n_splits: Splits that were paired; 0 where the difference is unpaired.
        basis: How the difference was judged, in words.
        region: Half width of the region of practical equivalence.
        adjusted_p: p-value after Holm's adjustment over the objective's methods and the studies.
        decision: What the data say of the further study.
    """

    method: str
    study: str
    figure: str
    interval: Interval
    n_splits: int
    basis: str
    region: float
    adjusted_p: float = math.nan
    decision: Decision = Decision.UNDECIDED


@dataclass(frozen=True)
class Comparison:
    """Studies side by side.

    Attributes:
        sides: The studies; the first is the one that the others are compared with.
        methods: Every method, in the order in which the studies name them.
        contrasts: Differences of methods that both studies have finished.
        differing: Settings and data that differ: (key, the value in each study).
    """

    sides: tuple[Side, ...]
    methods: tuple[str, ...]
    contrasts: tuple[Contrast, ...]
    differing: tuple[tuple[str, tuple[str, ...]], ...]


def compare(places: Sequence[str]) -> Comparison:
    """Reads studies and compares them with the first.

    Args:
        places: Directories of studies, or `URI#NAME` for a study on an MLflow server; at least two.

    Raises:
        ReportError: There are fewer than two, or one cannot be read.
        RecordError: A record file is damaged or of another version.
    """
    if len(places) < 2:
        raise ReportError(f"A comparison needs at least two studies, got {len(places)}. Name another directory.")
    loaded = [_load(place) for place in places]
    names = _names([results.description.name for results, _ in loaded], places)
    sides = tuple(
        Side(name, results, {summary.method: summary for summary in summarise(results)}, reported)
        for name, (results, reported) in zip(names, loaded, strict=True)
    )
    methods = tuple(dict.fromkeys(method for side in sides for method in side.results.description.methods))
    within = regions(sides[0].results.description.settings)
    contrasts: list[Contrast] = []
    for figure in PER_ITEM:
        found = [
            _contrast(sides[0], side, method, figure, within[figure])
            for method in methods
            for side in sides[1:]
            if sides[0].reported.get(method) and side.reported.get(method)
        ]
        objectives = dict.fromkeys(objective_of(method) for method in methods)
        for objective in objectives:
            contrasts += _decided([contrast for contrast in found if objective_of(contrast.method) == objective])
    return Comparison(sides, methods, tuple(contrasts), tuple(_differing(sides)))


def welch_interval(first: Interval, second: Interval, n_first: int, n_second: int) -> Interval:
    """Interval of second - first, each with its own error and J - 1 degrees of freedom.

    Args:
        first: Of one study's figure itself.
        second: Of the other's.
        n_first: Splits of the one.
        n_second: Splits of the other.
    """
    estimate = second.estimate - first.estimate
    variances = (first.standard_error**2, second.standard_error**2)
    if n_first < 2 or n_second < 2 or not math.isfinite(sum(variances)) or sum(variances) == 0:
        return interval_of(estimate, math.nan, 0)
    freedom = sum(variances) ** 2 / (variances[0] ** 2 / (n_first - 1) + variances[1] ** 2 / (n_second - 1))
    return interval_of(estimate, math.sqrt(sum(variances)), freedom)


def _load(place: str) -> tuple[StudyResults, Mapping[str, Sequence[TrialRecord]]]:
    uri, _, name = place.rpartition("#")
    if "://" in uri or uri.startswith("sqlite:"):
        from analysis.results.mlflow import load_runs

        results = load_runs(uri, name).results
        return results, reported_records(results, summarise(results))
    results = load_study(Path(place))
    chosen = reported_records(results, summarise(results))
    whole = {
        record.config: record
        for record in load_items(Path(place), {record.config for records in chosen.values() for record in records})
    }
    return results, {method: [whole[record.config] for record in records] for method, records in chosen.items()}


def _names(names: Sequence[str], places: Sequence[str]) -> list[str]:
    """The studies' own names; where two are the same, the places they were read from."""
    return [name if names.count(name) == 1 else place for name, place in zip(names, places, strict=True)]


def _contrast(first: Side, second: Side, method: str, figure: str, region: float) -> Contrast:
    mine, theirs = first.reported[method], second.reported[method]
    pairs, why = _pairs(first, second, mine, theirs)
    if pairs:
        n_items = 1 + max(int(own.items.item.max()) for pair in pairs for own in pair if own.items is not None)
        column = PER_ITEM[figure]
        before = item_matrix([pair[0] for pair in pairs], column, n_items)
        after = item_matrix([pair[1] for pair in pairs], column, n_items)
        most = max(len(mine), len(theirs))
        basis = f"paired on {len(pairs)} splits" if len(pairs) == most else f"paired on {len(pairs)} of {most} splits"
        return Contrast(method, second.name, figure, two_way_interval(after - before), len(pairs), basis, region)
    own, other = _alone(mine, figure), _alone(theirs, figure)
    interval = welch_interval(own, other, len(mine), len(theirs))
    return Contrast(method, second.name, figure, interval, 0, f"unpaired: {why}", region)


def _pairs(
    first: Side, second: Side, mine: Sequence[TrialRecord], theirs: Sequence[TrialRecord]
) -> tuple[list[tuple[TrialRecord, TrialRecord]], str]:
    """The trials of both studies on the same split of the same items; or why there are none."""
    if any(record.items is None for record in (*mine, *theirs)):
        return [], "a server holds no items, so the interval counts splits alone"
    if _items_digests(first) != _items_digests(second):
        return [], "the items are others"
    by_split = {(record.config.phase, record.config.split): record for record in mine}
    shared = [(by_split[key], own) for own in theirs if (key := (own.config.phase, own.config.split)) in by_split]
    if not shared:
        return [], "no split is shared"
    pairs = [pair for pair in shared if _same_items(*pair)]
    return pairs, "" if pairs else "the splits judge other items"


def _items_digests(side: Side) -> tuple[Any, ...]:
    data = side.results.description.data
    ids = {options.get("ids_digest") for options in data.embeddings.values()}
    return (data.n_items, data.class_names, ids)


def _same_items(first: TrialRecord, second: TrialRecord) -> bool:
    a, b = first.items, second.items
    return a is not None and b is not None and np.array_equal(a.item, b.item) and np.array_equal(a.label, b.label)


def _alone(records: Sequence[TrialRecord], figure: str) -> Interval:
    """A study's figure by itself: two-way where there are items, else over splits alone."""
    if all(record.items is not None for record in records):
        n_items = 1 + max(int(record.items.item.max()) for record in records if record.items is not None)
        return two_way_interval(item_matrix(records, PER_ITEM[figure], n_items))
    values: Values = np.array([record.metrics[figure] for record in records])
    j = len(values)
    error = math.sqrt(float(np.var(values, ddof=1)) / j) if j > 1 else math.nan
    return interval_of(float(values.mean()), error, j - 1)


def _decided(found: Sequence[Contrast]) -> list[Contrast]:
    adjusted = holm([contrast.interval.p_value for contrast in found])
    return [
        replace(contrast, adjusted_p=float(p), decision=decide(contrast.interval, float(p), contrast.region))
        for contrast, p in zip(found, adjusted, strict=True)
    ]


def _differing(sides: Sequence[Side]) -> list[tuple[str, tuple[str, ...]]]:
    """What differs between the studies' settings and data, in the order of the settings."""
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
