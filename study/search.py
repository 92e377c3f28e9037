"""Which pack is trained next: the candidates of every method, in batches, and the Tune searcher that hands them out.

Seeds are never sampled: a candidate always meets all splits of its phase. What a method proposes depends on the search
seed and the scores of its own earlier candidates, in candidate order; so a study started anew proposes the same
candidates, finds those that are recorded, and trains the rest.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Protocol

import optuna
from optuna.samplers import BaseSampler, GPSampler, QMCSampler, RandomSampler, TPESampler
from ray.tune.search import Searcher

from study.space import distributions, grid, sampled
from study.spec import Search
from trainables.pack import Pack
from trainables.records import Candidate, TrialConfig

optuna.logging.set_verbosity(optuna.logging.WARNING)


class Proposals(Protocol):
    """The candidates of one method, proposed in batches."""

    planned: int
    """How many candidates there will be."""

    def next_batch(self, scores: Mapping[Candidate, float]) -> list[Candidate] | None:
        """The next candidates, or None when all are proposed.

        Args:
            scores: Score of every candidate proposed so far.
        """
        ...


class FixedProposals:
    """Candidates known from the start: a grid, or the winners that a confirm phase judges."""

    def __init__(self, candidates: Sequence[Candidate]) -> None:
        self.planned = len(candidates)
        self._candidates: list[Candidate] | None = list(candidates)

    def next_batch(self, scores: Mapping[Candidate, float]) -> list[Candidate] | None:
        """All of them, once."""
        batch, self._candidates = self._candidates, None
        return batch


class SampledProposals:
    """Candidates from an Optuna study of one method, the same number for every method.

    The study is in memory: asked and told in candidate order with a seeded sampler, it is the same study each time.
    A method with nothing to choose has one candidate.
    """

    def __init__(self, search: Search, method: str, maximize: bool = True) -> None:
        self._search, self._method = search, method
        self._space = distributions(search, method)
        self.planned = search.n_candidates if self._space else 1
        self._study = optuna.create_study(sampler=_sampler(search), direction="maximize" if maximize else "minimize")
        self._waiting: list[tuple[optuna.Trial, Candidate]] = []
        self._n_proposed = 0

    def next_batch(self, scores: Mapping[Candidate, float]) -> list[Candidate] | None:
        """Tells the study the scores of the batch before, and asks for the next."""
        for trial, candidate in self._waiting:
            self._study.tell(trial, scores[candidate])
        size = min(self._search.batch_size, self.planned - self._n_proposed)
        self._n_proposed += size
        trials = [self._study.ask(self._space) for _ in range(size)]
        self._waiting = [(trial, sampled(self._search, self._method, trial.params)) for trial in trials]
        return [candidate for _, candidate in self._waiting] or None


def proposals(search: Search, method: str) -> Proposals:
    """What the study file's sampler proposes for one of its methods."""
    return FixedProposals(grid(search, method)) if search.sampler == "grid" else SampledProposals(search, method)


def _sampler(search: Search) -> BaseSampler:
    kinds: dict[str, type[BaseSampler]] = {
        "tpe": TPESampler,
        "random": RandomSampler,
        "qmc": QMCSampler,
        "gp": GPSampler,
    }
    return kinds[search.sampler](seed=search.seed)  # type: ignore[call-arg]


