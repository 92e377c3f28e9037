"""A study's finished trials and their summaries: means, maximum deviations, what each split chose, what is missing.

A method is shown once every planned split has its test trial: the maximum deviation grows with the number of splits,
and a mean over other splits is a mean over other data. The same holds of candidates where all splits try the same ones.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from analysis.format import plural
from analysis.results.controls import reference_of
from analysis.results.convergence import NotConverged, not_converged, not_judged, remarks
from analysis.results.learning import epochs_to_control
from trainables.records.choice import mean_score, score_of
from trainables.records.description import StudyDescription, method_of
from trainables.records.failures import Failure, Stop
from trainables.records.types import SEARCH, TEST, Candidate, SplitId, TrialConfig, TrialRecord


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
        splits: Splits with a finished trial, sorted.
        missing_splits: Splits without one where it is planned, sorted: in the search phase those that try it, in the
            test phase of a nested study those that chose it.
        figures: Every recorded figure, by name.
        duration_s: Mean device time of a trial.
    """

    candidate: Candidate
    phase: str
    splits: tuple[SplitId, ...]
    missing_splits: tuple[SplitId, ...]
    figures: Mapping[str, Spread]
    duration_s: float

    @property
    def complete(self) -> bool:
        """Whether every planned split is finished."""
        return not self.missing_splits


