"""From trials to one line a method: means, maximum deviations, and what is missing.

Only candidates that finished every planned split of a phase are compared: the maximum deviation grows with the
number of splits, and a mean over other splits is a mean over other data. The rest is named, not averaged.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from analysis.format import plural
from analysis.results.load import StudyResults
from trainables.records.choice import choose_best, mean_score
from trainables.records.types import Candidate, TrialRecord


@dataclass(frozen=True)
class Spread:
    """A figure over splits.

    Attributes:
        mean: Mean over the splits where the figure is defined; NaN where there are none.
        maximum_deviation: Largest distance of one split from the mean.
        n: Number of splits where the figure is defined.
    """

    mean: float
    maximum_deviation: float
    n: int


UNDEFINED = Spread(math.nan, math.nan, 0)


@dataclass(frozen=True)
class CandidateSummary:
    """One candidate over the splits of one phase.

    Attributes:
        candidate: The method and its hyperparameters.
        phase: The phase of the splits.
        splits: Finished split seeds, sorted.
        missing_splits: Planned split seeds without a finished trial, sorted.
        figures: Every recorded figure, by name.
        duration_s: Mean device seconds of a trial.
    """

    candidate: Candidate
    phase: str
    splits: tuple[int, ...]
    missing_splits: tuple[int, ...]
    figures: Mapping[str, Spread]
    duration_s: float

    @property
    def complete(self) -> bool:
        """Whether every planned split is finished."""
        return not self.missing_splits


@dataclass(frozen=True)
class MethodSummary:
    """The best candidate of a method, on the splits that are reported.

    Attributes:
        method: Name of the method.
        candidate: The best candidate; None where none has finished every split.
        splits: The split seeds behind every figure here.
        objective: The study's objective over those splits.
        figures: Every recorded figure over those splits, by name.
        duration_s: Mean device seconds of a trial.
        choosing_score: The objective on the splits that chose the candidate (the same ones in protocol `paper`).
        n_complete: Candidates that finished every split of the choosing phase.
        n_planned: Candidates planned.
    """

    method: str
    candidate: Candidate | None
    splits: tuple[int, ...]
    objective: Spread
    figures: Mapping[str, Spread]
    duration_s: float
    choosing_score: Spread
    n_complete: int
    n_planned: int

    @property
    def n_splits(self) -> int:
        """J, the number of splits behind the figures."""
        return len(self.splits)

    def figure(self, name: str) -> Spread:
        """A figure by name, undefined where it was not recorded."""
        return self.figures.get(name, UNDEFINED)


def maximum_deviation(x: npt.ArrayLike) -> float:
    """Largest absolute distance from the mean, max_j |x_j - mean|.

    Args:
        x: Values (splits,), at least one.

    Raises:
        ValueError: There is no value.

    References:
        Wolfe and Lundgaard (2019), "Data Augmentation for Deep Transfer Learning",
        https://arxiv.org/abs/1912.00772: the spread in its tables.
    """
    values = np.asarray(x, dtype=np.float64)
    if values.size == 0:
        raise ValueError("The maximum deviation needs at least one value, got none.")
    return float(np.max(np.abs(values - values.mean())))


def spread(x: npt.ArrayLike) -> Spread:
    """Mean and maximum deviation over the values that are not NaN.

    Args:
        x: Values (splits,); NaN where a split does not define the figure.
    """
    values = np.asarray(x, dtype=np.float64)
    values = values[~np.isnan(values)]
    if values.size == 0:
        return UNDEFINED
    # Rounded once, in whatever order the values come: a search that compares means must find them again here.
    return Spread(mean_score(values.tolist()), maximum_deviation(values), int(values.size))


def summarise_candidates(results: StudyResults, phase: str) -> list[CandidateSummary]:
    """Every candidate with a finished trial in a phase, in the study's order of methods, then of values."""
    planned = results.description.splits[phase]
    by_candidate: dict[Candidate, list[TrialRecord]] = {}
    for record in results.records:
        if record.config.phase == phase:
            by_candidate.setdefault(record.config.candidate, []).append(record)
    order = {method: place for place, method in enumerate(results.description.methods)}
    return [
        _candidate_summary(candidate, phase, by_candidate[candidate], planned)
        for candidate in sorted(by_candidate, key=lambda candidate: (order[candidate.method], candidate))
    ]


