"""A captured step trains what a step trains: by replays on the CPU, and as real CUDA graphs where there is a GPU."""

import math
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from tests.trainables_tests.training.test_engine import SETTINGS, finish, items, lanes_of
from trainables.methods.registry import METHODS, Contrastive
from trainables.training import cuda_graph as capture
from trainables.training.contrastive import ContrastiveStack
from trainables.training.protocol import LaneResult, PackInputs
from trainables.training.settings import Settings
from trainables.training.stack import Stack
from trainables.training.start import start_training
from trainables.training.supervised import SupervisedStack

STATIC = [name for name, method in METHODS.items() if getattr(method, "static", False)]


# Of tensors on a device, these wait for the device or send it something of the host's.
HOST = {"_local_scalar_dense", "lift_fresh", "nonzero", "masked_select", "_unique2", "_linalg_eigh"}

no_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no CUDA device")


@pytest.fixture
def replays(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Has replays on a CPU do the work anew, on the memory that a graph would have; counts them."""
    counted: list[int] = []

    def again(work: Callable[[], None], stream: torch.cuda.Stream | None) -> Callable[[], None]:
        counted.append(0)

        def replay() -> None:
            counted[-1] += 1
            work()

        return replay

    monkeypatch.setattr(capture, "graph_of", again)
    monkeypatch.setattr(capture, "_beside_others", lambda stream: nullcontext())
    sound = Stack.__init__

    def captured(self: Stack, *args: Any, **kwargs: Any) -> None:
        sound(self, *args, **kwargs)
        self._is_captured = self.settings.cuda_graph and getattr(self.method, "static", False)

    monkeypatch.setattr(Stack, "__init__", captured)
    return counted


def stack_of(name: str, device: str = "cpu", settings: Settings = SETTINGS) -> Stack:
    x, labels = (tensor.to(device) for tensor in items())
    lanes = lanes_of(name, [3, 4, 5])
    if isinstance(METHODS[name], Contrastive):
        return ContrastiveStack(x, lanes, 5, settings)
    return SupervisedStack(x, labels, lanes, 5, settings)


def train_and_lose_a_lane(stack: Stack) -> tuple[list[list[torch.Tensor]], list[float]]:
    stack.train(5)
    stack.keep([0, 2])
    stack.train(5)
    return [stack.weights(lane) for lane in range(2)], stack.mean_loss()


def assert_trains_the_same(name: str, device: str) -> None:
    usual, usual_loss = train_and_lose_a_lane(stack_of(name, device))
    weights, loss = train_and_lose_a_lane(stack_of(name, device, replace(SETTINGS, cuda_graph=True)))
    near = (
        1e-5 if device == "cpu" else 1e-4
    )  # a GPU's libraries choose their products' order of summation by themselves
    torch.testing.assert_close(weights, usual, atol=near, rtol=0)
    assert loss == pytest.approx(usual_loss, abs=near)
    assert all(map(math.isfinite, loss))


@pytest.mark.parametrize("name", STATIC)
def test_replays_train_the_same(name: str, replays: list[int]) -> None:
    """Also once a lane has left, which begins anew: fifty steps, of which three are rehearsals each time."""
    assert_trains_the_same(name, "cpu")
    assert replays == [22, 22]


@pytest.mark.parametrize("name", ["control", "contrastive_control"])
def test_a_trained_stack_lets_go_of_its_graph(name: str, replays: list[int], monkeypatch: pytest.MonkeyPatch) -> None:
    """Which holds memory of the device, and the stack by its step: in a cycle, until Python next looks for those."""
    made: list[Stack] = []
    sound = Stack.__init__

    def noted(self: Stack, *args: Any, **kwargs: Any) -> None:
        sound(self, *args, **kwargs)
        made.append(self)

    monkeypatch.setattr(Stack, "__init__", noted)
    x, labels = items()
    finish(start_training(PackInputs(x, labels, lanes_of(name, [3, 4]), replace(SETTINGS, cuda_graph=True))))
    assert len(replays) == len(made) > 0, "each was captured"
    assert [stack._captured for stack in made] == [None] * len(made)


@pytest.mark.parametrize("name", METHODS)
def test_static_is_what_waits_for_nothing(name: str) -> None:
    stack = stack_of(name)
    stack.train(1)
    asked: set[str] = set()

    class Watch(TorchDispatchMode):
        def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            asked.add(func.overloadpacket.__name__)
            return func(*args, **(kwargs or {}))

    batch = torch.stack([own[: SETTINGS.batch_size] for own in stack._train])
    for draws in stack._draws():
        draws.hold()
        draws.begin(5)
    stack._on_device(batch, [1e-3] * 3)  # what it draws on the host is held, for a capture to use
    for draws in stack._draws():
        draws.begin(6)
    with Watch():
        stack._on_device(batch, [1e-3] * 3)
    assert "baddbmm" in asked
    assert bool(asked & HOST) != (name in STATIC), asked & HOST


@pytest.mark.parametrize("name", STATIC)
@pytest.mark.gpu
@no_gpu
def test_a_graph_trains_the_same(name: str) -> None:
    assert_trains_the_same(name, "cuda")


@pytest.mark.parametrize("precision", ["float32", "tf32", "bfloat16"])
@pytest.mark.parametrize("name", METHODS)
@pytest.mark.gpu
@no_gpu
def test_whole_trials_on_a_gpu(name: str, precision: Any) -> None:
    """A graph changes nothing, lanes do not depend on their company, and figures are those of a CPU but for chance."""
    x, labels = (tensor.to("cuda") for tensor in items())

    def run(seeds: Sequence[int], settings: Settings) -> list[LaneResult]:
        return finish(start_training(PackInputs(x, labels, lanes_of(name, seeds), settings)))

    settings = replace(SETTINGS, precision=precision)
    usual, graphed = run([3, 4], settings), run([3, 4], replace(settings, cuda_graph=True))
    if precision == "float32":
        for one, other in [*zip(usual, graphed, strict=True), (usual[1], run([4], settings)[0])]:
            np.testing.assert_allclose(one.curves.epoch_loss, other.curves.epoch_loss, atol=1e-4)
            assert one.metrics["auc_weighted"] == pytest.approx(other.metrics["auc_weighted"], abs=1e-3)
    cpu = finish(start_training(PackInputs(*items(), lanes_of(name, [3, 4]), SETTINGS)))
    for result, there in zip(graphed, cpu, strict=True):
        assert result.metrics["auc_weighted"] == pytest.approx(there.metrics["auc_weighted"], abs=0.03)
