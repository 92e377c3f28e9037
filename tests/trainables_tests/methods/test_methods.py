"""Every method's contract, and the exact meaning of the paper's."""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest
import torch
from sklearn.decomposition import PCA

from trainables.methods.deep_augmentation import project
from trainables.methods.mixing import soften
from trainables.methods.protocol import Batch
from trainables.methods.registry import METHODS, Contrastive, MethodError, canonical, get_method

LANES, ROWS, FEATURES, CLASSES = 3, 64, 20, 12


class FixedDraws:
    """Draws whose lambda is given and whose coin flips come from one seed."""

    def __init__(self, lam: float | None = None, seed: int = 0, n_lanes: int = LANES) -> None:
        self.lam, self.rng, self.n_lanes = lam, np.random.default_rng(seed), n_lanes

    def of(self, lanes: Sequence[int]) -> "FixedDraws":
        return FixedDraws(self.lam, seed=int(self.rng.integers(2**31)), n_lanes=len(lanes))

    def bernoulli(self, probability: torch.Tensor, rows: int, columns: int) -> torch.Tensor:
        return torch.from_numpy(self.rng.random((self.n_lanes, rows, columns))) < probability

    def uniform(self, rows: int, columns: int) -> torch.Tensor:
        return torch.from_numpy(self.rng.random((self.n_lanes, rows, columns))).float()

    def normal(self, rows: int, columns: int) -> torch.Tensor:
        return torch.from_numpy(self.rng.standard_normal((LANES, rows, columns))).float()

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
    deviation = x.std(1, keepdim=True)
    return Batch(x, y.scatter(2, labels[..., None], 1.0), is_class, deviation, n_hidden=2)


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
    assert out.y.shape[1] in (ROWS, ROWS // 2)
    assert out.y.shape[1] <= out.x.shape[1]
    assert out.y.shape[::2] == (LANES, CLASSES)
    if out.at_layer is not None:
        for layer in (1, 2):
            h = torch.randn(LANES, out.x.shape[1], 8)
            before = h.clone()
            assert out.at_layer(layer, h).shape == h.shape
            assert torch.equal(h, before)
    assert ((out.y >= 0) & (out.y <= 1)).all()
    assert (out.y[1, :, 9:] == 0).all(), "classes that pad a lane stay 0"
    assert torch.equal(out.x, again.x), "the same stream must give the same batch"
    assert torch.equal(out.y, again.y)
    if isinstance(METHODS[name], Contrastive):
        assert torch.equal(out.y, batch.y), "a label-free method leaves targets alone"


NEUTRAL = {
    "soft_control": None,
    "label_smoothing": {"epsilon": 0.0},
    "gaussian_noise": {"sigma": 0.0},
    "feature_corruption": {"rate": 0.0},
    "uniform_dropout": {"rate": 0.0},
    "deep_dropout": {"layer": 0, "rate": 0.0},
    "deep_pca": {"layer": 0, "components": 1000.0},
}

NEUTRAL |= {f"contrastive_{name}": values for name, values in NEUTRAL.items() if f"contrastive_{name}" in METHODS}


@pytest.mark.parametrize("name", [name for name, values in NEUTRAL.items() if values])
def test_the_limit_is_control(name: str) -> None:
    batch = make_batch()
    out = METHODS[name].transform(batch, defaults(name, **(NEUTRAL[name] or {})), FixedDraws(seed=3))
    torch.testing.assert_close(out.x, batch.x, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(out.y, batch.y)


def test_every_method_is_covered_by_a_limit() -> None:
    covered = set(NEUTRAL) | {name for name in METHODS if "alpha" in METHODS[name].hyperparameters}
    references = {name for name in METHODS if name.startswith("reference_")}  # their transform is control's
    assert covered | references | {"control", "contrastive_control"} == set(METHODS)


def test_soft_control_softens_and_mixes_nothing() -> None:
    batch = make_batch()
    out = METHODS["soft_control"].transform(batch, defaults("soft_control"), FixedDraws())
    assert torch.equal(out.x, batch.x)
    torch.testing.assert_close(out.y.amax(-1), torch.full((LANES, ROWS), 0.95))
    torch.testing.assert_close(out.y.sum(-1), torch.full((LANES, ROWS), 1.95))


def test_label_smoothing_is_uniform_over_the_lanes_classes() -> None:
    batch = make_batch()
    out = METHODS["label_smoothing"].transform(batch, defaults("label_smoothing", epsilon=0.3), FixedDraws())
    torch.testing.assert_close(out.y, 0.7 * batch.y + 0.3 * batch.is_class / batch.is_class.sum(-1, keepdim=True))


def test_gaussian_noise_is_in_units_of_deviation() -> None:
    batch = replace(make_batch(), deviation=torch.arange(FEATURES).float().expand(LANES, 1, FEATURES))
    out = METHODS["gaussian_noise"].transform(batch, defaults("gaussian_noise", sigma=0.5), FixedDraws(seed=4))
    spread = (out.x - batch.x).std((0, 1))
    torch.testing.assert_close(spread, 0.5 * torch.arange(FEATURES).float(), rtol=0.2, atol=1e-6)


def test_feature_corruption_takes_its_share_from_one_other_item() -> None:
    batch = make_batch()
    out = METHODS["feature_corruption"].transform(batch, defaults("feature_corruption"), FixedDraws(seed=5))
    changed = out.x != batch.x
    assert float(changed.float().mean()) == pytest.approx(0.2, abs=0.02)
    assert torch.equal(out.x[changed], batch.x.roll(ROWS // 2, dims=1)[changed])
    assert torch.equal(out.y, batch.y)


def test_manifold_mixup_mixes_at_one_layer_of_each_lane() -> None:
    class Layers(FixedDraws):
        def uniform(self, rows: int, columns: int) -> torch.Tensor:
            return torch.tensor([0.1, 0.5, 0.9]).view(LANES, 1, 1)  # input, hidden 1, hidden 2

    batch, half = make_batch(), ROWS // 2
    out = METHODS["manifold_mixup"].transform(batch, defaults("manifold_mixup"), Layers(lam=0.25))
    assert out.at_layer is not None
    h = torch.randn(LANES, ROWS, 8, generator=torch.Generator().manual_seed(0))
    for lane, layer in enumerate([0, 1, 2]):
        states = [batch.x, h, h]
        outs = [out.x, out.at_layer(1, h), out.at_layer(2, h)]
        for index, (before, after) in enumerate(zip(states, outs, strict=True)):
            first, second = before[lane, :half], before[lane, half:]
            expected = 0.25 * first + 0.75 * second if index == layer else first
            torch.testing.assert_close(after[lane, :half], expected)
            torch.testing.assert_close(after[lane, half:], second)
    torch.testing.assert_close(out.y, 0.25 * batch.y[:, :half] + 0.75 * batch.y[:, half:])


@pytest.mark.parametrize("name", ["deep_dropout", "deep_pca"])
def test_deep_methods_target_one_layer_and_can_stop_the_gradient(name: str) -> None:
    batch = make_batch()
    params = defaults(name)
    params["layer"] = torch.tensor([0.0, 1, 2]).view(LANES, 1, 1)
    params["stop_gradient"] = torch.tensor([0.0, 0, 1]).view(LANES, 1, 1)
    if name == "deep_pca":
        params["components"] = torch.full((LANES, 1, 1), 3.0)
    out = METHODS[name].transform(batch, params, FixedDraws(seed=6))
    assert out.at_layer is not None
    h = torch.randn(LANES, ROWS, 8, requires_grad=True)
    for layer, after, before in ((0, out.x, batch.x), (1, out.at_layer(1, h), h), (2, out.at_layer(2, h), h)):
        same = [torch.equal(after[lane], before[lane]) for lane in range(LANES)]
        assert same == [lane != layer for lane in range(LANES)]
    out.at_layer(2, h).sum().backward()
    assert h.grad is not None
    assert (h.grad[2] == 0).all(), "the lane that asked for it stops the gradient"
    assert (h.grad[:2] == 1).all()


def test_projection_equals_scikit_learn() -> None:
    h = torch.randn(LANES, ROWS, 30, generator=torch.Generator().manual_seed(1))
    out = project(h, torch.tensor([1.0, 5, 29]).view(LANES, 1, 1))
    for lane, components in enumerate([1, 5, 29]):
        pca = PCA(components, svd_solver="full").fit(h[lane].double().numpy())
        expected = pca.inverse_transform(pca.transform(h[lane].double().numpy()))
        np.testing.assert_allclose(out[lane].numpy(), expected, atol=1e-4)


@pytest.mark.parametrize("name", [name for name in METHODS if "alpha" in METHODS[name].hyperparameters])
def test_small_alpha_approaches_single_items(name: str) -> None:
    batch = make_batch()
    out = METHODS[name].transform(batch, defaults(name, alpha=1e-3), FixedDraws(seed=2))
    if name == "manifold_mixup":
        out = replace(out, x=out.x[:, : ROWS // 2])
    distance = torch.cdist(out.x, batch.x, compute_mode="donot_use_mm_for_euclid_dist").amin(-1)
    assert (distance < 1e-3).float().mean() > 0.95


def test_softening_worked_example() -> None:
    # 12 classes, lambda 0.2, softness 0.05: 0.15, 0.75 and ten times 0.1 (Wolfe & Lundgaard 2019, section 2.4).
    batch = make_batch()
    y = torch.zeros(LANES, ROWS, CLASSES)
    y[:, : ROWS // 2, 0] = 1
    y[:, ROWS // 2 :, 1] = 1
    batch = replace(batch, y=y, is_class=torch.ones(LANES, 1, CLASSES))
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


def test_contrastive_methods_are_the_label_free_ones() -> None:
    found = {name.removeprefix("contrastive_") for name, method in METHODS.items() if isinstance(method, Contrastive)}
    assert found == {
        "control", "gaussian_noise", "feature_corruption", "uniform_dropout", "deep_dropout", "deep_pca",
    }  # fmt: skip
    assert set(METHODS["contrastive_deep_pca"].hyperparameters) == {
        "layer", "components", "stop_gradient", "temperature",
    }  # fmt: skip
    with pytest.raises(MethodError, match="no targets, and `e_mixup` needs them; name one of contrastive_control"):
        get_method("contrastive_e_mixup")


@pytest.mark.parametrize("name", ["deep_dropout", "contrastive_deep_pca"])
def test_a_stop_gradient_at_the_input_is_none(name: str) -> None:
    params = {key: parameter.default for key, parameter in METHODS[name].hyperparameters.items()}
    for layer, kept in ((0.0, 0.0), (1.0, 1.0), (-1.0, 1.0)):
        given = {**params, "layer": layer, "stop_gradient": 1.0}
        assert canonical(METHODS[name], given) == {**given, "stop_gradient": kept}


def test_uniform_dropout_acts_at_every_layer() -> None:
    batch = make_batch()
    out = METHODS["uniform_dropout"].transform(batch, defaults("uniform_dropout", rate=0.4), FixedDraws(seed=1))
    assert out.at_layer is not None
    h = torch.ones(LANES, ROWS, 50)
    for kept in (out.x / batch.x, out.at_layer(1, h), out.at_layer(2, h)):
        assert sorted({round(value, 4) for value in kept.unique().tolist()}) == [0, 1.6667]
        assert float((kept > 0).float().mean()) == pytest.approx(0.6, abs=0.03)
