"""Early stopping: the rules, and that what is stopped depends on neither workers nor restarts."""

from types import SimpleNamespace

import numpy as np
import pytest
from ray.tune.schedulers import AsyncHyperBandScheduler

from study.config.schema import Pruning, Search
from study.search.early_stopping import Stopping, is_beaten
from study.search.proposals import FixedProposals
from study.search.queue import PackQueue
from tests.study_tests.search.searching import listed, searches, splits_of
from trainables.records.failures import Stop
from trainables.records.types import SEARCH, Candidate, Curves, Pack, SplitId, TrialConfig, TrialRecord

EPOCHS = 24

EVALUATIONS = range(2, EPOCHS + 1, 2)

METHODS = {"control": {}, "e_mixup": {"alpha": {"low": 0.05, "high": 2.0}}}

NO_CURVE = np.zeros(1, np.float32)


def accuracy(trial: TrialConfig, epoch: int) -> float:
    """A made-up learning curve: best near alpha 0.7, a little luck a split."""
    alpha = dict(trial.candidate.params).get("alpha", 0.7)
    luck = np.random.default_rng([trial.split.seed, trial.split.inner or 0, round(alpha * 1e6)]).normal(0, 0.004)
    return float(np.float32((1 - (alpha - 0.7) ** 2 / 4 + luck) * (1 - 0.5 ** (epoch / 6))))


def record(trial: TrialConfig) -> TrialRecord:
    curves = {name: NO_CURVE for name in Curves.__dataclass_fields__}
    curves["epoch"] = np.array(EVALUATIONS, np.float32)
    curves["epoch_cka"] = np.empty((0, 0), np.float32)
    curves["epoch_accuracy"] = np.array([accuracy(trial, epoch) for epoch in EVALUATIONS], np.float32)
    return TrialRecord(trial, {"accuracy": accuracy(trial, EPOCHS)}, Curves(**curves), None, 0.0, 1.0, {})


class Fake:
    """A study whose packs train in lockstep: what is kept of it are its records and stops."""

    def __init__(self, pruning: dict[str, object], n_splits: int = 1, n_inner: int = 9, batch_size: int = 4) -> None:
        self.search = Search.model_validate(
            {"sampler": "tpe", "n_candidates": 16, "batch_size": batch_size, "methods": METHODS, "pruning": pruning}
        )
        self.splits = splits_of(n_splits, n_inner)
        self.records: dict[TrialConfig, TrialRecord] = {}
        self.stops: list[Stop] = []
        self.n_epochs = 0

    def run(self, at_once: int = 1, stop_after: int = 10**6) -> PackQueue:
        scores = {trial: found.metrics["accuracy"] for trial, found in self.records.items()}
        found = searches(self.search, self.splits, stops=self.stops, n_epochs=EPOCHS)
        for one in found:
            if one.stopping is not None:
                one.stopping.learn(
                    known
                    for trial, known in self.records.items()
                    if trial.candidate.method == one.method and trial.split in one.splits
                )
        queue = PackQueue(SEARCH, found, scores)
        flying: list[tuple[Pack, dict[int, float]]] = []
        for _ in range(stop_after):
            while len(flying) < at_once and (pack := queue.take()) is not None:
                flying.append((pack, {}))
            self.stops += queue.new_stops
            queue.new_stops = []
            if not flying:
                break
            pack, seen = flying.pop()
            epoch = max(seen, default=0) + 2
            seen[epoch] = float(np.mean([accuracy(trial, epoch) for trial in pack.trials]))
            self.n_epochs += 2 * len(pack.splits)
            if epoch == EPOCHS:
                records = [record(trial) for trial in pack.trials]
                self.records |= {one.config: one for one in records}
                if (stopping := queue.search_of(pack).stopping) is not None:
                    stopping.learn(records)
                queue.finish(pack, {one.config: one.metrics["accuracy"] for one in records})
            elif not queue.judge(pack, seen):
                flying.insert(0, (pack, seen))
        return queue

    def outcome(self) -> tuple[list[TrialConfig], list[Stop]]:
        return sorted(self.records), sorted(self.stops, key=lambda stop: stop.trials[0])


RULES = {
    "asha": {"asha": {"grace_epochs": 4, "reduction_factor": 2}},
    "racing": {"racing": {"splits_at_once": 3}},
    "both": {"asha": {"grace_epochs": 4, "reduction_factor": 2}, "racing": {"splits_at_once": 3}},
}


@pytest.mark.parametrize("rules", RULES)
def test_what_is_stopped_depends_on_neither_workers_nor_restarts(rules: str) -> None:
    whole = Fake(RULES[rules], n_splits=2)
    queue = whole.run()
    assert queue.exhausted
    assert [len(search.candidates) for search in queue.searches] == [1, 1, 16, 16], (
        "the budget is the same, stopped or not"
    )
    assert len(whole.stops) >= 4

    at_once = Fake(RULES[rules], n_splits=2)
    at_once.run(at_once=4)
    assert at_once.outcome() == whole.outcome()

    restarted = Fake(RULES[rules], n_splits=2)
    for n in (1, 7, 60, 122, 200):
        restarted.run(at_once=3, stop_after=n)
    restarted.run(at_once=2)
    assert restarted.outcome() == whole.outcome()


