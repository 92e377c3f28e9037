"""A training step as a CUDA graph: its kernels start together, instead of one by one from Python.

The kernels of a step of small models take less time on a GPU than Python needs to start them. A captured step is
replayed on the memory that it was captured with: the values that change from step to step are first written there.

References:
    "CUDA Graphs", https://docs.pytorch.org/docs/stable/notes/cuda.html#cuda-graphs
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor

# Steps before one is captured: in the first steps libraries initialise themselves, which a graph does not allow.
_N_REHEARSALS = 3

# A training step on the device, given item indices (lanes, rows) and a learning rate for each lane.
_Step = Callable[[Tensor, Sequence[float | Tensor]], None]


class CapturedStep:
    """A step that runs normally a few times, is then captured, and after that replayed.

    Random numbers are the same as without a graph; learning rates are rounded to float32.

    Args:
        step: The step. It reads no value from the device, and its tensors stay at their addresses.
    """

    def __init__(self, step: _Step) -> None:
        self._step = step
        self._stream = _stream()
        self._n_rehearsed = 0
        self._replay: Callable[[], None] | None = None

    def __call__(self, items: Tensor, rates: Sequence[float]) -> None:
        """Take one step."""
        if self._n_rehearsed < _N_REHEARSALS:
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
        self._replay()

    def _capture(self) -> Callable[[], None]:
        rates = self._rates.unbind()
        return graph_of(lambda: self._step(self._items, rates), self._stream)


def graph_of(work: Callable[[], None], stream: torch.cuda.Stream | None) -> Callable[[], None]:
    """Capture work without running it.

    Args:
        work: The work to capture.
        stream: The stream of the rehearsals. Libraries keep a workspace per stream: if graphs shared a stream, freeing
            one of them would free the workspace of the others.

    Returns:
        A function that replays the work.
    """
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph, stream=stream):
        work()
    return graph.replay


def _stream() -> torch.cuda.Stream | None:
    """Return a new stream for one step."""
    return torch.cuda.Stream() if torch.cuda.is_available() else None


@contextmanager
def _beside_others(stream: torch.cuda.Stream | None) -> Iterator[None]:
    """Run on the stream of the later capture."""
    assert stream is not None
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        yield
    torch.cuda.current_stream().wait_stream(stream)
