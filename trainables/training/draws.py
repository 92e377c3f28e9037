"""Random numbers for lanes: one independent stream per lane, so that a lane never depends on the others.

A number is a function of the lane's seed, the purpose, the step, the number of the draw within the step and the
element. No draw depends on earlier ones, and a CPU and a GPU draw the same.
"""

from __future__ import annotations

import copy
import logging
import math
from collections.abc import Callable, Iterator, Sequence
from functools import cache, partial

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from trainables.sampling.streams import stream_key

_Numbers = npt.NDArray[np.int64]

# Fills words (lanes, words), given keys (lanes, 2), the step (1,), all int64 on a GPU, and the number of the draw.
_Fill = Callable[[Tensor, Tensor, Tensor, int], None]


class LaneDraws:
    """Random numbers for all lanes, as `trainables.methods.protocol.Draws`.

    The numbers are those of Philox4x64-10, with the counter (block of four words, step, number of the draw, 0).

    Args:
        seeds: Split seed of each lane.
        purpose: What the numbers are for; another purpose has other streams.
        device: Device of the numbers.
    """

    def __init__(self, seeds: Sequence[int], purpose: str, device: torch.device) -> None:
        self._device = device
        self._keys = np.stack([stream_key(seed, purpose) for seed in seeds])
        self._step = 0
        self._source = np.random.Philox(0)
        self._state = self._source.state
        # Each lane counts its own draws: those of the others must not change its numbers.
        self._n_drawn = np.zeros(len(seeds), np.int64)
        self._lanes = np.arange(len(seeds))
        self._held: dict[int, tuple[Callable[[], Tensor], Tensor]] | None = None
        self._fill = _kernel() if device.type == "cuda" else None
        self._step_there = torch.zeros(1, dtype=torch.int64, device=device)
        self._keys_there = self._keys_on_device()

    def begin(self, step: int) -> None:
        """Begin a step: its first draws have the number 0."""
        self._step = step
        self._n_drawn[:] = 0
        self._step_there.fill_(step)
        for draw, numbers in (self._held or {}).values():
            numbers.copy_(draw())

    def hold(self) -> None:
        """From now on draw on the host at the begin of a step, into the same memory, what earlier steps drew there.

        Every step must then draw the same kinds and shapes, in the same order.
        """
        self._held = {}

    def keep(self, lanes: Sequence[int]) -> None:
        """Keep the streams of some of the lanes, given their positions, between two steps."""
        self._keys = self._keys[list(lanes)]
        self._n_drawn, self._lanes = np.zeros(len(lanes), np.int64), np.arange(len(lanes))
        self._held = None
        self._keys_there = self._keys_on_device()

    def of(self, lanes: Sequence[int]) -> LaneDraws:
        """Return the streams of some lanes, given their positions; the other streams are not drawn from."""
        some = copy.copy(self)
        some._keys, some._lanes, some._held = self._keys[list(lanes)], self._lanes[list(lanes)], None
        some._keys_there = some._keys_on_device()
        return some

    def bernoulli(self, probability: Tensor, rows: int, columns: int) -> Tensor:
        """Draw bool (lanes, rows, columns), true with the given probability (lanes, rows or 1, 1)."""
        # 16 random bits per decision, so the resolution of the probability is 2^-16.
        n = rows * columns
        drawn = self.words(-(-n // 4)).view(torch.int16)[:, :n].reshape(len(self._lanes), rows, columns)
        # int16 cannot hold the limit of probability 1, which is 2^15.
        return drawn < (probability * 65536 - 32768).round()

    def uniform(self, rows: int, columns: int) -> Tensor:
        """Draw uniform numbers in [0, 1): float32 (lanes, rows, columns)."""
        # The upper 24 of 32 random bits: float32 holds no more.
        n = rows * columns
        drawn = self.words(-(-n // 2)).view(torch.int32)[:, :n].reshape(len(self._lanes), rows, columns)
        return (drawn >> 8 & 0xFFFFFF).float() * 2**-24

    def normal(self, rows: int, columns: int) -> Tensor:
        """Draw standard normal numbers: float32 (lanes, rows, columns).

        References:
            Box & Muller, "A Note on the Generation of Random Normal Deviates" (1958),
            https://doi.org/10.1214/aoms/1177706645
        """
        # In float64, so that rounding to float32 hides how a device computes the logarithm and the cosine.
        n = rows * columns
        half = -(-n // 2)
        bits = self.words(half).view(torch.int32)
        radius = bits[:, :half].double().add_(2**31 + 0.5).mul_(2**-32).log_().mul_(-2).sqrt_()
        angle = bits[:, half : 2 * half].double().mul_(2 * math.pi * 2**-32)
        drawn = torch.cat([(radius * angle.cos()).float(), (radius * angle.sin()).float()], dim=1)
        return drawn[:, :n].reshape(len(self._lanes), rows, columns)

    def beta(self, alpha: Tensor, rows: int) -> Tensor:
        """Draw Beta(alpha, alpha) numbers: float32 (lanes, rows, 1), for alpha (lanes, 1, 1)."""
        numbers = self._numbers()
        return self._from_host(numbers, lambda: partial(self._betas, numbers, alpha.flatten().tolist(), rows))

    def words(self, n: int) -> Tensor:
        """Draw 64 random bits each: int64 (lanes, at least n), of which the first do not depend on n."""
        numbers, n_blocks = self._numbers(), max(1, -(-n // 4))
        if self._fill is None:
            return self._from_host(numbers, lambda: partial(self._words, numbers, 4 * n_blocks))
        drawn = torch.empty((len(self._lanes), 4 * n_blocks), dtype=torch.int64, device=self._device)
        one_by_one = [slice(lane, lane + 1) for lane in range(len(self._lanes))]
        for lanes in [slice(None)] if (numbers == numbers[0]).all() else one_by_one:
            self._fill(drawn[lanes], self._keys_there[lanes], self._step_there, int(numbers[lanes][0]))
        return drawn

    def _numbers(self) -> _Numbers:
        """Return the number of each lane's next draw, and count it."""
        numbers = self._n_drawn[self._lanes]
        self._n_drawn[self._lanes] += 1
        return numbers

    def _from_host(self, numbers: _Numbers, prepare: Callable[[], Callable[[], Tensor]]) -> Tensor:
        """Return on the device what is drawn on the host.

        Args:
            numbers: Number of each lane's draw.
            prepare: Returns a function that draws; it may read from the device.
        """
        if self._held is None:
            return prepare()().to(self._device)
        if numbers[0] not in self._held:
            draw = prepare()
            self._held[int(numbers[0])] = draw, draw().to(self._device)
        return self._held[int(numbers[0])][1]

    def _betas(self, numbers: _Numbers, alphas: Sequence[float], rows: int) -> Tensor:
        drawn = np.empty((len(alphas), rows, 1), np.float32)
        for row, source, alpha in zip(drawn, self._sources(numbers), alphas, strict=True):
            row[:] = np.random.Generator(source).beta(alpha, alpha, size=(rows, 1))
        return torch.from_numpy(drawn)

    def _words(self, numbers: _Numbers, n: int) -> Tensor:
        drawn = np.empty((len(numbers), n), np.uint64)
        for row, source in zip(drawn, self._sources(numbers), strict=True):
            row[:] = source.random_raw(n)
        return torch.from_numpy(drawn.view(np.int64))

    def _sources(self, numbers: _Numbers) -> Iterator[np.random.Philox]:
        """Yield each lane's source of random words for a draw; it adds 1 to its counter before the first word.

        It is always the same object: setting its state takes a fifth of the time of a new one.
        """
        state = self._state
        for key, number in zip(self._keys, numbers, strict=True):
            state["state"] = {"key": key, "counter": np.array([0, self._step, number, 0], np.uint64)}
            self._source.state = state
            yield self._source

    def _keys_on_device(self) -> Tensor:
        return torch.from_numpy(self._keys.view(np.int64)).to(self._device)


@cache
def _kernel() -> _Fill | None:
    """Return the kernel that draws words on a GPU; None without Triton, which builds of torch for CUDA bring along."""
    try:
        from trainables.training.philox import fill_words
    except ImportError:
        logging.getLogger(__name__).warning(
            "Random numbers are drawn on the CPU and copied to the GPU, which is slower: Triton is not installed. The "
            "numbers are the same."
        )
        return None
    return fill_words
