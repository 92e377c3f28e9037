"""The candidates that a study file asks for: a grid, or Optuna's proposals, the same number for every method."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Protocol

import optuna
from optuna.samplers import BaseSampler, GPSampler, QMCSampler, RandomSampler, TPESampler
from optuna.trial import TrialState

from study.config.schema import Search
from study.search.space import combinations, distributions, known_candidates, sampled
from trainables.records.failures import Stop
from trainables.records.types import Candidate
from trainables.sampling.streams import stream

# The result of a finished candidate: its mean score, or why it has none.
Outcome = float | Stop

_N_ASKED = 20  # attempts for one new candidate; a sampler that has converged proposes the same ones again


class Proposals(Protocol):
    """The candidates of one method, proposed in batches."""

    planned: int  # number of candidates in the end

    def next_batch(self, outcomes: Mapping[Candidate, Outcome]) -> list[Candidate] | None:
        """Return the next candidates, or None when all are proposed, given the outcome of every earlier one."""
        ...


class FixedProposals:
    """Candidates known from the start: a grid, or what splits have chosen.

    Args:
        batch_size: How many are proposed at a time; None for all at once.
    """

    def __init__(self, candidates: Sequence[Candidate], batch_size: int | None = None) -> None:
        self.planned = len(candidates)
        self._waiting = list(candidates)
        self._batch_size = batch_size or len(candidates)

    def next_batch(self, outcomes: Mapping[Candidate, Outcome]) -> list[Candidate] | None:
        """Return the next candidates, in their order."""
        batch, self._waiting = self._waiting[: self._batch_size], self._waiting[self._batch_size :]
        return batch or None


class SampledProposals:
    """Candidates from an Optuna study of one method, the same number for every method, all different.

    The study is in memory. Asked and told in candidate order with a seeded sampler, it is the same study in every run.
    Proposals of earlier runs are kept, since they are trained already, even where the sampler would choose differently
    now: after further splits have changed the scores, or on a processor with other rounding.

    Args:
        before: Candidates that earlier runs proposed, in order.
        split: Seed of the split that the search is for, which seeds the sampler together with the method; None for all
            splits.
    """

    def __init__(self, search: Search, method: str, before: Sequence[Candidate] = (), split: int | None = None) -> None:
        self._search, self._method = search, method
        self._space = distributions(search, method)
        self.planned = search.n_candidates
        self._before = before
        self._study = optuna.create_study(sampler=_sampler(search, method, split), direction="maximize")
        self._waiting: list[tuple[optuna.Trial, Candidate]] = []
        self._proposed: dict[Candidate, None] = {}

    def next_batch(self, outcomes: Mapping[Candidate, Outcome]) -> list[Candidate] | None:
        """Tell the study the outcomes of the last batch, and ask it for the next one."""
        for trial, candidate in self._waiting:
            self._tell(trial, outcomes[candidate])
        self._waiting = []
        size = self.planned - len(self._proposed)
        if self._search.learns:
            size = min(self._search.batch_size, size)
        for _ in range(size):
            trial, candidate = self._ask_new(outcomes)
            self._waiting.append((trial, candidate))
            self._proposed[candidate] = None
        return [candidate for _, candidate in self._waiting] or None

    def _ask_new(self, outcomes: Mapping[Candidate, Outcome]) -> tuple[optuna.Trial, Candidate]:
        """Return a new candidate: the one that was proposed at this place before, else the sampler's choice."""
        for _ in range(_N_ASKED):
            trial = self._study.ask(self._space)
            candidate = sampled(self._search, self._method, trial.params)
            place = len(self._proposed)
            if place < len(self._before) and candidate != self._before[place]:
                self._study.tell(trial, state=TrialState.FAIL)
                return self._placed(self._before[place])
            if candidate not in self._proposed:
                return trial, candidate
            if candidate in outcomes:
                self._tell(trial, outcomes[candidate])
            else:  # of this same batch
                self._study.tell(trial, state=TrialState.FAIL)
        return self._placed(next(c for c in combinations(self._search, self._method) if c not in self._proposed))

    def _placed(self, candidate: Candidate) -> tuple[optuna.Trial, Candidate]:
        """Return a trial of the sampler's study for a candidate that the sampler did not choose."""
        self._study.enqueue_trial({name: value for name, value in candidate.params if name in self._space})
        return self._study.ask(self._space), candidate

    def _tell(self, trial: optuna.Trial, outcome: Outcome) -> None:
        if isinstance(outcome, Stop):
            trial.report(outcome.value, percent_done(outcome))
            self._study.tell(trial, state=TrialState.PRUNED)
        else:
            self._study.tell(trial, outcome)


def proposals(search: Search, method: str, before: Sequence[Candidate] = (), split: int | None = None) -> Proposals:
    """Return the proposals of the study file's sampler for a method, as `SampledProposals` takes them."""
    known = known_candidates(search, method)
    if known is None:
        return SampledProposals(search, method, before, split)
    # Early stopping compares with earlier batches, so there must be several.
    return FixedProposals(known, search.batch_size if search.pruning.is_on else None)


def percent_done(stop: Stop) -> int:
    """Return Optuna's step of a stopped candidate: the percentage of its training that was done."""
    return round(100 * stop.share)


def _sampler(search: Search, method: str, split: int | None) -> BaseSampler:
    if search.sampler == "qmc":
        return QMCSampler(seed=search.seed)
    if search.sampler == "random":
        return RandomSampler(seed=search.seed)  # all splits try the same candidates
    seed = search.seed if split is None else int(stream(search.seed, f"search {method} {split}").integers(2**31))
    if search.sampler == "tpe":
        return TPESampler(n_startup_trials=search.n_startup, seed=seed)
    return GPSampler(n_startup_trials=search.n_startup, seed=seed)