def summarise(results: StudyResults) -> list[MethodSummary]:
    """The best candidate of each method, in the study's order.

    The best has the highest mean objective over all splits of the choosing phase; of equals, the first in candidate
    order. In protocol `nested` its figures come from the confirm phase, once every fold of that is finished.
    """
    description = results.description
    choosing = summarise_candidates(results, description.choosing_phase)
    reported = {summary.candidate: summary for summary in summarise_candidates(results, description.reported_phase)}
    return [
        _method_summary(
            method,
            _best(results, choosing, method),
            reported,
            description.objective,
            sum(summary.candidate.method == method and summary.complete for summary in choosing),
            description.n_candidates[method],
        )
        for method in description.methods
    ]


def missing_trials(results: StudyResults) -> list[str]:
    """What is planned and not finished, one plain sentence each; empty for a whole study.

    Candidates that the search gave up are not missing.
    """
    description = results.description
    found = [f"left out, {problem}" for problem in results.unsound]
    given_up = {(stop.phase, stop.candidate) for stop in results.stops}
    for phase in dict.fromkeys((description.choosing_phase, description.reported_phase)):
        summaries = summarise_candidates(results, phase)
        choosing = phase == description.choosing_phase
        if choosing:
            best = {one.candidate for method in description.methods if (one := _best(results, summaries, method))}
        else:  # what was confirmed before the search went on, and is not the best any more, is not missed
            summaries = [summary for summary in summaries if summary.candidate in best]
        for method in description.methods:
            own = {summary.candidate: summary for summary in summaries if summary.candidate.method == method}
            planned = description.n_candidates[method] if choosing else 1
            known = {*own, *(c for at, c in given_up if at == phase and c.method == method)}
            if len(known) < planned:
                found.append(
                    f"{method}: {planned - len(known)} of {plural(planned, 'candidate')} "
                    f"{'has' if planned - len(known) == 1 else 'have'} no finished {phase} trial."
                )
            found += [
                f"{summary.candidate}: {phase} {'split' if len(summary.missing_splits) == 1 else 'splits'} "
                f"{', '.join(map(str, summary.missing_splits))} "
                f"{'is' if len(summary.missing_splits) == 1 else 'are'} missing."
                for summary in own.values()
                if not summary.complete and (phase, summary.candidate) not in given_up
            ]
    return found


def reported_records(results: StudyResults, summaries: Iterable[MethodSummary]) -> dict[str, list[TrialRecord]]:
    """The trials behind each method's reported figures, by method; only methods that have some."""
    chosen = {summary.candidate: summary.method for summary in summaries if summary.candidate is not None}
    found: dict[str, list[TrialRecord]] = {method: [] for method in chosen.values()}
    for record in results.records:
        if record.config.phase == results.description.reported_phase and record.config.candidate in chosen:
            found[chosen[record.config.candidate]].append(record)
    return found


def _candidate_summary(
    candidate: Candidate, phase: str, records: list[TrialRecord], planned: tuple[int, ...]
) -> CandidateSummary:
    names = list(dict.fromkeys(name for record in records for name in record.metrics))
    splits = tuple(sorted(record.config.split for record in records))
    return CandidateSummary(
        candidate=candidate,
        phase=phase,
        splits=splits,
        missing_splits=tuple(sorted(set(planned) - set(splits))),
        figures={name: spread([record.metrics.get(name, math.nan) for record in records]) for name in names},
        duration_s=float(np.mean([record.duration_s for record in records])),
    )


def _best(results: StudyResults, choosing: Iterable[CandidateSummary], method: str) -> CandidateSummary | None:
    """Return the best of a method's candidates that finished every split of the choosing phase."""
    complete = {one.candidate: one for one in choosing if one.candidate.method == method and one.complete}
    objective = results.description.objective
    best = choose_best({candidate: one.figures[objective].mean for candidate, one in complete.items()})
    return None if best is None else complete[best]


def _method_summary(
    method: str,
    best: CandidateSummary | None,
    reported: Mapping[Candidate, CandidateSummary],
    objective: str,
    n_complete: int,
    n_planned: int,
) -> MethodSummary:
    shown = reported.get(best.candidate) if best is not None else None
    if best is None or shown is None or not shown.complete:
        score = best.figures[objective] if best is not None else UNDEFINED
        return MethodSummary(method, None, (), UNDEFINED, {}, math.nan, score, n_complete, n_planned)
    return MethodSummary(
        method=method,
        candidate=best.candidate,
        splits=shown.splits,
        objective=shown.figures[objective],
        figures=shown.figures,
        duration_s=shown.duration_s,
        choosing_score=best.figures[objective],
        n_complete=n_complete,
        n_planned=n_planned,
    )
