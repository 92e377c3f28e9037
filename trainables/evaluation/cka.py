"""Similarity of two layers' representations of the same items."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import Tensor


def linear_cka(a: Tensor, b: Tensor) -> Tensor:
    """Compute the linear centred kernel alignment of two representations of the same rows: in [0, 1], shape (...).

    With centred columns it is |b'a|² / (|a'a| |b'b|) in Frobenius norms, computed from the rows' Gram matrices, which
    gives the same. It does not change if either one is rotated or scaled. NaN where one is the same for every row.

    Args:
        a: (..., rows, width).
        b: (..., rows, other width).

    References:
        Kornblith et al., "Similarity of Neural Network Representations Revisited" (2019), section 3,
        https://arxiv.org/abs/1905.00414
    """
    return _alignment(_gram(a), _gram(b))


def neighbour_cka(states: Sequence[Tensor]) -> Tensor:
    """Compute the linear CKA of each representation with the next: (..., representations - 1).

    Args:
        states: At least two representations of the same rows, (..., rows, width) each.
    """
    grams = [_gram(state) for state in states]
    return torch.stack([_alignment(one, other) for one, other in pairwise(grams)], dim=-1)


def _alignment(one: Tensor, other: Tensor) -> Tensor:
    """Compute the linear CKA (...) from the centred Gram matrices (..., rows, rows) of two representations."""
    shared = (one * other).sum((-2, -1))
    cka: Tensor = shared / (torch.linalg.matrix_norm(one) * torch.linalg.matrix_norm(other))
    return cka


def _gram(x: Tensor) -> Tensor:
    """Compute the inner products (..., rows, rows) of the rows, with centred columns."""
    x = x.double()  # the values can be small after centring
    x = x - x[..., :1, :]  # rows that are all the same become exactly 0
    x = x - x.mean(-2, keepdim=True)
    gram: Tensor = x @ x.mT
    return gram
