"""Philox4x64-10 as a GPU kernel: the words of `numpy.random.Philox` for the same key and counter.

This file needs Triton, so only draws on a GPU import it.

References:
    Salmon et al., "Parallel Random Numbers: As Easy as 1, 2, 3" (2011), https://doi.org/10.1145/2063384.2063405
"""

from __future__ import annotations

import triton
import triton.language as tl
from torch import Tensor

_BLOCKS_PER_PROGRAM = 256


def fill_words(words: Tensor, keys: Tensor, step: Tensor, number: int) -> None:
    """Fill words with random bits; all tensors are int64, contiguous, on one GPU.

    Args:
        words: (lanes, words), the number of words a multiple of 4.
        keys: Key of each lane (lanes, 2).
        step: (1,), read when the kernel runs, so that a replayed graph draws anew.
        number: Number of the draw within the step.
    """
    n_blocks = words.shape[1] // 4
    grid = (triton.cdiv(n_blocks, _BLOCKS_PER_PROGRAM), len(words))
    _philox[grid](words, keys, step, number, n_blocks, size=_BLOCKS_PER_PROGRAM)


@triton.jit  # type: ignore[untyped-decorator]
def _philox(words, keys, step, number, n_blocks, size: tl.constexpr):  # type: ignore[no-untyped-def]
    lane = tl.program_id(1).to(tl.int64)
    block = tl.program_id(0).to(tl.int64) * size + tl.arange(0, size)
    key_0 = tl.load(keys + 2 * lane).to(tl.uint64)
    key_1 = tl.load(keys + 2 * lane + 1).to(tl.uint64)
    zero = tl.full((size,), 0, tl.uint64)
    # numpy adds 1 to the counter before the first block.
    c0, c1, c2, c3 = (block + 1).to(tl.uint64), zero + tl.load(step).to(tl.uint64), zero + number, zero
    factor_0 = zero + 0xD2E7470EE14C6C93
    factor_1 = zero + 0xCA5A826395121157
    for _ in tl.static_range(10):
        high_0, low_0 = tl.umulhi(factor_0, c0), factor_0 * c0
        high_1, low_1 = tl.umulhi(factor_1, c2), factor_1 * c2
        c0, c1, c2, c3 = high_1 ^ c1 ^ key_0, low_1, high_0 ^ c3 ^ key_1, low_0
        key_0 += 0x9E3779B97F4A7C15
        key_1 += 0xBB67AE8584CAA73B
    first = words + (lane * n_blocks + block) * 4
    is_asked = block < n_blocks
    tl.store(first, c0.to(tl.int64), mask=is_asked)
    tl.store(first + 1, c1.to(tl.int64), mask=is_asked)
    tl.store(first + 2, c2.to(tl.int64), mask=is_asked)
    tl.store(first + 3, c3.to(tl.int64), mask=is_asked)