@pytest.mark.parametrize("rules", RULES)
def test_stopping_saves_what_it_says_and_keeps_the_best(rules: str) -> None:
    pruned, whole = Fake(RULES[rules]), Fake({})
    best = [next(iter(fake.run().choices()["e_mixup", SplitId(0)].params)) for fake in (pruned, whole)]
    assert not whole.stops
    saved = sum(stop.n_epochs_saved for stop in pruned.stops)
    assert pruned.n_epochs + saved == whole.n_epochs == (16 + 1) * 9 * EPOCHS
    assert saved > 0.05 * whole.n_epochs
    assert [alpha for _, alpha in best] == pytest.approx([0.7, 0.7], abs=0.15)
    for stop in pruned.stops:
        assert {trial.split for trial in pruned.records if trial.candidate == stop.candidate}.isdisjoint(stop.splits)
        assert 0 < stop.share < 1


@pytest.mark.parametrize("rules", RULES)
def test_a_split_stops_its_candidates_by_its_own_search(rules: str) -> None:
    """What another split's search tries, trains and stops changes nothing."""
    alone, among = Fake(RULES[rules]), Fake(RULES[rules], n_splits=3)
    chosen = alone.run().choices()
    assert chosen.items() <= among.run(at_once=5).choices().items()
    assert {stop.splits[0].seed for stop in among.stops} == {0, 1, 2}
    for stop in among.stops:
        assert len({split.seed for split in (*stop.splits, *stop.evaluated_splits)}) == 1
        assert stop.n_epochs_planned == 9 * EPOCHS
    among.stops = [stop for stop in among.stops if stop.splits[0].seed == 0]
    among.records = {trial: one for trial, one in among.records.items() if trial.split.seed == 0}
    assert among.outcome() == alone.outcome()


def test_asha_judges_by_one_inner_split_where_there_is_no_other() -> None:
    fake = Fake(RULES["asha"], n_splits=2, n_inner=1)
    fake.run(at_once=2)
    assert {stop.splits for stop in fake.stops} == {(split,) for split in fake.splits}


def test_a_first_batch_is_never_stopped() -> None:
    fake = Fake(RULES["both"], batch_size=16)
    fake.run(at_once=2)
    assert not fake.stops
    assert len(fake.records) == 17 * 9


def test_rules_that_are_off_bring_stopped_candidates_back() -> None:
    fake = Fake(RULES["asha"])
    fake.run()
    assert fake.stops
    fake.search = fake.search.model_copy(update={"pruning": Pruning()})
    fake.run()
    assert len([trial for trial in fake.records if trial.candidate.method == "e_mixup"]) >= 16 * 9


def test_asha_decides_as_tunes_does() -> None:
    """One candidate a batch, one worker: then Tune's scheduler knows just what ours does."""
    rng = np.random.default_rng(0)
    candidates = [Candidate.of("e_mixup", {"alpha": alpha}) for alpha in rng.uniform(0.05, 2, 40)]
    pruning = Pruning.model_validate({"asha": {"grace_epochs": 2, "reduction_factor": 3}})
    splits = splits_of(1, 1)
    search = listed(FixedProposals(candidates, 1), splits)
    stopping = search.stopping = Stopping(pruning, "accuracy", {"supervised": EPOCHS}, splits)
    queue = PackQueue(SEARCH, [search], {})
    tunes = AsyncHyperBandScheduler(
        time_attr="epoch", metric="accuracy", mode="max", grace_period=2, max_t=EPOCHS, reduction_factor=3
    )
    decisions = []
    while (pack := queue.take()) is not None:
        (trial,) = pack.trials
        theirs = SimpleNamespace(trial_id=trial.key)
        tunes.on_trial_add(None, theirs)
        seen: dict[int, float] = {}
        stopped = False
        while not stopped and len(seen) < len(EVALUATIONS):
            epoch = 2 * len(seen) + 2
            seen[epoch] = accuracy(trial, epoch)
            stopped = queue.judge(pack, seen)
            if epoch < EPOCHS:
                action = tunes.on_trial_result(None, theirs, {"epoch": epoch, "accuracy": seen[epoch]})
                assert (action == "STOP") == stopped, (trial, epoch)
        if not stopped:
            stopping.learn([record(trial)])
            queue.finish(pack, {trial: seen[EPOCHS]})
        decisions.append(stopped)
    assert len(decisions) == 40
    assert 15 < sum(decisions) < 40


def test_doubt_is_kept_to_its_bound() -> None:
    """Of candidates as good as the best, no more than the doubt are given up, over both looks."""
    rng = np.random.default_rng(0)
    n_looks = 2
    lost = 0
    for _ in range(4000):
        gaps = rng.normal(0, 1, 9)
        lost += any(is_beaten(np.zeros(m), gaps[:m], 0.95, n_looks) for m in (3, 6))
    assert lost / 4000 <= 0.05
    worse = [is_beaten(np.zeros(6), rng.normal(3, 1, 6), 0.95, n_looks) for _ in range(400)]
    assert np.mean(worse) > 0.95
    assert not is_beaten([0.5], [0.9], 0.95, 1), "one split proves nothing"
    assert is_beaten([0.5, 0.51], [0.9, 0.9], 0.95, 1)
    assert not is_beaten([0.875, 0.75], [0.9375, 0.8125], 0.95, 1), "one item twice, without a spread, proves nothing"
