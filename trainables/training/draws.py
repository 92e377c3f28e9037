"""Random numbers for lanes: one independent stream a lane, so that a lane never depends on its company."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence
from itertools import cycle

import numpy as np
import torch
from torch import Tensor

from trainables.sampling.streams import stream


class LaneDraws:
    """Random numbers for all lanes, from one stream a lane: `trainables.methods.Draws`.

    Args:
        seeds: Split seed of each lane.
        purpose: What is drawn; other purposes are other streams.
        device: Where the numbers are needed.
    """

    def __init__(self, seeds: Sequence[int], purpose: str, device: torch.device) -> None:
        self._device = device
        self._numpy = [stream(seed, purpose) for seed in seeds]
        self._torch = [torch.Generator(device).manual_seed(int(rng.integers(2**62))) for rng in self._numpy]
        self._noted: list[tuple[list[float], int, Tensor]] | None = None
        self._given: Iterator[Tensor] | None = None

    def bernoulli(self, probability: Tensor, rows: int, columns: int) -> Tensor:
        """True with the given probability: bool (lanes, rows, columns), from (lanes, rows or 1, 1)."""
        # 16 random bits a decision, four to a drawn integer: a third of the time of drawing floats. It
        # resolves the probability to 2^-16.
        n = rows * columns
        bits = torch.empty((len(self._torch), -(-n // 4)), dtype=torch.int64, device=self._device)
        for row, generator in zip(bits, self._torch, strict=True):
            row.random_(-(2**63), None, generator=generator)
        drawn = bits.view(torch.int16)[:, :n].reshape(len(self._torch), rows, columns)
        # int16 cannot hold the limit of probability 1, which is 2^15.
        return drawn < (probability * 65536 - 32768).round()

    def uniform(self, rows: int, columns: int) -> Tensor:
        """Uniform numbers in [0, 1): float32 (lanes, rows, columns)."""
        drawn = torch.empty((len(self._torch), rows, columns), device=self._device)
        for row, generator in zip(drawn, self._torch, strict=True):
            row.uniform_(generator=generator)
        return drawn

    def normal(self, rows: int, columns: int) -> Tensor:
        """Standard normal numbers: float32 (lanes, rows, columns)."""
        drawn = torch.empty((len(self._torch), rows, columns), device=self._device)
        for row, generator in zip(drawn, self._torch, strict=True):
            row.normal_(generator=generator)
        return drawn

    def of(self, lanes: Sequence[int]) -> LaneDraws:
        """The streams of some lanes, given their places; the others' are not drawn from."""
        some = copy.copy(self)
        some.keep(lanes)
        return some

    def keep(self, lanes: Sequence[int]) -> None:
        """Goes on with the streams of some of the lanes, given their places until now."""
        self._numpy = [self._numpy[lane] for lane in lanes]
        self._torch = [self._torch[lane] for lane in lanes]
        self._noted = self._given = None

    def beta(self, alpha: Tensor, rows: int) -> Tensor:
        """Beta(alpha, alpha) numbers: float32 (lanes, rows, 1), from alpha (lanes, 1, 1)."""
        if self._given is not None:
            return next(self._given)
        alphas = alpha.flatten().tolist()
        drawn = self._betas(alphas, rows).to(self._device)
        if self._noted is not None:
            self._noted.append((alphas, rows, drawn))
        return drawn

    @property
    def generators(self) -> list[torch.Generator]:
        """What is drawn from on the device, one a lane."""
        return self._torch

    def note(self) -> None:
        """Notes, from here on, what is drawn on the host."""
        self._noted = []

    def give_noted(self) -> None:
        """From here on gives, for what is drawn on the host, what was noted, in the same order and the same memory."""
        self._given = cycle([numbers for _, _, numbers in self._noted or ()])

    def draw_noted(self) -> None:
        """Draws anew what was noted, into the same memory."""
        for alphas, rows, numbers in self._noted or ():
            numbers.copy_(self._betas(alphas, rows))

    def _betas(self, alphas: Sequence[float], rows: int) -> Tensor:
        drawn = [rng.beta(a, a, size=(rows, 1)) for rng, a in zip(self._numpy, alphas, strict=True)]
        return torch.from_numpy(np.stack(drawn)).float()
