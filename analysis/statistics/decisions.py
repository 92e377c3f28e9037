"""What a study decides: each method against its objective's control, by the items behind its reported figures."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from analysis.format import plural, signed
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
from trainables.records.types import TrialRecord

PER_ITEM: Mapping[str, str] = {"auc_weighted": "auc_influence", "accuracy": "correct"}

"""Figures that are a mean over items, and the field of the items that they are a mean of."""

ECE = "ece_known"

"""The calibration error, of which less is better."""

DETECTION = ("ood_auroc", "ood_aupr")

"""How well low confidence tells "none" items apart."""

REGIONS: Mapping[str, float] = {"auc_weighted": 0.002, "accuracy": 0.005, ECE: 0.005, **dict.fromkeys(DETECTION, 0.005)}

"""Half widths of the regions of practical equivalence, where the study file names none."""


@dataclass(frozen=True)
class Difference:
    """A method minus its reference, in one figure.

    Attributes:
        figure: Name of the figure.
        reference: The method that it is a difference to: `control`, or that of the method's objective.
        two_way: The interval that decides; of what is not a mean over items by the two-way bootstrap.
        naive: Paired t over splits, beside it.
        nadeau_bengio: Corrected resampled t, beside it.
        adjusted_p: p-value of the two-way interval after Holm's adjustment over the methods of its objective.
        region: Half width of the region of practical equivalence.
        decision: What the data say.
        further_splits: Splits to add that would decide an undecided difference; None where none would, and where the
            bootstrap judges.
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
    """What the items say of one method.

    Attributes:
        method: Name of the method.
        intervals: Two-way interval of each figure itself.
        differences: Against its reference, by figure; empty for a reference, and where it is not among the methods.
    """

    method: str
    intervals: Mapping[str, Interval] = field(default_factory=dict)
    differences: Mapping[str, Difference] = field(default_factory=dict)


def regions(settings: Mapping[str, Any]) -> dict[str, float]:
    """The regions of practical equivalence: those of the study file (`objective.equivalence`), else `REGIONS`.

    Raises:
        ReportError: One is not above 0.
    """
    objective = settings.get("objective")
    given = (objective.get("equivalence") or {}) if isinstance(objective, Mapping) else {}
    found = {figure: float(given.get(figure, default)) for figure, default in REGIONS.items()}
    for figure, value in found.items():
        if not value > 0:
            raise ReportError(f"objective.equivalence.{figure} must be above 0, got {value}. Mend the study file.")
    return found


def weigh(reported: Mapping[str, Sequence[TrialRecord]], within: Mapping[str, float]) -> dict[str, MethodEvidence]:
    """Compares every method with its objective's control on the splits and items that they share.

    Args:
        reported: The trials behind each method's reported figures, with their items, sorted by split.
        within: Region of practical equivalence of each figure.

    Raises:
        ReportError: Two methods were judged on different items in one split.
    """
    groups: dict[str, list[str]] = {}
    for method in reported:
        if not is_reference(method) and (reference := reference_of(method)) in reported:
            check_paired(reported[method], reported[reference])
            groups.setdefault(reference, []).append(method)
    intervals: dict[str, dict[str, Interval]] = {method: {} for method in reported}
    found: list[dict[str, Difference]] = []
    n_items = 1 + max(
        (int(_items(record).item.max()) for records in reported.values() for record in records), default=0
    )
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
    return {
        method: MethodEvidence(
            method, intervals[method], {own[method].figure: own[method] for own in found if method in own}
        )
        for method in reported
    }


def item_matrix(records: Sequence[TrialRecord], column: str, n_items: int) -> npt.NDArray[np.float32]:
    """One field of the items of each split, (splits, n_items), NaN for items that a split does not judge."""
    matrix = np.full((len(records), n_items), np.nan, dtype=np.float32)
    for row, record in zip(matrix, records, strict=True):
        items = _items(record)
        row[items.item] = getattr(items, column)
    return matrix


def sentence(difference: Difference, method: str, name: str) -> str:
    """The decision in plain words.

    Args:
        difference: Of the method and its reference.
        method: Name of the method.
        name: How the figure is called.
    """
    interval = difference.two_way
    estimate = f"{signed(interval.estimate)} in {name}"
    if math.isnan(interval.low):
        return f"{method} differs from {difference.reference} by {estimate}, on one split: nothing to judge by."
    seen = f"{estimate} (95 % interval {signed(interval.low)} to {signed(interval.high)})"
    p = f"p {'< 0.001' if difference.adjusted_p < 0.001 else f'= {difference.adjusted_p:.3f}'} after Holm"
    match difference.decision:
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
            if interval.low > 0 or interval.high < 0:  # one comparison alone would have been decided
                seen += f", but {p}"
            return f"{method} is undecided against {difference.reference}: {seen}; {more}."


def in_short(difference: Difference) -> str:
    """The decision, the estimate and its interval."""
    interval = difference.two_way
    ends = f"{signed(interval.low)} to {signed(interval.high)}"
    return f"{difference.decision}, {signed(interval.estimate)} ({ends})"


@dataclass(frozen=True)
class _Seen:
    """A difference before it is weighed against the others."""

    interval: Interval
    split_means: npt.NDArray[np.floating]
    parts: Components | None


def _resampled(
    reported: Mapping[str, Sequence[TrialRecord]], reference: str, n_items: int
) -> dict[str, dict[str, _Seen]]:
    """Differences to one of the methods in the figures that are not a mean over items, where every split has them."""
    known = [_items(record).known for records in reported.values() for record in records]
    items = {method: [_items(record) for record in records] for method, records in reported.items()}
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
    """The interval of the opposite difference."""
    return replace(interval, estimate=-interval.estimate, low=-interval.high, high=-interval.low)


def check_paired(records: Sequence[TrialRecord], control: Sequence[TrialRecord]) -> None:
    """Refuses trials that were not judged on the same items, split by split.

    Raises:
        ReportError: Two were not.
    """
    for own, other in zip(records, control, strict=True):
        same = own.config.split == other.config.split
        if not same or not np.array_equal(_items(own).item, _items(other).item):
            raise ReportError(
                f"{own.config} and {other.config} were judged on different items, so they cannot be paired. "
                "Remove the records of one method and run the study again."
            )


def _items(record: TrialRecord) -> Any:
    if record.items is None:
        raise ValueError(f"{record.config} was read without its items; read it with them to compare it.")
    return record.items
