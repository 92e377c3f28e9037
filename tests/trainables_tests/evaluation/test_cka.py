"""Linear CKA against its definition, and what it must not depend on."""

import numpy as np
import pytest
import torch

from trainables.evaluation.cka import linear_cka, neighbour_cka


def hsic(one: np.ndarray, other: np.ndarray) -> float:
    """Hilbert-Schmidt independence criterion of two Gram matrices, entry by entry of its definition."""
    n = len(one)
    centring = np.eye(n) - np.ones((n, n)) / n
    return float(np.trace(one @ centring @ other @ centring)) / (n - 1) ** 2


def test_cka_equals_its_hsic_form() -> None:
    rng = np.random.default_rng(0)
    a = rng.normal(size=(3, 40, 7)) + 5
    b = a @ rng.normal(size=(7, 60)) + rng.normal(size=(3, 40, 60))
    found = linear_cka(torch.tensor(a, dtype=torch.float32), torch.tensor(b, dtype=torch.float32))
    for lane in range(3):
        k, m = a[lane] @ a[lane].T, b[lane] @ b[lane].T
        assert float(found[lane]) == pytest.approx(hsic(k, m) / np.sqrt(hsic(k, k) * hsic(m, m)), abs=1e-5)


def test_cka_ignores_rotation_scale_and_shift_but_no_other_map() -> None:
    rng = torch.Generator().manual_seed(0)
    a = torch.randn(50, 6, generator=rng)
    rotation = torch.linalg.qr(torch.randn(6, 6, generator=rng))[0]
    assert float(linear_cka(a, 3 * a @ rotation + 7)) == pytest.approx(1, abs=1e-5)
    assert float(linear_cka(a, a * torch.tensor([9.0, 1, 1, 1, 1, 1]))) < 0.9
    assert float(linear_cka(a, torch.randn(50, 6, generator=rng))) < 0.3
    assert torch.isnan(linear_cka(a, torch.full((50, 4), 0.1)))


def test_neighbours_are_compared_in_order() -> None:
    rng = torch.Generator().manual_seed(0)
    states = [torch.randn(2, 30, width, generator=rng) for width in (5, 8, 3)]
    found = neighbour_cka(states)
    assert found.shape == (2, 2)
    torch.testing.assert_close(found[1, 1], linear_cka(states[1][1], states[2][1]))
