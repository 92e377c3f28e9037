"""Every method's contract, and the exact meaning of the paper's."""

import numpy as np
import pytest
import torch

from trainables.methods import METHODS, Batch, MethodError, get_method, soften

LANES, ROWS, FEATURES, CLASSES = 3, 64, 20, 12


class FixedDraws:
    """Draws whose lambda is given and whose coin flips come from one seed."""

    def __init__(self, lam: float | None = None, seed: int = 0) -> None:
        self.lam, self.rng = lam, np.random.default_rng(seed)

    def bernoulli(self, probability: torch.Tensor, rows: int, columns: int) -> torch.Tensor:
        return torch.from_numpy(self.rng.random((LANES, rows, columns))) < probability

    def beta(self, alpha: torch.Tensor, rows: int) -> torch.Tensor:
        if self.lam is not None:
            return torch.full((LANES, rows, 1), self.lam)
        drawn = self.rng.beta(alpha.numpy(), alpha.numpy(), (LANES, rows, 1))
        return torch.from_numpy(drawn).float()


def make_batch(seed: int = 0) -> Batch:
    rng = torch.Generator().manual_seed(seed)
    x = torch.randn(LANES, ROWS, FEATURES, generator=rng)
    is_class = torch.ones(LANES, 1, CLASSES)
    is_class[1, :, 9:] = 0  # a narrower lane, padded
    y = torch.zeros(LANES, ROWS, CLASSES)
    labels = torch.stack([torch.randint(0, width, (ROWS,), generator=rng) for width in (12, 9, 12)])
    return Batch(x, y.scatter(2, labels[..., None], 1.0), is_class)


def defaults(name: str, **changed: float) -> dict[str, torch.Tensor]:
    values = {key: parameter.default for key, parameter in METHODS[name].hyperparameters.items()} | changed
    return {key: torch.full((LANES, 1, 1), value) for key, value in values.items()}


@pytest.mark.parametrize("name", METHODS)
def test_conformance(name: str) -> None:
    batch = make_batch()
    x, y = batch.x.clone(), batch.y.clone()
    out = METHODS[name].transform(batch, defaults(name), FixedDraws(seed=1))
    again = METHODS[name].transform(make_batch(), defaults(name), FixedDraws(seed=1))
    assert torch.equal(batch.x, x), "inputs must be left untouched"
    assert torch.equal(batch.y, y), "targets must be left untouched"
    assert out.x.shape[0] == LANES
    assert out.x.shape[1] in (ROWS, ROWS // 2)
    assert out.x.shape[2] == FEATURES
    assert out.y.shape == (*out.x.shape[:2], CLASSES)
    assert ((out.y >= 0) & (out.y <= 1)).all()
    assert (out.y[1, :, 9:] == 0).all(), "classes that pad a lane stay 0"
    assert torch.equal(out.x, again.x), "the same stream must give the same batch"
    assert torch.equal(out.y, again.y)


@pytest.mark.parametrize("name", [name for name in METHODS if "alpha" in METHODS[name].hyperparameters])
def test_small_alpha_approaches_single_items(name: str) -> None:
    batch = make_batch()
    out = METHODS[name].transform(batch, defaults(name, alpha=1e-3), FixedDraws(seed=2))
    distance = torch.cdist(out.x, batch.x, compute_mode="donot_use_mm_for_euclid_dist").amin(-1)
    assert (distance < 1e-3).float().mean() > 0.95


def test_softening_worked_example() -> None:
    # 12 classes, lambda 0.2, softness 0.05: 0.15, 0.75 and ten times 0.1 (Wolfe & Lundgaard 2019, section 2.4).
    batch = make_batch()
    y = torch.zeros(LANES, ROWS, CLASSES)
    y[:, : ROWS // 2, 0] = 1
    y[:, ROWS // 2 :, 1] = 1
    batch = Batch(batch.x, y, torch.ones(LANES, 1, CLASSES))
    for name in ("soft_e_mixup", "soft_e_stitchup"):
        out = METHODS[name].transform(batch, defaults(name), FixedDraws(lam=0.2))
        expected = torch.tensor([0.15, 0.75] + [0.1] * 10)
        torch.testing.assert_close(out.y, expected.expand_as(out.y))


def test_two_items_of_one_class_have_one_positive() -> None:
    is_class = torch.ones(1, 1, 5)
    positive = torch.tensor([[[0.0, 1, 0, 0, 0]]])
    softened = soften(positive.clone(), positive, is_class, torch.full((1, 1, 1), 0.05))
    torch.testing.assert_close(softened, torch.tensor([[[0.25, 0.95, 0.25, 0.25, 0.25]]]))


def test_softening_clamps_and_keeps_a_positive_of_weight_zero() -> None:
    # A lambda that rounds to 1 in float32 leaves the minor class 0; it is still no negative.
    is_class = torch.tensor([[[1.0, 1, 1, 1, 0]]])
    positive = torch.tensor([[[1.0, 1, 0, 0, 0]]])
    mixed = torch.tensor([[[1.0, 0, 0, 0, 0]]])
    softened = soften(mixed, positive, is_class, torch.full((1, 1, 1), 0.05))
    torch.testing.assert_close(softened, torch.tensor([[[0.95, 0, 0.5, 0.5, 0]]]))


def test_mixup_averages_the_two_halves() -> None:
    batch = make_batch()
    out = METHODS["e_mixup"].transform(batch, defaults("e_mixup"), FixedDraws(lam=0.25))
    half = ROWS // 2
    torch.testing.assert_close(out.x, 0.25 * batch.x[:, :half] + 0.75 * batch.x[:, half:])
    torch.testing.assert_close(out.y, 0.25 * batch.y[:, :half] + 0.75 * batch.y[:, half:])


def test_stitchup_takes_elements_and_keeps_lambda_in_the_target() -> None:
    batch = make_batch()
    out = METHODS["e_stitchup"].transform(batch, defaults("e_stitchup"), FixedDraws(lam=0.25))
    half = ROWS // 2
    from_a, from_b = out.x == batch.x[:, :half], out.x == batch.x[:, half:]
    assert (from_a | from_b).all()
    assert abs(float(from_a.float().mean()) - 0.25) < 0.02
    assert 0 < int((from_a.sum(-1) == 5).sum()) < LANES * half, "each element is drawn, not a fixed share"
    torch.testing.assert_close(out.y, 0.25 * batch.y[:, :half] + 0.75 * batch.y[:, half:])


def test_unknown_method_names_the_known_ones() -> None:
    with pytest.raises(MethodError, match="`mixup` is not a method; the methods are control, e_mixup"):
        get_method("mixup")
