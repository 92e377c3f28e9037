"""Linear CKA against its definition, and what it must not depend on."""

import numpy as np
import pytest
import torch

from trainables.evaluation.cka import linear_cka, neighbour_cka


def hsic(one: np.ndarray, other: np.ndarray) -> float:
    """The unbiased estimator of Song et al. (2012), equation 4, term by term."""
    n = len(one)
    k, m = one - np.diag(np.diag(one)), other - np.diag(np.diag(other))
    ones = np.ones(n)
    terms = np.trace(k @ m) + (ones @ k @ ones) * (ones @ m @ ones) / ((n - 1) * (n - 2))
    return float(terms - 2 / (n - 2) * (ones @ k @ m @ ones)) / (n * (n - 3))


@pytest.mark.parametrize("n", [4, 40])
def test_cka_equals_its_hsic_form(n: int) -> None:
    rng = np.random.default_rng(0)
    a = rng.normal(size=(3, n, 7)) + 5
    b = a @ rng.normal(size=(7, 60)) + rng.normal(size=(3, n, 60))
    found = linear_cka(torch.tensor(a, dtype=torch.float32), torch.tensor(b, dtype=torch.float32))
    for lane in range(3):
        k, m = a[lane] @ a[lane].T, b[lane] @ b[lane].T
        assert float(found[lane]) == pytest.approx(hsic(k, m) / np.sqrt(hsic(k, k) * hsic(m, m)), abs=1e-5)


def test_independent_layers_have_none_and_equal_ones_have_one() -> None:
    """The input and a hidden layer of the paper, on the 512 items that layers are compared on."""
    rng = torch.Generator().manual_seed(0)
    wide, narrow = torch.randn(512, 4864, generator=rng), torch.randn(512, 250, generator=rng)
    assert abs(float(linear_cka(wide, narrow))) < 0.02
    assert float(linear_cka(wide, wide)) == pytest.approx(1, abs=1e-12)


@pytest.mark.parametrize("n", [1, 2, 3])
def test_fewer_than_four_rows_have_no_cka(n: int) -> None:
    rng = torch.Generator().manual_seed(0)
    a = torch.randn(2, n, 5, generator=rng)
    assert neighbour_cka([a, a, a]).isnan().all()


def test_cka_ignores_rotation_scale_and_shift_but_no_other_map() -> None:
    rng = torch.Generator().manual_seed(0)
    a = torch.randn(50, 6, generator=rng)
    rotation = torch.linalg.qr(torch.randn(6, 6, generator=rng))[0]
    assert float(linear_cka(a, 3 * a @ rotation + 7)) == pytest.approx(1, abs=1e-5)
    assert float(linear_cka(a, a * torch.tensor([9.0, 1, 1, 1, 1, 1]))) < 0.9
    assert float(linear_cka(a, torch.randn(50, 6, generator=rng))) < 0.1
    assert torch.isnan(linear_cka(a, torch.full((50, 4), 0.1)))


def test_neighbours_are_compared_in_order() -> None:
    rng = torch.Generator().manual_seed(0)
    states = [torch.randn(2, 30, width, generator=rng) for width in (5, 8, 3)]
    found = neighbour_cka(states)
    assert found.shape == (2, 2)
    torch.testing.assert_close(found[1, 1], linear_cka(states[1][1], states[2][1]))
