"""Compare each method with the control of its objective, on the items of its reported trials."""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from analysis.format import p_text, plural, signed
from analysis.results.controls import is_reference, reference_of
from analysis.results.load import ReportError
from analysis.statistics.intervals import Decision, Interval, decide, interval, splits_to_decide
from analysis.statistics.simultaneous import simultaneous
from analysis.statistics.variance import Effects, Mask, Values, Variance, variance
from trainables.records.description import StudyDescription
from trainables.records.figures import ITEM_FIGURES
from trainables.records.types import Design, ItemResults, TrialRecord

# Figures that methods are compared in: the half width of each one's region of practical equivalence by default.
REGIONS: Mapping[str, float] = {
    "auc_weighted": 0.002,
    "top1": 0.005,
    "macro_f1": 0.005,
    "balanced_accuracy": 0.005,
    "accuracy": 0.005,
    "ece_known": 0.005,
    "aurc": 0.005,
    "oscr": 0.005,
    "ood_auroc": 0.005,
    "ood_aupr": 0.005,
}

# Figures of which less is better.
LOWER_IS_BETTER = frozenset({"ece_known", "aurc"})


@dataclass(frozen=True)
class Sampling:
    """How the reported splits sample the items.

    Attributes:
        design: How the splits are made.
        shared: Fraction of its training items that a random split shares with another; 0 for other designs.
    """

    design: Design
    shared: float = 0.0

    def variance_of(self, values: Values, tested: Mask | None = None) -> tuple[Variance, Effects]:
        """Return the variance of a mean over splits and items, and its effects; arguments are those of `variance`."""
        return variance(values, self.design, shared=self.shared, tested=tested)


@dataclass(frozen=True)
class Difference:
    """The difference of a method to its reference in one figure.

    Attributes:
        reference: The method that the difference is to: the control of the method's objective.
        interval: Holds with 95 % confidence for all methods of one objective together; its p-value is adjusted alike.
        region: Half width of the region of practical equivalence.
        decision: Result of the comparison.
        further_splits: Fewest and most splits to add that would decide an undecided difference with a power of 80 %;
            the most None where it is above 1,000, and all None if more splits alone would not decide.
        confirmatory: Whether the figure is the study's objective; the decisions in all others are exploratory.
    """

    figure: str
    reference: str
    interval: Interval
    region: float
    decision: Decision
    further_splits: tuple[int, int | None] | None
    confirmatory: bool


@dataclass(frozen=True)
class MethodEvidence:
    """Intervals of one method's figures, and of its differences to the reference.

    Attributes:
        intervals: Interval of each figure, of the method alone.
        differences: Difference to the reference, by figure; empty for a reference, and if the study has no reference.
    """

    intervals: Mapping[str, Interval] = field(default_factory=dict)
    differences: Mapping[str, Difference] = field(default_factory=dict)


