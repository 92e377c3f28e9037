"""Searches of made-up studies, which need no training."""

from collections.abc import Iterable, Mapping, Sequence

from study.config.schema import Search
from study.search.early_stopping import Stopping
from study.search.proposals import Proposals, proposals
from study.search.queue import CandidateSearch, PackQueue
from study.search.space import is_per_split
from trainables.records.description import search_name
from trainables.records.failures import Stop
from trainables.records.types import SEARCH, SELECTIONS, Candidate, Pack, SplitId, TrialConfig


def splits_of(n: int, n_inner: int = 0) -> tuple[SplitId, ...]:
    """The first splits or, with `n_inner`, the inner splits of each."""
    if n_inner:
        return tuple(SplitId(seed, inner) for seed in range(n) for inner in range(n_inner))
    return tuple(map(SplitId, range(n)))


def searches(
    wanted: Search,
    splits: Sequence[SplitId],
    before: Mapping[str, Sequence[Candidate]] | None = None,
    stops: Iterable[Stop] = (),
    n_epochs: int = 1,
) -> list[CandidateSearch]:
    """The searches of each method, as a run makes them."""
    found, stops = [], list(stops)
    for method in wanted.methods:
        seeds = dict.fromkeys(split.seed for split in splits) if is_per_split(wanted, method) else [None]
        for seed in seeds:
            name = search_name(method, seed)
            own = tuple(split for split in splits if seed in (None, split.seed))
            search = CandidateSearch(name, method, proposals(wanted, method, (before or {}).get(name, ()), seed), own)
            if wanted.pruning.is_on:
                theirs = [one for one in stops if one.candidate.method == method and one.splits[0] in own]
                search.stopping = Stopping(wanted.pruning, "accuracy", {"supervised": n_epochs}, own, theirs)
            found.append(search)
    return found


def queue_of(
    wanted: Search,
    known: Mapping[TrialConfig, float],
    splits: Sequence[SplitId] | None = None,
    before: Mapping[str, Sequence[Candidate]] | None = None,
) -> PackQueue:
    """The queue of a study's first phase; on three splits, each with two inner ones if it searches there."""
    phase = SELECTIONS[wanted.selection][0]
    if splits is None:
        splits = splits_of(3, 2 if phase == SEARCH else 0)
    return PackQueue(phase, searches(wanted, splits, before), known)


def listed(source: Proposals, splits: Sequence[SplitId], method: str = "e_mixup") -> CandidateSearch:
    """A search of candidates from a source."""
    return CandidateSearch(method, method, source, tuple(splits))


def named(queue: PackQueue, name: str) -> CandidateSearch:
    """The search of a name."""
    (found,) = (search for search in queue.searches if search.name == name)
    return found


def score(trial: TrialConfig) -> float:
    """A made-up response: best near alpha 0.3, a little luck a split."""
    alpha = dict(trial.candidate.params).get("alpha", 0.3)
    return 1 - (alpha - 0.3) ** 2 + 0.01 * trial.split.seed


def drain(
    queue: PackQueue, known: dict[TrialConfig, float], *, at_once: int = 1, stop_after: int = 10**6
) -> list[Pack]:
    """Trains packs, `at_once` in flight, the last taken finished first, noting scores in `known`."""
    trained: list[Pack] = []
    flying: list[Pack] = []
    while len(trained) < stop_after:
        while len(flying) < at_once and (pack := queue.take()) is not None:
            flying.append(pack)
        if not flying:
            break
        pack = flying.pop()
        scores = {trial: score(trial) for trial in pack.trials}
        known |= scores
        queue.finish(pack, scores)
        trained.append(pack)
    return trained
