"""A training step as a CUDA graph: its kernels start together, in place of one by one from Python.

A step of small models keeps a GPU busy for less time than Python takes to start its kernels. Once captured, a step is
replayed on the memory that it was captured with: what changes from step to step is first written there.

References:
    "CUDA Graphs", https://docs.pytorch.org/docs/stable/notes/cuda.html#cuda-graphs
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor

from trainables.training.draws import LaneDraws

_N_REHEARSALS = 3

"""Steps taken as usual before one is captured: libraries set themselves up in the first ones, which a graph forbids."""

Step = Callable[[Tensor, Sequence[float | Tensor]], None]

"""What a training step does on the device, given item indices (lanes, rows) and a learning rate for each lane."""


class CapturedStep:
    """A step that is taken as usual a few times, then captured, and from there replayed.

    Random numbers are those that the same steps draw as usual; learning rates are rounded to float32.

    Args:
        step: The step. It asks the device for no value, and its tensors stay where they are.
        draws: The streams that it draws from.
    """

    def __init__(self, step: Step, draws: Sequence[LaneDraws]) -> None:
        self._step, self._draws = step, draws
        self._stream = _stream()
        self._n_rehearsed = 0
        self._replay: Callable[[], None] | None = None

    def __call__(self, items: Tensor, rates: Sequence[float]) -> None:
        """Takes one step."""
        if self._n_rehearsed < _N_REHEARSALS:
            for draws in self._draws:
                draws.note()
            with _beside_others(self._stream):
                self._step(items, rates)
            self._n_rehearsed += 1
            return
        if self._replay is None:
            self._items = items.clone()
            self._rates = torch.tensor(rates, dtype=torch.float32, device=items.device)
            self._replay = self._capture()
        self._items.copy_(items)
        self._rates.copy_(torch.tensor(rates, dtype=torch.float32))
        for draws in self._draws:
            draws.draw_noted()
        self._replay()

    def _capture(self) -> Callable[[], None]:
        rates = self._rates.unbind()
        generators = [generator for draws in self._draws for generator in draws.generators]
        for draws in self._draws:
            draws.give_noted()
        return graph_of(lambda: self._step(self._items, rates), generators, self._stream)


def graph_of(
    work: Callable[[], None], generators: Sequence[torch.Generator], stream: torch.cuda.Stream | None
) -> Callable[[], None]:
    """Captures work without doing it.

    Args:
        work: What is to be captured.
        generators: What it draws random numbers from; each replay draws further ones.
        stream: Where it was rehearsed. Libraries keep a workspace for each stream: on one that graphs share, a graph
            that goes would take another's with it.

    Returns:
        What replays it.
    """
    graph = torch.cuda.CUDAGraph()
    for generator in generators:
        graph.register_generator_state(generator)
    with torch.cuda.graph(graph, stream=stream):
        work()
    return graph.replay


def _stream() -> torch.cuda.Stream | None:
    """A stream of one step's own."""
    return torch.cuda.Stream() if torch.cuda.is_available() else None


@contextmanager
def _beside_others(stream: torch.cuda.Stream | None) -> Iterator[None]:
    """On the stream of the capture to come."""
    assert stream is not None
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        yield
    torch.cuda.current_stream().wait_stream(stream)