def sampling_of(description: StudyDescription) -> Sampling:
    """Return how the reported splits of a study sample its items."""
    if description.protocol == "nested":
        return Sampling(Design.REVERSE_FOLDS)
    # A second random split holds a training item of the first with the probability of the training fraction.
    return Sampling(Design.RANDOM, float(description.settings.get("splits", {}).get("train_fraction", 0.0)))


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
    sampling: Sampling,
    objective: str,
    unconverged: Collection[str] = (),
) -> dict[str, MethodEvidence]:
    """Compare every method with the control of its objective, paired by split and item.

    Args:
        reported: The trials behind each method's reported figures, with their items, sorted by split.
        within: Region of practical equivalence of each figure.
        sampling: How the reported splits sample the items.
        objective: The study's objective.
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
    found: dict[str, dict[str, Difference]] = {method: {} for method in reported}
    n_items = count_items(record for records in reported.values() for record in records)
    tested = {method: tested_items(records, n_items) for method, records in reported.items()}
    for figure in within:
        values = {method: figure_matrix(records, figure, n_items) for method, records in reported.items()}
        # A split in which the figure is not defined, such as one without a "none" item, leaves it without intervals.
        values = {method: own for method, own in values.items() if np.isfinite(own).any(axis=1).all()}
        for method, own in values.items():
            alone, _ = sampling.variance_of(own, tested[method])
            intervals[method][figure] = interval(alone).within(0.0, 1.0)
        for reference, against in groups.items():
            compared = [method for method in against if method in values and reference in values]
            parts = [sampling.variance_of(values[method] - values[reference], tested[method]) for method in compared]
            for method, seen, (own_variance, _) in zip(compared, simultaneous(parts), parts, strict=True):
                region = within[figure]
                decision = decide(seen.mirrored if figure in LOWER_IS_BETTER else seen, region)
                if {method, reference} & {*unconverged}:
                    decision = Decision.NOT_CONVERGED
                further = splits_to_decide(own_variance, region) if decision is Decision.UNDECIDED else None
                found[method][figure] = Difference(
                    figure, reference, seen.within(-1.0, 1.0), region, decision, further, figure == objective
                )
    return {method: MethodEvidence(intervals[method], found[method]) for method in reported}


def count_items(records: Iterable[TrialRecord]) -> int:
    """Return how many columns `figure_matrix` needs to hold some trials."""
    return 1 + max((int(items_of(record).item.max()) for record in records), default=0)


def figure_matrix(records: Sequence[TrialRecord], figure: str, n_items: int) -> npt.NDArray[np.float64]:
    """Return the influence of every item on a figure, (splits, n_items), whose mean over a split's items is the figure.

    NaN for items that the figure does not count, and for those that a split does not test.
    """
    matrix = np.full((len(records), n_items), np.nan)
    for row, record in zip(matrix, records, strict=True):
        items = items_of(record)
        row[items.item] = ITEM_FIGURES[figure](items, record.metrics).influence
    return matrix


def tested_items(records: Sequence[TrialRecord], n_items: int) -> npt.NDArray[np.bool_]:
    """Return whether each split tests each item, (splits, n_items)."""
    matrix = np.zeros((len(records), n_items), np.bool_)
    for row, record in zip(matrix, records, strict=True):
        row[items_of(record).item] = True
    return matrix


def sentence(difference: Difference, method: str, name: str, unconverged: Collection[str] = ()) -> str:
    """Return the decision as a sentence; `unconverged` are the methods that have not converged."""
    seen = difference.interval
    estimate = f"{signed(seen.estimate)} in {name}"
    if math.isnan(seen.low):
        return f"{method} differs from {difference.reference} by {estimate}, on one split: no interval."
    estimate = f"{estimate} (95 % interval {seen.ends})"
    match difference.decision:
        case Decision.NOT_CONVERGED:
            who = [one for one in (method, difference.reference) if one in unconverged]
            why = "neither has converged" if len(who) > 1 else f"{who[0]} has not converged"
            return f"Nothing is decided between {method} and {difference.reference}, as {why}: {estimate}."
        case Decision.BETTER | Decision.WORSE:
            return f"{method} is {difference.decision} than {difference.reference}: {estimate}, {p_text(seen.p_value)}."
        case Decision.SLIGHTLY_BETTER | Decision.SLIGHTLY_WORSE:
            return (
                f"{method} is {difference.decision} than {difference.reference}: {estimate}, {p_text(seen.p_value)}, "
                f"less than the {difference.region:g} that matters."
            )
        case Decision.EQUIVALENT:
            return f"{method} is equivalent to {difference.reference}: {estimate}, within ±{difference.region:g}."
        case _:
            return f"{method} is undecided against {difference.reference}: {estimate}; {_remedy(difference)}."


def in_short(difference: Difference) -> str:
    """Return the decision with the estimate and its interval."""
    return f"{difference.decision}, {signed(difference.interval.estimate)} ({difference.interval.ends})"


def _remedy(difference: Difference) -> str:
    """Return what would decide an undecided difference, in words."""
    if difference.further_splits is None:
        return "more splits alone would not decide it, more items are needed"
    fewest, most = difference.further_splits
    if most == fewest:
        n = plural(fewest, "more split")
    elif most is None:
        n = f"at least {plural(fewest, 'more split')}"
    else:
        n = f"{fewest:,} to {most:,} more splits"
    return f"{n} would decide it with a power of 80 % if the difference stays the same"


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
