"""How alike two layers represent the same items."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import Tensor


def linear_cka(a: Tensor, b: Tensor) -> Tensor:
    """Linear centred kernel alignment of two representations of the same rows: in [0, 1], shape (...).

    With centred columns it is |b'a|² / (|a'a| |b'b|) in Frobenius norms, here by way of the rows' Gram matrices, which
    gives the same. Rotating or scaling either changes nothing. NaN where one of them is the same for every row.

    Args:
        a: (..., rows, width).
        b: (..., rows, other width).

    References:
        Kornblith et al., "Similarity of Neural Network Representations Revisited" (2019), section 3,
        https://arxiv.org/abs/1905.00414
    """
    return _alignment(_gram(a), _gram(b))


def neighbour_cka(states: Sequence[Tensor]) -> Tensor:
    """Linear CKA of each representation with the next: (..., representations - 1).

    Args:
        states: Of the same rows, (..., rows, width) each, at least two.
    """
    grams = [_gram(state) for state in states]
    return torch.stack([_alignment(one, other) for one, other in pairwise(grams)], dim=-1)


def _alignment(one: Tensor, other: Tensor) -> Tensor:
    """Linear CKA (...) of two representations, from their centred Gram matrices (..., rows, rows)."""
    shared = (one * other).sum((-2, -1))
    cka: Tensor = shared / (torch.linalg.matrix_norm(one) * torch.linalg.matrix_norm(other))
    return cka


def _gram(x: Tensor) -> Tensor:
    """Inner products of the rows, columns centred (..., rows, rows)."""
    x = x.double()  # what is left after centring may be small
    x = x - x[..., :1, :]  # rows that are all the same become exactly 0
    x = x - x.mean(-2, keepdim=True)
    gram: Tensor = x @ x.mT
    return gram
