"""The candidates that a study file asks for: a grid, or Optuna's proposals, the same number for every method."""

from __future__ import annotations

from collections.abc import Mapping

import optuna
from optuna.samplers import BaseSampler, GPSampler, QMCSampler, RandomSampler, TPESampler
from optuna.trial import TrialState

from study.packs import FixedProposals, Outcome, Proposals
from study.space import distributions, grid, sampled
from study.spec import Search
from trainables.records import Candidate
from trainables.unfinished import Stop

optuna.logging.set_verbosity(optuna.logging.WARNING)


class SampledProposals:
    """Candidates from an Optuna study of one method, the same number for every method.

    The study is in memory: asked and told in candidate order with a seeded sampler, it is the same study each time.
    A method with nothing to choose has one candidate.
    """

    def __init__(self, search: Search, method: str) -> None:
        self._search, self._method = search, method
        self._space = distributions(search, method)
        self.planned = search.n_candidates if self._space else 1
        self._study = optuna.create_study(sampler=_sampler(search), direction="maximize")
        self._waiting: list[tuple[optuna.Trial, Candidate]] = []
        self._n_proposed = 0

    def next_batch(self, outcomes: Mapping[Candidate, Outcome]) -> list[Candidate] | None:
        """Tells the study what became of the batch before, and asks for the next."""
        for trial, candidate in self._waiting:
            outcome = outcomes[candidate]
            if isinstance(outcome, Stop):
                trial.report(outcome.value, percent_done(outcome))
                self._study.tell(trial, state=TrialState.PRUNED)
            else:
                self._study.tell(trial, outcome)
        size = min(self._search.batch_size, self.planned - self._n_proposed)
        self._n_proposed += size
        trials = [self._study.ask(self._space) for _ in range(size)]
        self._waiting = [(trial, sampled(self._search, self._method, trial.params)) for trial in trials]
        return [candidate for _, candidate in self._waiting] or None


def proposals(search: Search, method: str) -> Proposals:
    """What the study file's sampler proposes for one of its methods."""
    if search.sampler != "grid":
        return SampledProposals(search, method)
    # Early stopping compares with earlier batches: a grid given at once would have none.
    return FixedProposals(grid(search, method), search.batch_size if search.pruning.is_on else None)


def percent_done(stop: Stop) -> int:
    """Optuna's step of a candidate that was given up: the per cent of its training that was done."""
    return round(100 * stop.share)


def _sampler(search: Search) -> BaseSampler:
    kinds: dict[str, type[BaseSampler]] = {
        "tpe": TPESampler,
        "random": RandomSampler,
        "qmc": QMCSampler,
        "gp": GPSampler,
    }
    return kinds[search.sampler](seed=search.seed)  # type: ignore[call-arg]
