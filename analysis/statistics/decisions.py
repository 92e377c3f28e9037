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
from trainables.records.figures import ITEM_FIGURES, LOWER_IS_BETTER
from trainables.records.types import LAYER_SCORES, LOGIT_SCORES, SEARCH, TEST, Design, ItemResults, TrialRecord

# Figures that methods are compared in: the half width of each one's region of practical equivalence by default.
REGIONS: Mapping[str, float] = {
    "auc_weighted": 0.002,
    "nll": 0.01,
    **dict.fromkeys(
        (
            *("top1", "macro_f1", "balanced_accuracy", "aurc", "oscr", "ood_aupr"),
            *("accuracy", "accuracy_known", "accuracy_none", "accuracy_chosen"),
            *("ece_known", "ece_known_scaled", "ece_open", "ece_open_scaled", "ood_auroc"),
            *(f"ood_auroc_{score}" for score in (*LOGIT_SCORES, *LAYER_SCORES)),
        ),
        0.005,
    ),
}

# Figures whose differences are drawn, and named beside that of the objective.
MAIN_FIGURES = ("auc_weighted", "top1", "macro_f1", "accuracy_chosen", "ood_auroc", "ece_known", "ece_known_scaled")


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
        reference: The method that the difference is to, by default the control of the method's objective.
        interval: Holds with 95 % confidence for all differences that are made together; its p-value is adjusted alike.
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


# A method, and its difference to another.
Pair = tuple[str, Difference]


@dataclass(frozen=True)
class MethodEvidence:
    """Intervals of one method's figures, and of its differences to the reference.

    Attributes:
        intervals: Interval of each figure, of the method alone.
        differences: Difference to the reference, by figure; empty for a reference, and if the study has no reference.
    """

    intervals: Mapping[str, Interval] = field(default_factory=dict)
    differences: Mapping[str, Difference] = field(default_factory=dict)


def sampling_of(description: StudyDescription, phase: str = TEST) -> Sampling:
    """Return how the splits of a phase of a study sample its items.

    Inner splits test parts of their own split's training items, so that hardly an item is tested by two splits: what
    holds of folds holds of them. Those of official splits are tested on the same items.
    """
    if phase == SEARCH and description.design is not Design.OFFICIAL:
        return Sampling(Design.FOLDS)
    if description.design is not Design.RANDOM:
        return Sampling(description.design)
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
        ReportError: Two methods have different test items in one split.
    """
    groups: dict[str, list[tuple[str, str]]] = {}
    for method in reported:
        if not is_reference(method) and (reference := reference_of(method)) in reported:
            groups.setdefault(reference, []).append((method, reference))
    intervals: dict[str, dict[str, Interval]] = {method: {} for method in reported}
    found: dict[str, dict[str, Difference]] = {method: {} for method in reported}
    trials = _Trials.of(reported, sampling, unconverged)
    for figure, region in within.items():
        values = trials.values(figure)
        for method, own in values.items():
            alone, _ = sampling.variance_of(own, trials.tested[method])
            intervals[method][figure] = interval(alone).within(0.0, _highest(figure))
        for pairs in groups.values():
            for method, difference in trials.compare(values, pairs, figure, region, figure == objective):
                found[method][figure] = difference
    return {method: MethodEvidence(intervals[method], found[method]) for method in reported}


def compare_pairs(
    reported: Mapping[str, Sequence[TrialRecord]],
    pairs: Sequence[tuple[str, str]],
    figure: str,
    region: float,
    sampling: Sampling,
    unconverged: Collection[str] = (),
) -> list[Pair]:
    """Compare pairs of methods in one figure, with intervals that hold for all of them together; exploratory.

    Args:
        reported: As `weigh` takes it.
        pairs: The methods of each pair: the difference is that of the first to the second, its `reference`.
        figure: A figure with values per item.
        region: Half width of its region of practical equivalence.
        sampling: How the reported splits sample the items.
        unconverged: Methods that have not converged.

    Returns:
        The first method of each pair, and the difference; pairs of which one has no trials are left out.

    Raises:
        ReportError: Two methods have different test items in one split.
    """
    trials = _Trials.of(reported, sampling, unconverged)
    return trials.compare(trials.values(figure), pairs, figure, region, confirmatory=False)


def asked_pairs(methods: Sequence[str]) -> list[tuple[str, str]]:
    """Return the pairs that answer the questions of the paper: stitching against mixing, soft against hard.

    A pair with a reference is left out: every method is compared with that in any case.
    """
    pairs = [
        (method, other)
        for old, new in (("stitchup", "mixup"), ("soft_", ""))
        for method in methods
        if (other := method.replace(old, new)) != method and other in methods and not is_reference(other)
    ]
    return list(dict.fromkeys(pairs))


@dataclass(frozen=True)
class _Trials:
    """The reported trials of the methods, to be compared."""

    reported: Mapping[str, Sequence[TrialRecord]]
    tested: Mapping[str, Mask]
    n_items: int
    sampling: Sampling
    unconverged: Collection[str]

    @classmethod
    def of(
        cls, reported: Mapping[str, Sequence[TrialRecord]], sampling: Sampling, unconverged: Collection[str]
    ) -> _Trials:
        n_items = count_items(record for records in reported.values() for record in records)
        tested = {method: tested_items(records, n_items) for method, records in reported.items()}
        return cls(reported, tested, n_items, sampling, unconverged)

    def values(self, figure: str) -> dict[str, Values]:
        """Return the influence of every item on a figure (splits, items), by method.

        A split in which the figure is not defined, such as one without a "none" item, leaves its method out.
        """
        values = {method: figure_matrix(records, figure, self.n_items) for method, records in self.reported.items()}
        return {method: own for method, own in values.items() if np.isfinite(own).any(axis=1).all()}

    def compare(
        self,
        values: Mapping[str, Values],
        pairs: Sequence[tuple[str, str]],
        figure: str,
        region: float,
        confirmatory: bool,
    ) -> list[Pair]:
        """Return the difference of each pair of methods that have values; the intervals hold together."""
        compared = [pair for pair in pairs if all(method in values for method in pair)]
        for pair in compared:
            check_paired(*(self.reported[method] for method in pair))
        parts = [self.sampling.variance_of(values[one] - values[other], self.tested[one]) for one, other in compared]
        found = []
        for (method, other), seen, (own, _) in zip(compared, simultaneous(parts), parts, strict=True):
            decision = decide(seen.mirrored if figure in LOWER_IS_BETTER else seen, region)
            if {method, other} & {*self.unconverged}:
                decision = Decision.NOT_CONVERGED
            further = splits_to_decide(own, region) if decision is Decision.UNDECIDED else None
            cut = seen.within(-_highest(figure), _highest(figure))
            found.append((method, Difference(figure, other, cut, region, decision, further, confirmatory)))
        return found


def _highest(figure: str) -> float:
    """Return the highest value that a figure can have."""
    return math.inf if figure == "nll" else 1.0


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
    """Check that two methods have the same test items in every split.

    Raises:
        ReportError: They have not.
    """
    for own, other in zip(records, control, strict=True):
        same = own.config.split == other.config.split
        if not same or not np.array_equal(items_of(own).item, items_of(other).item):
            raise ReportError(
                f"{own.config} and {other.config} have different test items, so they cannot be paired. "
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
