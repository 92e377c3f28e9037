"""Random streams, one for each seed and purpose."""

from __future__ import annotations

import zlib

import numpy as np


def stream(seed: int, purpose: str) -> np.random.Generator:
    """An independent random stream for one purpose.

    Args:
        seed: Split seed, at least 0.
        purpose: What is drawn ("split", "weights", "order", ...): other purposes get other streams.
    """
    return np.random.Generator(np.random.Philox(np.random.SeedSequence([seed, zlib.crc32(purpose.encode())])))
