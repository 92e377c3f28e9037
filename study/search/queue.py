"""Which pack is trained next: the candidates of every method, in batches, and their outcomes.

Seeds are never sampled: a candidate is trained on all splits of its phase. A method's proposals depend only on the
search seed and on the outcomes of its own earlier candidates, in candidate order, and they are written down. So a
restarted study proposes the same candidates, finds the recorded ones, and trains the rest.
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Collection, Iterable, Mapping, Sequence

from study.search.early_stopping import Evaluations, Stopping
from study.search.proposals import Outcome, Proposals
from trainables.records.choice import choose_best, mean_score
from trainables.records.failures import Stop
from trainables.records.types import Candidate, Pack, TrialConfig


class PackQueue:
    """The packs of one phase that are not yet trained, method by method in turn.

    Args:
        splits: Split seeds that every candidate is trained on.
        scores: Score of each trial already recorded.
        lanes_per_pack: Largest number of trials in a pack; None for all splits of a candidate.
        failed: Trials that failed for good; they are not tried again.
        stopping: The rules of early stopping; None for none.

    Attributes:
        candidates: The candidates of each method that are proposed so far, in order.
        new_stops: Candidates stopped since a caller last emptied this list.
    """

    def __init__(
        self,
        phase: str,
        methods: Mapping[str, Proposals],
        splits: Sequence[int],
        scores: Mapping[TrialConfig, float],
        lanes_per_pack: int | None = None,
        *,
        failed: Collection[TrialConfig] = (),
        stopping: Stopping | None = None,
    ) -> None:
        self._phase, self._methods, self._splits = phase, methods, tuple(splits)
        self._scores = {trial: score for trial, score in scores.items() if trial.phase == phase}
        self._lanes = lanes_per_pack or len(self._splits)
        self._failed = set(failed)
        self._stopping = stopping
        self._batches: dict[str, list[Candidate]] = {}
        self._ended: set[str] = set()
        self._abandoned = False
        self._ready: deque[Pack] = deque()
        self._in_flight: set[Pack] = set()
        self._n_open: Counter[Candidate] = Counter()
        self._n_peers: dict[Candidate, int] = {}
        self.new_stops: list[Stop] = []
        self.candidates: dict[str, list[Candidate]] = {method: [] for method in methods}
        for method in methods:
            self._advance(method)

    @property
    def exhausted(self) -> bool:
        """Whether no pack is ready and none will be: every method has ended, or waits for a pack that failed."""
        return self._abandoned or (not self._ready and not self._in_flight)

    def abandon(self) -> None:
        """Hand out no more packs."""
        self._abandoned = True

    @property
    def in_flight(self) -> list[Pack]:
        """Packs that were taken and are not finished, sorted."""
        return sorted(self._in_flight, key=lambda pack: pack.trials)

    def take(self) -> Pack | None:
        """Return the next pack to train; None when none is ready now."""
        if self._abandoned or not self._ready:
            return None
        pack = self._ready.popleft()
        self._in_flight.add(pack)
        return pack

    def finish(self, pack: Pack, scores: Mapping[TrialConfig, float]) -> None:
        """Take in the scores of a trained pack. A method whose batch is complete proposes its next one.

        A trial without a score failed for good: its method's batch stays incomplete, and the other methods go on.
        """
        self._close(pack)
        self._scores.update(scores)
        self._failed |= set(pack.trials) - set(scores)
        self._release(pack.candidate)
        self._advance_if_complete(pack.candidate.method)

    def judge(self, pack: Pack, evaluations: Evaluations) -> bool:
        """Stop the candidate of a pack in training if early stopping says so, and return whether it was stopped."""
        if self._stopping is None:
            return False
        candidate = pack.candidate
        stop = self._stopping.at_rung(pack, evaluations, self._peers(candidate), self._missing(candidate))
        if stop is None:
            return False
        self._close(pack)
        self.new_stops.append(stop)
        self._advance_if_complete(candidate.method)
        return True

    def retry(self, pack: Pack) -> None:
        """Put a lost pack in front of all others."""
        self._in_flight.remove(pack)
        self._ready.appendleft(pack)

    def has_ended(self, method: str) -> bool:
        """Return whether every candidate of a method is proposed and has its outcome."""
        return method in self._ended

    def score(self, candidate: Candidate) -> float | None:
        """Return the mean score of a candidate over the phase's splits; None while one is missing."""
        scores = self._scores_of(candidate)
        return mean_score(scores.values()) if len(scores) == len(self._splits) else None

    def best(self, method: str) -> Candidate | None:
        """Return the method's best candidate among those with a score on every split; None before there is one."""
        return self._best_of(self.candidates[method])

    def outcomes(self, method: str) -> dict[Candidate, Outcome]:
        """Return the outcomes of a method's candidates, in candidate order; those in work are left out."""
        found = {candidate: self._outcome(candidate) for candidate in self.candidates[method]}
        return {candidate: outcome for candidate, outcome in found.items() if outcome is not None}

    def trials(self) -> list[TrialConfig]:
        """Return every trial of the candidates proposed so far."""
        return [
            TrialConfig(self._phase, candidate, split)
            for candidates in self.candidates.values()
            for candidate in candidates
            for split in self._splits
        ]

    def _close(self, pack: Pack) -> None:
        self._in_flight.remove(pack)
        self._n_open[pack.candidate] -= 1

    def _outcome(self, candidate: Candidate) -> Outcome | None:
        score = self.score(candidate)
        if score is None and self._stopping is not None:
            return self._stopping.stops.get(candidate)
        return score

    def _scores_of(self, candidate: Candidate) -> dict[int, float]:
        trials = {split: TrialConfig(self._phase, candidate, split) for split in self._splits}
        return {split: self._scores[trial] for split, trial in trials.items() if trial in self._scores}

    def _missing(self, candidate: Candidate) -> list[int]:
        scores = self._scores_of(candidate)
        return [split for split in self._splits if split not in scores]

    def _peers(self, candidate: Candidate) -> list[Candidate]:
        """Return the candidates of the method's earlier batches. Each has its outcome."""
        return self.candidates[candidate.method][: self._n_peers[candidate]]

    def _best_of(self, candidates: Iterable[Candidate]) -> Candidate | None:
        return choose_best({one: score for one in candidates if (score := self.score(one)) is not None})

    def _advance_if_complete(self, method: str) -> None:
        if method not in self._ended and all(self._outcome(c) is not None for c in self._batches[method]):
            self._advance(method)

    def _advance(self, method: str) -> None:
        """Propose batches until one has something to train."""
        while True:
            batch = self._methods[method].next_batch(self.outcomes(method))
            if batch is None:
                self._ended.add(method)
                return
            known = self.candidates[method]
            # A candidate that is proposed again is trained once, and its score is told again.
            new = [candidate for candidate in dict.fromkeys(batch) if candidate not in self._n_peers]
            self._n_peers |= dict.fromkeys(new, len(known))
            self.candidates[method] = known + new
            self._batches[method] = batch
            for candidate in new:
                self._release(candidate)
            if not all(self._outcome(candidate) is not None for candidate in batch):
                return

    def _release(self, candidate: Candidate) -> None:
        """Make ready the packs that a candidate is trained on next: all its splits or, with racing, the next few."""
        if self._n_open[candidate] or self._outcome(candidate) is not None:
            return
        missing = self._missing(candidate)
        best = self._best_of(self._peers(candidate))
        racing = self._stopping.settings.racing if self._stopping is not None else None
        if self._stopping is not None and racing is not None and best is not None:
            scores, best_scores = self._scores_of(candidate), self._scores_of(best)
            if stop := self._stopping.in_race(self._phase, candidate, scores, best_scores):
                self.new_stops.append(stop)
                return
            missing = missing[: racing.splits_at_once]
        missing = [split for split in missing if TrialConfig(self._phase, candidate, split) not in self._failed]
        for start in range(0, len(missing), self._lanes):
            self._ready.append(Pack(self._phase, candidate, tuple(missing[start : start + self._lanes])))
            self._n_open[candidate] += 1