class PackQueue:
    """The packs of one phase that are not yet trained, method by method in turn.

    Args:
        phase: The phase.
        methods: Proposals of each method.
        splits: Split seeds that every candidate meets.
        scores: Score of each trial already recorded.
        lanes_per_pack: Most trials of a pack; None for all splits of a candidate.
    """

    def __init__(
        self,
        phase: str,
        methods: Mapping[str, Proposals],
        splits: Sequence[int],
        scores: Mapping[TrialConfig, float],
        lanes_per_pack: int | None = None,
    ) -> None:
        self._phase, self._methods, self._splits = phase, methods, tuple(splits)
        self._scores = {trial: score for trial, score in scores.items() if trial.phase == phase}
        self._lanes = lanes_per_pack or len(self._splits)
        self._batches: dict[str, list[Candidate]] = {}
        self._failed: set[str] = set()
        self._ended: set[str] = set()
        self._ready: deque[Pack] = deque()
        self.candidates: dict[str, list[Candidate]] = {method: [] for method in methods}
        for method in methods:
            self._advance(method)

    @property
    def exhausted(self) -> bool:
        """Whether no pack is ready and none will be: every method has ended or failed."""
        return not self._ready and self._ended | self._failed == set(self._methods)

    def take(self) -> Pack | None:
        """The next pack to train; None when there is none now."""
        return self._ready.popleft() if self._ready else None

    def finish(self, scores: Mapping[TrialConfig, float]) -> None:
        """Notes the scores of a trained pack; a method whose batch is complete proposes its next.

        Args:
            scores: Score of each trial of the pack.
        """
        self._scores.update(scores)
        for method in {trial.candidate.method for trial in scores}:
            if method not in self._ended and self._is_complete(self._batches[method]):
                self._advance(method)

    def fail(self, pack: Pack) -> None:
        """Notes a pack that could not be trained: its method proposes no more, the others go on."""
        self._failed.add(pack.candidate.method)

    def score(self, candidate: Candidate) -> float | None:
        """Mean score of a candidate over the phase's splits; None while one is missing."""
        scores = [self._scores.get(TrialConfig(self._phase, candidate, split)) for split in self._splits]
        known = [score for score in scores if score is not None]
        return sum(known) / len(known) if len(known) == len(scores) else None

    def best(self, method: str) -> Candidate | None:
        """The method's candidate of the highest mean score; the first of equals; None before any is complete."""
        scored = [
            (score, candidate) for candidate in self.candidates[method] if (score := self.score(candidate)) is not None
        ]
        return max(scored, key=lambda pair: pair[0])[1] if scored else None

    def trials(self) -> list[TrialConfig]:
        """Every trial of the candidates proposed so far."""
        return [
            TrialConfig(self._phase, candidate, split)
            for candidates in self.candidates.values()
            for candidate in candidates
            for split in self._splits
        ]

    def _is_complete(self, candidates: Iterable[Candidate]) -> bool:
        return all(self.score(candidate) is not None for candidate in candidates)

    def _advance(self, method: str) -> None:
        """Proposes batches until one has something to train."""
        while True:
            scores = {c: s for c in self.candidates[method] if (s := self.score(c)) is not None}
            batch = self._methods[method].next_batch(scores)
            if batch is None:
                self._ended.add(method)
                return
            # A sampler may come back to a candidate; it is trained once and its score told again.
            new = [c for c in dict.fromkeys(batch) if c not in self.candidates[method]]
            self.candidates[method] += new
            self._batches[method] = batch
            for candidate in new:
                missing = [
                    split for split in self._splits if TrialConfig(self._phase, candidate, split) not in self._scores
                ]
                for start in range(0, len(missing), self._lanes):
                    self._ready.append(Pack(self._phase, candidate, tuple(missing[start : start + self._lanes])))
            if not self._is_complete(batch):
                return


class PackSearcher(Searcher):  # type: ignore[misc]
    """Tune's view of the queue. It keeps no state of its own: a study is restarted from its records.

    Args:
        queue: The packs to hand out. Scores are noted in it by the runner, which reads the records.
    """

    def __init__(self, queue: PackQueue) -> None:
        super().__init__()
        self._queue = queue

    def __getstate__(self) -> dict[str, Any]:
        # Tune pickles its searcher into an experiment state that is never restored.
        return {}

    def suggest(self, trial_id: str) -> dict[str, Any] | str | None:
        """The next pack; None while the queue waits for scores; `FINISHED` at the end."""
        pack = self._queue.take()
        if pack is not None:
            return {"pack": pack}
        return Searcher.FINISHED if self._queue.exhausted else None

    def on_trial_complete(self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False) -> None:
        """Nothing: the runner's callback reads the record and notes its scores."""

    def save(self, checkpoint_path: str) -> None:
        """Nothing: the records are the state."""

    def restore(self, checkpoint_path: str) -> None:
        """Nothing: the records are the state."""