@dataclass(frozen=True)
class MethodSummary:
    """A method on the test items of all splits, each with the candidate that it has chosen.

    Attributes:
        choices: The candidate that each split has chosen; splits that have not chosen are left out.
        splits: Splits of all figures below; empty until every planned split has the test trial of its choice.
        objective: The study's objective.
        figures: Every recorded figure, and `epochs_to_control`, by name.
        duration_s: Mean device time of a trial.
        n_complete: Candidates that finished every split of the choosing phase that tries them.
        n_planned: Candidates planned, over all its searches.
    """

    method: str
    choices: Mapping[SplitId, Candidate]
    splits: tuple[SplitId, ...]
    objective: Spread
    figures: Mapping[str, Spread]
    duration_s: float
    n_complete: int
    n_planned: int

    @property
    def finished(self) -> bool:
        """Whether it has figures."""
        return bool(self.splits)

    @property
    def candidate(self) -> Candidate | None:
        """The candidate that all splits have chosen; None where they differ or none has chosen."""
        chosen = set(self.choices.values())
        return chosen.pop() if len(chosen) == 1 else None

    @property
    def n_splits(self) -> int:
        """J, the number of splits."""
        return len(self.splits)

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
                    "split": record.config.split.seed,
                    "inner_split": record.config.split.inner,
                    **record.metrics,
                    "duration_s": record.duration_s,
                }
                for record in self.records
            ]
        )

    @property
    def own_searches(self) -> bool:
        """Whether each split proposes candidates of its own, so that no candidate has met all splits."""
        return any(method_of(name) != name for name in self.description.candidates)

    @property
    def chosen_on_reported(self) -> bool:
        """Whether candidates were chosen by the figures that are reported, which makes those optimistic."""
        return self.description.choosing_phase == TEST and any(n > 1 for n in self.description.n_candidates.values())

    @cached_property
    def scores(self) -> Mapping[str, dict[Candidate, dict[SplitId, float]]]:
        """Scores of the choosing phase, higher is better, by method, candidate and split: means over inner splits.

        Only of candidates that are complete on the split.
        """
        description = self.description
        found: dict[str, dict[Candidate, dict[SplitId, float]]] = {method: {} for method in description.methods}
        inner: dict[tuple[Candidate, SplitId], list[float]] = {}
        for record in self.records:
            if record.config.phase == description.choosing_phase:
                of_split = inner.setdefault((record.config.candidate, record.config.split.outer), [])
                of_split.append(score_of(record.metrics, description.objective))
        planned = [split.outer for split in description.splits[description.choosing_phase]]
        for (candidate, split), values in sorted(inner.items()):
            if len(values) == planned.count(split):
                found[candidate.method].setdefault(candidate, {})[split] = mean_score(values)
        return found

    @cached_property
    def choices(self) -> Mapping[str, Mapping[SplitId, Candidate]]:
        """The candidate that each split has chosen, by method."""
        objective = self.description.objective
        return self.description.chosen({one.config: score_of(one.metrics, objective) for one in self.records})

    @cached_property
    def candidates(self) -> Mapping[str, list[CandidateSummary]]:
        """Every candidate with a finished trial, by phase; in the study's order of methods, then of values."""
        order = {method: place for place, method in enumerate(self.description.methods)}
        by_phase: dict[str, dict[Candidate, list[TrialRecord]]] = {phase: {} for phase in self.description.splits}
        for record in self.records:
            by_phase[record.config.phase].setdefault(record.config.candidate, []).append(record)
        return {
            phase: [
                _candidate_summary(candidate, phase, found[candidate], self._planned(candidate, phase))
                for candidate in sorted(found, key=lambda candidate: (order[candidate.method], candidate))
            ]
            for phase, found in by_phase.items()
        }

    @cached_property
    def methods(self) -> list[MethodSummary]:
        """Each method's figures over the test trials of what its splits have chosen, in the study's order."""
        return [self._method(method) for method in self.description.methods]

    @cached_property
    def reported_records(self) -> Mapping[str, list[TrialRecord]]:
        """The trials behind each method's reported figures, sorted by split; only methods with all of them."""
        tested = {record.config: record for record in self.records if record.config.phase == TEST}
        planned, found = sorted(self.description.splits[TEST]), {}
        for method, choices in self.choices.items():
            own = [
                tested[config]
                for split in planned
                if split in choices and (config := TrialConfig(TEST, choices[split], split)) in tested
            ]
            if planned and len(own) == len(planned):
                found[method] = own
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
        description, found = self.description, list(self.excluded)
        phase = description.choosing_phase
        ended = {(stop.candidate, split.outer) for stop in self.stops for split in stop.splits}
        for method in description.methods:
            own = [one for one in self.candidates[phase] if one.candidate.method == method]
            begun = {(one.candidate, split.outer) for one in own for split in one.splits} | ended
            tried = [candidate for candidate, _ in begun if candidate.method == method]
            n_planned = self._n_planned(method)
            n_missing = n_planned - (len(tried) if self.own_searches else len(set(tried)))
            if n_missing > 0:
                have = "has" if n_missing == 1 else "have"
                found.append(
                    f"{method}: {n_missing} of {plural(n_planned, 'candidate')} {have} no finished {phase} trial."
                )
            for one in own:
                if missed := [split for split in one.missing_splits if (one.candidate, split.outer) not in ended]:
                    found.append(_missing_splits(str(one.candidate), phase, missed))
        if phase == SEARCH:
            finished = {one.config for one in self.records}
            for method, choices in self.choices.items():
                missed = [
                    split
                    for split in sorted(description.splits[TEST])
                    if split not in choices or TrialConfig(TEST, choices[split], split) not in finished
                ]
                if missed:
                    found.append(_missing_splits(method, TEST, missed))
        return found

    def _planned(self, candidate: Candidate, phase: str) -> list[SplitId]:
        """Return the splits of a phase that a candidate is planned on."""
        splits = self.description.splits[phase]
        if phase != self.description.choosing_phase:
            return [split for split in splits if self.choices[candidate.method].get(split) == candidate]
        return [split for split in splits if self.description.asks_for(candidate, split)]

    def _n_planned(self, method: str) -> int:
        splits = {split.outer for split in self.description.splits[self.description.choosing_phase]}
        return self.description.n_candidates[method] * (len(splits) if self.own_searches else 1)

    def _method(self, method: str) -> MethodSummary:
        reported = self.reported_records.get(method, [])
        own = [one for one in self.candidates[self.description.choosing_phase] if one.candidate.method == method]
        on_splits = sum(len(on) for on in self.scores[method].values())
        figures = _figures(reported)
        if reported and (control := self.reported_records.get(reference_of(method))):
            figures["epochs_to_control"] = spread(epochs_to_control(reported, control))
        return MethodSummary(
            method,
            self.choices[method],
            tuple(record.config.split for record in reported),
            figures.get(self.description.objective, UNDEFINED),
            figures,
            float(np.mean([record.duration_s for record in reported])) if reported else math.nan,
            on_splits if self.own_searches else sum(one.complete for one in own),
            self._n_planned(method),
        )


def _figures(records: Sequence[TrialRecord]) -> dict[str, Spread]:
    names = dict.fromkeys(name for record in records for name in record.metrics)
    return {name: spread([record.metrics.get(name, math.nan) for record in records]) for name in names}


def _candidate_summary(
    candidate: Candidate, phase: str, records: list[TrialRecord], planned: Sequence[SplitId]
) -> CandidateSummary:
    splits = tuple(sorted(record.config.split for record in records))
    return CandidateSummary(
        candidate=candidate,
        phase=phase,
        splits=splits,
        missing_splits=tuple(sorted(set(planned) - set(splits))),
        figures=_figures(records),
        duration_s=float(np.mean([record.duration_s for record in records])),
    )


def _missing_splits(what: str, phase: str, missed: Sequence[SplitId]) -> str:
    splits, are = ("split", "is") if len(missed) == 1 else ("splits", "are")
    return f"{what}: {phase} {splits} {', '.join(map(str, missed))} {are} missing."
