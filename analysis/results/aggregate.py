"""A study's finished trials and their summaries: means, maximum deviations, the best candidates, what is missing.

Only candidates that finished every planned split of a phase are compared: the maximum deviation grows with the number
of splits, and a mean over other splits is a mean over other data. All others are listed as missing.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from analysis.format import plural
from analysis.results.convergence import NotConverged, not_converged, not_judged, remarks
from trainables.records.choice import choose_best, mean_score
from trainables.records.description import StudyDescription
from trainables.records.failures import Failure, Stop
from trainables.records.types import Candidate, TrialRecord


@dataclass(frozen=True)
class Spread:
    """A figure over splits.

    Attributes:
        mean: Mean over the splits where the figure is defined; NaN where there are none.
        maximum_deviation: Largest distance of one split from the mean.
        n: Number of those splits.
    """

    mean: float
    maximum_deviation: float
    n: int


UNDEFINED = Spread(math.nan, math.nan, 0)


@dataclass(frozen=True)
class CandidateSummary:
    """One candidate over the splits of one phase.

    Attributes:
        splits: Finished split seeds, sorted.
        missing_splits: Planned split seeds without a finished trial, sorted.
        figures: Every recorded figure, by name.
        duration_s: Mean device time of a trial.
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
    """The best candidate of a method on the splits of the reported phase.

    Attributes:
        candidate: None if no candidate has finished every split.
        splits: Split seeds of all figures below.
        objective: The study's objective.
        figures: Every recorded figure, by name.
        duration_s: Mean device time of a trial.
        choosing_score: The objective on the splits that chose the candidate; in protocol `paper` the same splits.
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
        """J, the number of splits."""
        return len(self.splits)

    @property
    def optimism(self) -> float:
        """By how much the score that chose the candidate exceeds its score on the reported splits."""
        return self.choosing_score.mean - self.objective.mean

    def figure(self, name: str) -> Spread:
        """Return a figure by name; `UNDEFINED` if it was not recorded."""
        return self.figures.get(name, UNDEFINED)


def maximum_deviation(x: npt.ArrayLike) -> float:
    """Return the largest absolute distance from the mean, max_j |x_j - mean|.

    Args:
        x: Values (splits,), at least one.

    Raises:
        ValueError: `x` is empty.

    References:
        Wolfe and Lundgaard (2019), "Data Augmentation for Deep Transfer Learning",
        https://arxiv.org/abs/1912.00772: the spread in the paper's tables.
    """
    values = np.asarray(x, dtype=np.float64)
    if values.size == 0:
        raise ValueError("The maximum deviation needs at least one value, got none.")
    return float(np.max(np.abs(values - values.mean())))


def spread(x: npt.ArrayLike) -> Spread:
    """Return mean and maximum deviation of the values (splits,) that are not NaN."""
    values = np.asarray(x, dtype=np.float64)
    values = values[~np.isnan(values)]
    if values.size == 0:
        return UNDEFINED
    return Spread(mean_score(values.tolist()), maximum_deviation(values), int(values.size))


@dataclass(frozen=True)
class StudyResults:
    """A study and its finished trials. Summaries are computed on first use and kept.

    Attributes:
        description: The contents of `study.json`.
        records: The finished trials that are part of the study, sorted by coordinates.
        n_unplanned: Number of finished trials that the study no longer asks for.
        excluded: Why other finished trials are excluded, one sentence for each reason: they were made with other
            settings, or have no score.
        failures: Packs that failed.
        stops: Candidates that early stopping ended before they had met every split.
        importances: Importance of each hyperparameter of a method, by method.
    """

    description: StudyDescription
    records: tuple[TrialRecord, ...]
    n_unplanned: int = 0
    excluded: tuple[str, ...] = ()
    failures: tuple[Failure, ...] = ()
    stops: tuple[Stop, ...] = ()
    importances: Mapping[str, Mapping[str, float]] = field(default_factory=dict)

    def table(self) -> pd.DataFrame:
        """Return one row per trial: coordinates, hyperparameters, figures, `duration_s`."""
        return pd.DataFrame(
            [
                {
                    "phase": record.config.phase,
                    "method": record.config.candidate.method,
                    "candidate": str(record.config.candidate),
                    **dict(record.config.candidate.params),
                    "split": record.config.split,
                    **record.metrics,
                    "duration_s": record.duration_s,
                }
                for record in self.records
            ]
        )

    @cached_property
    def candidates(self) -> Mapping[str, list[CandidateSummary]]:
        """Every candidate with a finished trial, by phase; in the study's order of methods, then of values."""
        order = {method: place for place, method in enumerate(self.description.methods)}
        by_phase: dict[str, dict[Candidate, list[TrialRecord]]] = {phase: {} for phase in self.description.splits}
        for record in self.records:
            by_phase[record.config.phase].setdefault(record.config.candidate, []).append(record)
        return {
            phase: [
                _candidate_summary(candidate, phase, found[candidate], self.description.splits[phase])
                for candidate in sorted(found, key=lambda candidate: (order[candidate.method], candidate))
            ]
            for phase, found in by_phase.items()
        }

    @cached_property
    def methods(self) -> list[MethodSummary]:
        """The best candidate of each method, in the study's order.

        In protocol `nested` its figures come from the confirm phase, once every fold of that phase is finished.
        """
        return [self._method(method) for method in self.description.methods]

    @cached_property
    def reported_records(self) -> Mapping[str, list[TrialRecord]]:
        """The trials behind each method's reported figures, by method; only methods with figures."""
        chosen = {summary.candidate: summary.method for summary in self.methods if summary.candidate is not None}
        found: dict[str, list[TrialRecord]] = {method: [] for method in chosen.values()}
        for record in self.records:
            if record.config.phase == self.description.reported_phase and record.config.candidate in chosen:
                found[chosen[record.config.candidate]].append(record)
        return found

    @cached_property
    def not_converged(self) -> Mapping[str, NotConverged]:
        """The methods whose reported trials have not converged, in the study's order, and why."""
        found = {method: not_converged(records, self._training) for method, records in self.reported_records.items()}
        return {method: one for method, one in found.items() if one is not None}

    @cached_property
    def not_judged(self) -> Mapping[str, str]:
        """The methods of which their loss does not show whether they have converged, and why not."""
        found = {method: not_judged(records, self._training) for method, records in self.reported_records.items()}
        return {method: why for method, why in found.items() if why is not None}

    @property
    def convergence(self) -> list[str]:
        """What to say before all figures: what has not converged, and of what that could not be judged."""
        return remarks(self.reported_records, self._training)

    @property
    def _training(self) -> Mapping[str, Any]:
        return dict(self.description.settings.get("training", {}))

    @cached_property
    def missing(self) -> list[str]:
        """What is planned and not finished, one sentence each; candidates that early stopping ended do not count."""
        description = self.description
        found = list(self.excluded)
        for phase in dict.fromkeys((description.choosing_phase, description.reported_phase)):
            summaries = self.candidates[phase]
            choosing = phase == description.choosing_phase
            if not choosing:  # a candidate that was confirmed, but is not the best any more, need not be finished
                summaries = [one for one in summaries if one.candidate in self._best.values()]
            stopped = {stop.candidate for stop in self.stops if stop.phase == phase}
            for method in description.methods:
                own = {summary.candidate: summary for summary in summaries if summary.candidate.method == method}
                planned = description.n_candidates[method] if choosing else 1
                n_missing = planned - len({*own, *(candidate for candidate in stopped if candidate.method == method)})
                if n_missing > 0:
                    have = "has" if n_missing == 1 else "have"
                    found.append(
                        f"{method}: {n_missing} of {plural(planned, 'candidate')} {have} no finished {phase} trial."
                    )
                found += [
                    _missing_splits(summary)
                    for candidate, summary in own.items()
                    if not summary.complete and candidate not in stopped
                ]
        return found

    @cached_property
    def _best(self) -> Mapping[str, Candidate | None]:
        """The best candidate of each method, of those that finished every split of the choosing phase."""
        means: dict[str, dict[Candidate, float]] = {method: {} for method in self.description.methods}
        for one in self.candidates[self.description.choosing_phase]:
            if one.complete:
                means[one.candidate.method][one.candidate] = one.figures[self.description.objective].mean
        return {method: choose_best(own) for method, own in means.items()}

    def _method(self, method: str) -> MethodSummary:
        description, best = self.description, self._best[method]
        own = [one for one in self.candidates[description.choosing_phase] if one.candidate.method == method]
        counts = (sum(one.complete for one in own), description.n_candidates[method])
        score = next((one.figures[description.objective] for one in own if one.candidate == best), UNDEFINED)
        for shown in self.candidates[description.reported_phase]:
            if shown.candidate == best and shown.complete:
                objective = shown.figures[description.objective]
                figures = (objective, shown.figures, shown.duration_s)
                return MethodSummary(method, best, shown.splits, *figures, score, *counts)
        return MethodSummary(method, None, (), UNDEFINED, {}, math.nan, score, *counts)


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


def _missing_splits(summary: CandidateSummary) -> str:
    splits, are = ("split", "is") if len(summary.missing_splits) == 1 else ("splits", "are")
    listed = ", ".join(map(str, summary.missing_splits))
    return f"{summary.candidate}: {summary.phase} {splits} {listed} {are} missing."
