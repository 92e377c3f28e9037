"""Random numbers for lanes: one independent stream per lane, so that a lane never depends on the others."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence
from itertools import cycle

import numpy as np
import torch
from torch import Tensor

from trainables.sampling.streams import stream


class LaneDraws:
    """Random numbers for all lanes, as `trainables.methods.protocol.Draws`.

    Args:
        seeds: Split seed of each lane.
        purpose: What the numbers are for; another purpose has other streams.
        device: Device of the numbers.
    """

    def __init__(self, seeds: Sequence[int], purpose: str, device: torch.device) -> None:
        self._device = device
        self._numpy = [stream(seed, purpose) for seed in seeds]
        self._torch = [torch.Generator(device).manual_seed(int(rng.integers(2**62))) for rng in self._numpy]
        self._recorded: list[tuple[list[float], int, Tensor]] | None = None
        self._given: Iterator[Tensor] | None = None

    def bernoulli(self, probability: Tensor, rows: int, columns: int) -> Tensor:
        """Draw bool (lanes, rows, columns), true with the given probability (lanes, rows or 1, 1)."""
        # 16 random bits per decision, four decisions per drawn integer: a third of the time of drawing floats. The
        # resolution of the probability is 2^-16.
        n = rows * columns
        bits = torch.empty((len(self._torch), -(-n // 4)), dtype=torch.int64, device=self._device)
        for row, generator in zip(bits, self._torch, strict=True):
            row.random_(-(2**63), None, generator=generator)
        drawn = bits.view(torch.int16)[:, :n].reshape(len(self._torch), rows, columns)
        # int16 cannot hold the limit of probability 1, which is 2^15.
        return drawn < (probability * 65536 - 32768).round()

    def uniform(self, rows: int, columns: int) -> Tensor:
        """Draw uniform numbers in [0, 1): float32 (lanes, rows, columns)."""
        drawn = torch.empty((len(self._torch), rows, columns), device=self._device)
        for row, generator in zip(drawn, self._torch, strict=True):
            row.uniform_(generator=generator)
        return drawn

    def normal(self, rows: int, columns: int) -> Tensor:
        """Draw standard normal numbers: float32 (lanes, rows, columns)."""
        drawn = torch.empty((len(self._torch), rows, columns), device=self._device)
        for row, generator in zip(drawn, self._torch, strict=True):
            row.normal_(generator=generator)
        return drawn

    def of(self, lanes: Sequence[int]) -> LaneDraws:
        """Return the streams of some lanes, given their positions; the other streams are not drawn from."""
        some = copy.copy(self)
        some.keep(lanes)
        return some

    def keep(self, lanes: Sequence[int]) -> None:
        """Keep the streams of some of the lanes, given their positions."""
        self._numpy = [self._numpy[lane] for lane in lanes]
        self._torch = [self._torch[lane] for lane in lanes]
        self._recorded = self._given = None

    def beta(self, alpha: Tensor, rows: int) -> Tensor:
        """Draw Beta(alpha, alpha) numbers: float32 (lanes, rows, 1), for alpha (lanes, 1, 1)."""
        if self._given is not None:
            return next(self._given)
        alphas = alpha.flatten().tolist()
        drawn = self._betas(alphas, rows).to(self._device)
        if self._recorded is not None:
            self._recorded.append((alphas, rows, drawn))
        return drawn

    @property
    def generators(self) -> list[torch.Generator]:
        """The generators of the draws on the device, one per lane."""
        return self._torch

    def record(self) -> None:
        """Record from now on what is drawn on the host."""
        self._recorded = []

    def give_recorded(self) -> None:
        """From now on return the recorded numbers instead of draws on the host, in the same order and memory."""
        self._given = cycle([numbers for _, _, numbers in self._recorded or ()])

    def draw_recorded(self) -> None:
        """Draw the recorded numbers again, into the same memory."""
        for alphas, rows, numbers in self._recorded or ():
            numbers.copy_(self._betas(alphas, rows))

    def _betas(self, alphas: Sequence[float], rows: int) -> Tensor:
        drawn = [rng.beta(a, a, size=(rows, 1)) for rng, a in zip(self._numpy, alphas, strict=True)]
        return torch.from_numpy(np.stack(drawn)).float()
