"""Random streams, one per seed and purpose."""

from __future__ import annotations

import zlib

import numpy as np


def stream(seed: int, purpose: str) -> np.random.Generator:
    """Return an independent random stream for one purpose.

    Args:
        seed: Split seed, at least 0.
        purpose: What the numbers are for ("split", "weights", "order", ...); another purpose has another stream.
    """
    return np.random.Generator(np.random.Philox(np.random.SeedSequence([seed, zlib.crc32(purpose.encode())])))
