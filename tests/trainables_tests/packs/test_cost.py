"""The cost of a pack, by a made-up clock: noise never makes a part of it free, or negative."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from itertools import chain, repeat
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from tests.trainables_tests.training.test_engine import SETTINGS, items
from trainables.packs.cost import PackCost, measure_pack
from trainables.packs.pack import PackContext
from trainables.records.types import TEST, Candidate, Design, Pack, SplitId
from trainables.sampling.splits import SplitItems, SplitRules
from trainables.training.settings import Pretraining, Settings

Measure = Callable[[str, Callable[[Settings], float]], PackCost]


class Clock:
    """A clock that stands still until a training moves it."""

    def __init__(self) -> None:
        self.now_s = 1000.0

    def perf_counter(self) -> float:
        return self.now_s


@dataclass
class FakeTraining:
    """A training that takes a given time, and gives no result."""

    clock: Clock
    took_s: float
    n_lanes: int
    finished: bool = False

    def advance(self) -> None:
        self.clock.now_s += self.took_s
        self.finished = True

    def results(self) -> list[None]:
        return [None] * self.n_lanes


@pytest.fixture
def measure(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Measure:
    """Measures a pack of a method whose trainings take as long as a function of their settings says."""
    x, labels = items()
    settings = replace(SETTINGS, epochs=100, pretraining=Pretraining(epochs=50))
    split_items, rules = SplitItems(labels.numpy()), SplitRules(Design.RANDOM, 0.3)
    made_by = {"git_commit": "abc"}
    context = PackContext(x.numpy(), split_items, rules, settings, str(tmp_path), "auc_weighted", 1, made_by)
    clock = Clock()

    def run(method: str, took_s: Callable[[Settings], float]) -> PackCost:
        def start(context: PackContext, pack: Pack, *_: Any) -> FakeTraining:
            return FakeTraining(clock, took_s(context.settings), len(pack.splits))

        monkeypatch.setattr("trainables.packs.cost.time", SimpleNamespace(perf_counter=clock.perf_counter))
        monkeypatch.setattr("trainables.packs.cost.pack_training", start)
        return measure_pack(context, Pack(TEST, Candidate.of(method, {}), (SplitId(0), SplitId(1))))

    return run


def exact(settings: Settings) -> float:
    """Seconds of a training: a start, epochs of each kind, evaluations."""
    n_evaluations = max(1, settings.epochs // settings.evaluate_every_epochs)
    return 0.1 + 0.02 * settings.epochs + 0.01 * settings.pretraining.epochs + 0.005 * n_evaluations


def test_without_noise_the_parts_are_exact(measure: Measure) -> None:
    cost = measure("contrastive_e_mixup", exact)
    assert cost.shortest_s == pytest.approx(0.135)
    assert cost.epoch_s == pytest.approx(0.02)
    assert cost.pretraining_epoch_s == pytest.approx(0.01)
    assert cost.evaluation_s == pytest.approx(0.005)


def test_one_slow_repeat_of_each_training_changes_nothing(measure: Measure) -> None:
    seen: set[tuple[int, int, int]] = set()

    def first_is_slow(settings: Settings) -> float:
        key = (settings.epochs, settings.pretraining.epochs, settings.evaluate_every_epochs)
        slow = key not in seen
        seen.add(key)
        return exact(settings) + (1.0 if slow else 0.0)

    cost = measure("contrastive_e_mixup", first_is_slow)
    assert (cost.epoch_s, cost.pretraining_epoch_s) == (pytest.approx(0.02), pytest.approx(0.01))
    assert (cost.shortest_s, cost.evaluation_s) == (pytest.approx(0.135), pytest.approx(0.005))


def test_a_short_training_slower_than_the_long_ones_gives_small_positive_parts(measure: Measure) -> None:
    delays_s: Iterator[float] = chain([0.0], repeat(5.0, 3), repeat(0.0))  # a first one, then the short ones

    cost = measure("contrastive_e_mixup", lambda settings: exact(settings) + next(delays_s))
    assert cost.shortest_s > 4
    for part_s in (cost.epoch_s, cost.pretraining_epoch_s, cost.evaluation_s):
        assert 0 < part_s < cost.shortest_s / 100


def test_a_method_without_pretraining_has_none(measure: Measure) -> None:
    assert measure("control", exact).pretraining_epoch_s == 0
