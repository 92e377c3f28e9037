"""Compare each method with the control of its objective, on the items of its reported trials."""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from analysis.format import p_text, plural, signed
from analysis.results.controls import is_reference, reference_of
from analysis.results.load import ReportError
from analysis.statistics.bootstrap import CalibrationErrors, Detection, SplitFigures, bootstrap_differences
from analysis.statistics.intervals import (
    Components,
    Decision,
    Interval,
    components,
    decide,
    further_splits,
    holm,
    nadeau_bengio_interval,
    naive_interval,
    two_way_interval,
)
from trainables.records.types import ItemResults, TrialRecord

# Figures that are a mean over items, and the field of `ItemResults` that they are the mean of.
PER_ITEM: Mapping[str, str] = {"auc_weighted": "auc_influence", "accuracy": "correct"}

# The expected calibration error; lower is better.
ECE = "ece_known"

# How well low confidence detects "none" items.
DETECTION = ("ood_auroc", "ood_aupr")

# Default half widths of the regions of practical equivalence.
REGIONS: Mapping[str, float] = {"auc_weighted": 0.002, "accuracy": 0.005, ECE: 0.005, **dict.fromkeys(DETECTION, 0.005)}


@dataclass(frozen=True)
class Difference:
    """The difference of a method to its reference in one figure.

    Attributes:
        reference: The method that the difference is to: the control of the method's objective.
        two_way: The interval that decides; from the two-way bootstrap for figures that are not a mean over items.
        naive: Interval of the paired t over splits, for comparison.
        nadeau_bengio: Interval of the corrected resampled t, for comparison.
        adjusted_p: p-value of the two-way interval after Holm's adjustment over the methods of one objective.
        region: Half width of the region of practical equivalence.
        decision: Result of the comparison.
        further_splits: Splits to add that would decide an undecided difference; None if no number would, and for
            figures that the bootstrap compares.
    """

    figure: str
    reference: str
    two_way: Interval
    naive: Interval
    nadeau_bengio: Interval
    adjusted_p: float
    region: float
    decision: Decision
    further_splits: int | None


@dataclass(frozen=True)
class MethodEvidence:
    """Intervals of one method's figures, and of its differences to the reference.

    Attributes:
        intervals: Two-way interval of each figure that is a mean over items.
        differences: Difference to the reference, by figure; empty for a reference, and if the study has no reference.
    """

    intervals: Mapping[str, Interval] = field(default_factory=dict)
    differences: Mapping[str, Difference] = field(default_factory=dict)


def regions(settings: Mapping[str, Any]) -> dict[str, float]:
    """Return the regions of practical equivalence of the study file (`objective.equivalence`), by default `REGIONS`.

    Raises:
        ReportError: A region is not above 0.
    """
    given = settings.get("objective", {}).get("equivalence") or {}
    found = {figure: float(given.get(figure, default)) for figure, default in REGIONS.items()}
    for figure, value in found.items():
        if not value > 0:
            raise ReportError(f"objective.equivalence.{figure} must be above 0, got {value}: correct the study file.")
    return found


def weigh(
    reported: Mapping[str, Sequence[TrialRecord]],
    within: Mapping[str, float],
    unconverged: Collection[str] = (),
) -> dict[str, MethodEvidence]:
    """Compare every method with the control of its objective, paired by split and item.

    Args:
        reported: The trials behind each method's reported figures, with their items, sorted by split.
        within: Region of practical equivalence of each figure.
        unconverged: Methods that have not converged: nothing is decided between them and others.

    Raises:
        ReportError: Two methods have different validation items in one split.
    """
    groups: dict[str, list[str]] = {}
    for method in reported:
        if not is_reference(method) and (reference := reference_of(method)) in reported:
            check_paired(reported[method], reported[reference])
            groups.setdefault(reference, []).append(method)
    intervals: dict[str, dict[str, Interval]] = {method: {} for method in reported}
    found: list[dict[str, Difference]] = []
    n_items = count_items(record for records in reported.values() for record in records)
    for figure, column in PER_ITEM.items():
        values = {method: item_matrix(records, column, n_items) for method, records in reported.items()}
        for method, matrix in values.items():
            intervals[method][figure] = two_way_interval(matrix)
        for reference, against in groups.items():
            seen = {}
            for method in against:
                paired = values[method] - values[reference]
                split_means = np.nanmean(paired.astype(np.float64), axis=1)
                seen[method] = _Seen(two_way_interval(paired), split_means, components(paired))
            found.append(_differences(figure, reference, seen, reported, within[figure]))
    for reference, against in groups.items():
        own = {method: reported[method] for method in (reference, *against)}
        found += [
            _differences(figure, reference, seen, reported, within[figure])
            for figure, seen in _resampled(own, reference, n_items).items()
        ]
    found = [
        {method: _withheld(one) if {method, one.reference} & {*unconverged} else one for method, one in own.items()}
        for own in found
    ]
    return {
        method: MethodEvidence(intervals[method], {own[method].figure: own[method] for own in found if method in own})
        for method in reported
    }


def _withheld(difference: Difference) -> Difference:
    """Return a difference without its decision, where a method or its reference has not converged."""
    return replace(difference, decision=Decision.NOT_CONVERGED, further_splits=None)


def count_items(records: Iterable[TrialRecord]) -> int:
    """Return how many items `item_matrix` needs to hold some trials."""
    return 1 + max((int(items_of(record).item.max()) for record in records), default=0)


