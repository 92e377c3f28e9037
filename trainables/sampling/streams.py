"""Random streams, one per seed, purpose and step.

They come from Philox, a generator that computes its numbers from a key and a counter instead of from the numbers
before. The key is the seed and the purpose, the counter the step: whatever was drawn before, a step draws the same.

References:
    Salmon et al., "Parallel Random Numbers: As Easy as 1, 2, 3" (2011), https://doi.org/10.1145/2063384.2063405
"""

from __future__ import annotations

import zlib

import numpy as np
import numpy.typing as npt


def stream_key(seed: int, purpose: str) -> npt.NDArray[np.uint64]:
    """Return the Philox key of a seed, at least 0, and a purpose: (2,)."""
    entropy = np.random.SeedSequence([seed, zlib.crc32(purpose.encode())])
    return entropy.generate_state(2, np.uint64).astype(np.uint64)


def stream(seed: int, purpose: str, step: int = 0) -> np.random.Generator:
    """Return an independent random stream for one purpose.

    Args:
        seed: Split seed, at least 0.
        purpose: What the numbers are for ("split", "weights", "order", ...); another purpose has another stream.
        step: Number of the step or epoch, at least 0, where a purpose has a stream for each.
    """
    return np.random.Generator(np.random.Philox(key=stream_key(seed, purpose), counter=[0, step, 0, 0]))
