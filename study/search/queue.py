"""Which pack is trained next: the candidates of every search, in batches, and their outcomes.

Seeds are never sampled: a candidate is trained on all splits of its search. A search's proposals depend only on its
seed and on the outcomes of its own earlier candidates, in candidate order, and they are written down. So a restarted
study proposes the same candidates, finds the recorded ones, and trains the rest.
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from study.search.early_stopping import Evaluations, Stopping
from study.search.proposals import Outcome, Proposals
from trainables.records.choice import choose_best, mean_score
from trainables.records.failures import Stop
from trainables.records.types import Candidate, Pack, SplitId, TrialConfig


@dataclass
class CandidateSearch:
    """Candidates of one method that compete with each other.

    Attributes:
        name: Its name in the study's description.
        method: The method.
        proposals: The source of its candidates.
        splits: Splits that every candidate is trained on.
        stopping: The rules of early stopping; None for none.
        candidates: The candidates that are proposed so far, in order.
        ended: Whether every candidate is proposed and has its outcome.
    """

    name: str
    method: str
    proposals: Proposals
    splits: tuple[SplitId, ...]
    stopping: Stopping | None = None
    candidates: list[Candidate] = field(default_factory=list)
    ended: bool = False
    batch: list[Candidate] = field(default_factory=list)
    n_open: Counter[Candidate] = field(default_factory=Counter)
    n_peers: dict[Candidate, int] = field(default_factory=dict)

    def peers(self, candidate: Candidate) -> list[Candidate]:
        """Return the candidates of earlier batches. Each has its outcome."""
        return self.candidates[: self.n_peers[candidate]]


class PackQueue:
    """The packs of one phase that are not yet trained, search by search in turn.

    Args:
        searches: The searches; those of one method have different splits.
        scores: Score of each trial already recorded.
        lanes_per_pack: Largest number of trials in a pack; None for all splits of a candidate.
        failed: Trials that failed for good; they are not tried again.

    Attributes:
        searches: As given, with the candidates proposed so far.
        new_stops: Candidates stopped since a caller last emptied this list.
    """

    def __init__(
        self,
        phase: str,
        searches: Sequence[CandidateSearch],
        scores: Mapping[TrialConfig, float],
        lanes_per_pack: int | None = None,
        *,
        failed: Collection[TrialConfig] = (),
    ) -> None:
        self._phase, self.searches = phase, list(searches)
        self._scores = {trial: score for trial, score in scores.items() if trial.phase == phase}
        self._lanes = lanes_per_pack
        self._failed = set(failed)
        self._abandoned = False
        self._ready: deque[Pack] = deque()
        self._in_flight: set[Pack] = set()
        self._of_split = {(search.method, split): search for search in searches for split in search.splits}
        self.new_stops: list[Stop] = []
        for search in self.searches:
            self._advance(search)

    @property
    def exhausted(self) -> bool:
        """Whether no pack is ready and none will be: every search has ended, or waits for a pack that failed."""
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
        """Take in the scores of a trained pack. A search whose batch is complete proposes its next one.

        A trial without a score failed for good: its search's batch stays incomplete, and the other searches go on.
        """
        search = self.search_of(pack)
        self._close(search, pack)
        self._scores.update(scores)
        self._failed |= set(pack.trials) - set(scores)
        self._release(search, pack.candidate)
        self._advance_if_complete(search)

    def judge(self, pack: Pack, evaluations: Evaluations) -> bool:
        """Stop the candidate of a pack in training if early stopping says so, and return whether it was stopped."""
        search, candidate = self.search_of(pack), pack.candidate
        if search.stopping is None:
            return False
        stop = search.stopping.at_rung(pack, evaluations, search.peers(candidate), self._missing(search, candidate))
        if stop is None:
            return False
        self._close(search, pack)
        self.new_stops.append(stop)
        self._advance_if_complete(search)
        return True

    def retry(self, pack: Pack) -> None:
        """Put a lost pack in front of all others."""
        self._in_flight.remove(pack)
        self._ready.appendleft(pack)

    def search_of(self, pack: Pack) -> CandidateSearch:
        """Return the search that a pack is part of."""
        return self._of_split[pack.candidate.method, pack.splits[0]]

    def score(self, search: CandidateSearch, candidate: Candidate) -> float | None:
        """Return the mean score of a candidate over its search's splits; None while one is missing."""
        return self._mean(candidate, search.splits)

    def best(self, search: CandidateSearch) -> Candidate | None:
        """Return the best candidate of a search among those with a score on every split; None before there is one."""
        return self._best_of(search.candidates, search.splits)

    def choices(self) -> dict[tuple[str, SplitId], Candidate]:
        """Return the candidate that each split has chosen, by method and split.

        A split has chosen when its search has ended, or when every planned candidate is scored on it: a trial that
        failed on one split does not keep the others from choosing.
        """
        found = {}
        for search in self.searches:
            for outer in dict.fromkeys(split.outer for split in search.splits):
                inner = [split for split in search.splits if split.outer == outer]
                scored = sum(self._mean(one, inner) is not None for one in search.candidates)
                best = self._best_of(search.candidates, inner)
                if best is not None and (search.ended or scored == search.proposals.planned):
                    found[search.method, outer] = best
        return found

    def outcomes(self, search: CandidateSearch) -> dict[Candidate, Outcome]:
        """Return the outcomes of a search's candidates, in candidate order; those in work are left out."""
        found = {candidate: self._outcome(search, candidate) for candidate in search.candidates}
        return {candidate: outcome for candidate, outcome in found.items() if outcome is not None}

    def trials(self) -> list[TrialConfig]:
        """Return every trial of the candidates proposed so far."""
        return [
            TrialConfig(self._phase, candidate, split)
            for search in self.searches
            for candidate in search.candidates
            for split in search.splits
        ]

    def _close(self, search: CandidateSearch, pack: Pack) -> None:
        self._in_flight.remove(pack)
        search.n_open[pack.candidate] -= 1

    def _outcome(self, search: CandidateSearch, candidate: Candidate) -> Outcome | None:
        score = self.score(search, candidate)
        if score is None and search.stopping is not None:
            return search.stopping.stops.get(candidate)
        return score

    def _scores_of(self, search: CandidateSearch, candidate: Candidate) -> dict[SplitId, float]:
        trials = {split: TrialConfig(self._phase, candidate, split) for split in search.splits}
        return {split: self._scores[trial] for split, trial in trials.items() if trial in self._scores}

    def _missing(self, search: CandidateSearch, candidate: Candidate) -> list[SplitId]:
        scores = self._scores_of(search, candidate)
        return [split for split in search.splits if split not in scores]

    def _mean(self, candidate: Candidate, splits: Sequence[SplitId]) -> float | None:
        found = [self._scores.get(TrialConfig(self._phase, candidate, split)) for split in splits]
        scores = [score for score in found if score is not None]
        return mean_score(scores) if len(scores) == len(found) else None

    def _best_of(self, candidates: Iterable[Candidate], splits: Sequence[SplitId]) -> Candidate | None:
        return choose_best({one: mean for one in candidates if (mean := self._mean(one, splits)) is not None})

    def _advance_if_complete(self, search: CandidateSearch) -> None:
        if not search.ended and all(self._outcome(search, one) is not None for one in search.batch):
            self._advance(search)

    def _advance(self, search: CandidateSearch) -> None:
        """Propose batches until one has something to train."""
        while True:
            batch = search.proposals.next_batch(self.outcomes(search))
            if batch is None:
                search.ended = True
                return
            # A candidate that is proposed again is trained once, and its score is told again.
            new = [candidate for candidate in dict.fromkeys(batch) if candidate not in search.n_peers]
            search.n_peers |= dict.fromkeys(new, len(search.candidates))
            search.candidates = search.candidates + new
            search.batch = batch
            for candidate in new:
                self._release(search, candidate)
            if not all(self._outcome(search, candidate) is not None for candidate in batch):
                return

    def _release(self, search: CandidateSearch, candidate: Candidate) -> None:
        """Make ready the packs that a candidate is trained on next: all its splits or, with racing, the next few."""
        if search.n_open[candidate] or self._outcome(search, candidate) is not None:
            return
        missing = self._missing(search, candidate)
        best = self._best_of(search.peers(candidate), search.splits)
        racing = search.stopping.settings.racing if search.stopping is not None else None
        if search.stopping is not None and racing is not None and best is not None:
            scores, best_scores = self._scores_of(search, candidate), self._scores_of(search, best)
            if stop := search.stopping.in_race(self._phase, candidate, scores, best_scores):
                self.new_stops.append(stop)
                return
            missing = missing[: racing.splits_at_once]
        missing = [split for split in missing if TrialConfig(self._phase, candidate, split) not in self._failed]
        lanes = self._lanes or len(search.splits)
        for start in range(0, len(missing), lanes):
            self._ready.append(Pack(self._phase, candidate, tuple(missing[start : start + lanes])))
            search.n_open[candidate] += 1
