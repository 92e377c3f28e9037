"""Similarity of two layers' representations of the same items."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import Tensor

# Fewer rows have no debiased similarity.
_FEWEST_ROWS = 4


def linear_cka(a: Tensor, b: Tensor) -> Tensor:
    """Compute the debiased linear centred kernel alignment of two representations of the same rows: (...).

    It is the cosine of the two U-centred Gram matrices, whose inner product is the unbiased estimator of the
    Hilbert-Schmidt independence criterion: 1 for equal representations, about 0 and sometimes below it for independent
    ones, however wide they are. It does not change if either one is rotated, shifted or scaled. NaN where one is the
    same for every row, or with fewer than four rows.

    Args:
        a: (..., rows, width).
        b: (..., rows, other width).

    References:
        Kornblith et al., "Similarity of Neural Network Representations Revisited" (2019), section 3,
        https://arxiv.org/abs/1905.00414; Song et al., "Feature Selection via Dependence Maximization" (2012), theorem
        5, https://jmlr.org/papers/v13/song12a.html, for the estimator; Nguyen, Raghu & Kornblith, "Do Wide and Deep
        Networks Learn the Same Things?" (2021), section 3.1, https://arxiv.org/abs/2010.15327, for its use in CKA;
        Székely & Rizzo, "Partial Distance Correlation with Methods for Dissimilarities" (2014),
        https://arxiv.org/abs/1310.2926, for U-centring.
    """
    return _alignment(_gram(a), _gram(b))


def neighbour_cka(states: Sequence[Tensor]) -> Tensor:
    """Compute the debiased linear CKA of each representation with the next: (..., representations - 1).

    Args:
        states: At least two representations of the same rows, (..., rows, width) each.
    """
    grams = [_gram(state) for state in states]
    return torch.stack([_alignment(one, other) for one, other in pairwise(grams)], dim=-1)


def _alignment(one: Tensor, other: Tensor) -> Tensor:
    """Compute the cosine (...) of the U-centred Gram matrices (..., rows, rows) of two representations."""
    shared = (one * other).sum((-2, -1))
    cka: Tensor = shared / (torch.linalg.matrix_norm(one) * torch.linalg.matrix_norm(other))
    return cka


def _gram(x: Tensor) -> Tensor:
    """Compute the U-centred inner products (..., rows, rows) of the rows: a row sums to 0, its diagonal is 0."""
    n = x.shape[-2]
    if n < _FEWEST_ROWS:
        return x.new_full((*x.shape[:-2], n, n), torch.nan, dtype=torch.float64)
    x = x.double()  # the values can be small after centring
    x = x - x[..., :1, :]  # rows that are all the same become exactly 0
    x = x - x.mean(-2, keepdim=True)
    itself = torch.eye(n, dtype=torch.bool, device=x.device)
    gram = (x @ x.mT).masked_fill(itself, 0)
    rows = gram.sum(-1, keepdim=True) / (n - 2)
    total = gram.sum((-2, -1), keepdim=True) / ((n - 1) * (n - 2))
    return (gram - rows - rows.mT + total).masked_fill(itself, 0)