def item_matrix(records: Sequence[TrialRecord], column: str, n_items: int) -> npt.NDArray[np.float32]:
    """Return one field of the items, (splits, n_items); NaN where a split does not validate on an item."""
    matrix = np.full((len(records), n_items), np.nan, dtype=np.float32)
    for row, record in zip(matrix, records, strict=True):
        items = items_of(record)
        row[items.item] = getattr(items, column)
    return matrix


def sentence(difference: Difference, method: str, name: str) -> str:
    """Return the decision as a sentence."""
    interval = difference.two_way
    estimate = f"{signed(interval.estimate)} in {name}"
    if math.isnan(interval.low):
        return f"{method} differs from {difference.reference} by {estimate}, on one split: no interval."
    seen = f"{estimate} (95 % interval {interval.ends})"
    p = f"{p_text(difference.adjusted_p)} after Holm"
    match difference.decision:
        case Decision.NOT_CONVERGED:
            return f"Nothing is decided between {method} and {difference.reference}, not converged: {seen}."
        case Decision.BETTER | Decision.WORSE:
            return f"{method} is {difference.decision} than {difference.reference}: {seen}, {p}."
        case Decision.EQUIVALENT:
            return f"{method} is equivalent to {difference.reference}: {seen}, within ±{difference.region:g}."
        case _:
            if difference.further_splits is None:
                more = "more splits alone would not decide it, more items are needed"
            else:
                n_more = plural(difference.further_splits, "more split")
                more = f"about {n_more} would decide it if the difference stays the same"
            if interval.low > 0 or interval.high < 0:  # without Holm's adjustment it would be decided
                seen += f", but {p}"
            return f"{method} is undecided against {difference.reference}: {seen}; {more}."


def in_short(difference: Difference) -> str:
    """Return the decision with the estimate and its interval."""
    return f"{difference.decision}, {signed(difference.two_way.estimate)} ({difference.two_way.ends})"


@dataclass(frozen=True)
class _Seen:
    """A difference before Holm's adjustment; without variance components if the bootstrap gave it."""

    interval: Interval
    split_means: npt.NDArray[np.floating]
    parts: Components | None


def _resampled(
    reported: Mapping[str, Sequence[TrialRecord]], reference: str, n_items: int
) -> dict[str, dict[str, _Seen]]:
    """Return differences to a reference in the figures that are not a mean over items, if every split has them."""
    known = [items_of(record).known for records in reported.values() for record in records]
    items = {method: [items_of(record) for record in records] for method, records in reported.items()}
    makers: dict[tuple[str, ...], dict[str, SplitFigures]] = {}
    if all(one.any() for one in known):
        makers[(ECE,)] = {method: CalibrationErrors(own, n_items) for method, own in items.items()}
        if not any(one.all() for one in known):
            makers[DETECTION] = {method: Detection(own) for method, own in items.items()}
    found: dict[str, dict[str, _Seen]] = {}
    for names, figures in makers.items():
        differences = bootstrap_differences(figures, reference, n_items)
        for place, name in enumerate(names):
            found[name] = {method: _Seen(*own[place], parts=None) for method, own in differences.items()}
    return found


def _differences(
    figure: str,
    reference: str,
    seen: Mapping[str, _Seen],
    reported: Mapping[str, Sequence[TrialRecord]],
    region: float,
) -> dict[str, Difference]:
    adjusted = holm([own.interval.p_value for own in seen.values()])
    found = {}
    for (method, own), p in zip(seen.items(), adjusted, strict=True):
        interval, metrics = own.interval, reported[method][0].metrics
        decision = decide(_mirrored(interval) if figure == ECE else interval, float(p), region)
        further = None
        if decision is Decision.UNDECIDED and own.parts is not None:
            n_tests = max(1, round(float(p) / interval.p_value)) if interval.p_value > 0 and p < 1 else len(seen)
            further = further_splits(own.parts, region, n_tests)
        found[method] = Difference(
            figure=figure,
            reference=reference,
            two_way=interval,
            naive=naive_interval(own.split_means),
            nadeau_bengio=nadeau_bengio_interval(
                own.split_means, int(metrics["n_train"]), int(metrics["n_validation"])
            ),
            adjusted_p=float(p),
            region=region,
            decision=decision,
            further_splits=further,
        )
    return found


def _mirrored(interval: Interval) -> Interval:
    """Return the interval of the opposite difference."""
    return replace(interval, estimate=-interval.estimate, low=-interval.high, high=-interval.low)


def check_paired(records: Sequence[TrialRecord], control: Sequence[TrialRecord]) -> None:
    """Check that two methods have the same validation items in every split.

    Raises:
        ReportError: They have not.
    """
    for own, other in zip(records, control, strict=True):
        same = own.config.split == other.config.split
        if not same or not np.array_equal(items_of(own).item, items_of(other).item):
            raise ReportError(
                f"{own.config} and {other.config} have different validation items, so they cannot be paired. "
                "Remove the records of one method and run the study again."
            )


def items_of(record: TrialRecord) -> ItemResults:
    """Return the per-item results of a trial that was read with them.

    Raises:
        ValueError: It was read without them.
    """
    if record.items is None:
        raise ValueError(f"{record.config} was read without its items: read it with `with_items=True`.")
    return record.items
