"""On a CPU, a lane of any pack equals its solo run to the bit: weights, curves, figures and per-item results."""

from collections.abc import Iterator, Sequence
from dataclasses import fields, replace

import numpy as np
import pytest
import torch

from tests.trainables_tests.training.test_engine import SETTINGS, finish, items, lanes_of
from trainables.methods.registry import METHODS
from trainables.records.types import AUTO
from trainables.training.protocol import LaneResult, LaneTraining, PackInputs
from trainables.training.settings import HoldOut, Lane, Settings
from trainables.training.start import start_training


def assert_same_result(one: LaneResult, other: LaneResult) -> None:
    for name, value in one.metrics.items():
        if not name.startswith("seconds_"):
            np.testing.assert_array_equal(value, other.metrics[name], err_msg=name)
    for mine, its in ((one.curves, other.curves), (one.items, other.items)):
        for field in fields(mine):
            np.testing.assert_array_equal(getattr(mine, field.name), getattr(its, field.name), err_msg=field.name)


def last_weights(training: LaneTraining) -> list[list[torch.Tensor]]:
    """Train to the end, and return the weights of the lanes of the last evaluation."""
    stacks = training.stacks
    while not training.finished:
        stacks = training.stacks
        training.advance()
    return [stack.weights(0) for stack in stacks]


@pytest.mark.parametrize("name", [*METHODS, "auto"])
def test_company_does_not_change_a_lane(name: str) -> None:
    """Lanes with other hyperparameters, other numbers of classes, and one that leaves in the middle."""
    x, labels = items()
    lanes = lanes_of("deep_dropout" if name == "auto" else name, range(4))
    if name == "auto":
        lanes = [replace(lane, params={**lane.params, "layer": AUTO}) for lane in lanes]
    lanes[2] = replace(lanes[2], params={**lanes[2].params, "weight_decay": 0.1, "dropout": 0.1})
    training = start_training(PackInputs(x, labels, lanes, SETTINGS, input_scores={}))
    training.advance()
    training.stop([1])
    assert np.isnan(training.advance().loss).tolist() == [False, True, False, False]
    while not training.finished:
        training.advance()
    results = training.results()
    assert results[1] is None
    for place in (0, 2, 3):
        together = results[place]
        assert isinstance(together, LaneResult)
        (alone,) = finish(start_training(PackInputs(x, labels, [lanes[place]], SETTINGS, input_scores={})))
        assert_same_result(together, alone)


def test_lanes_that_stop_early_leave_the_others_as_they_are() -> None:
    settings = replace(
        SETTINGS, epochs=200, evaluate_every_epochs=5, early_stopping=HoldOut(0.25, patience=2),
        learning_rate=replace(SETTINGS.learning_rate, high=3e-2),
    )  # fmt: skip
    x, labels = items()
    lanes = lanes_of("control", range(3))
    together = finish(start_training(PackInputs(x, labels, lanes, settings)))
    assert len({result.metrics["epochs"] for result in together}) > 1
    for lane, result in zip(lanes, together, strict=True):
        assert_same_result(result, finish(start_training(PackInputs(x, labels, [lane], settings)))[0])


def assert_whole_training_is_the_same(
    name: str, n_items: int, n_features: int, settings: Settings, seeds: Sequence[int]
) -> None:
    x, labels = items(n_items, n_features, classes=171)
    lanes = lanes_of(name, seeds, n_items)
    pack = start_training(PackInputs(x, labels, lanes, settings))
    weights = last_weights(pack)
    assert len({own[-1].shape for own in weights}) > 1, "lanes differ in classes"

    def alone(lane: Lane) -> tuple[list[torch.Tensor], LaneResult]:
        training = start_training(PackInputs(x, labels, [lane], settings))
        (own,) = last_weights(training)
        (result,) = training.results()
        assert isinstance(result, LaneResult)
        return own, result

    for lane, together, result in zip(lanes, weights, pack.results(), strict=True):
        own, solo = alone(lane)
        assert all(torch.equal(mine, its) for mine, its in zip(together, own, strict=True))
        assert isinstance(result, LaneResult)
        assert_same_result(result, solo)


@pytest.fixture
def one_thread() -> Iterator[None]:
    """As in a study by default."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.mark.usefixtures("one_thread")
@pytest.mark.parametrize(("name", "n_features", "batch"), [("control", 384, 128), ("soft_e_stitchup", 4864, 64)])
def test_a_lane_of_real_size_equals_its_solo_run(name: str, n_features: int, batch: int) -> None:
    settings = Settings(epochs=3, batch_size=batch, evaluate_every_epochs=3)
    assert_whole_training_is_the_same(name, 3000, n_features, settings, range(3))


@pytest.mark.slow
@pytest.mark.usefixtures("one_thread")
@pytest.mark.parametrize("name", ["control", "e_mixup", "e_stitchup", "soft_e_mixup", "soft_e_stitchup"])
def test_a_whole_training_equals_its_solo_run(name: str) -> None:
    """3,240 steps, about those of the fashion titles at 96 epochs, in which rounding grows to other predictions."""
    settings = Settings(epochs=360, evaluate_every_epochs=120)
    assert_whole_training_is_the_same(name, 6000, 384, settings, range(5))
