"""A lane is its solo run; a stacked classifier is its classifiers; the schedule is the paper's."""

from collections.abc import Sequence

import numpy as np
import pytest
import torch
from torch import nn

from trainables.classifier import LaneMLP
from trainables.engine import Lane, LaneResult, Settings, TrainingError, train, triangular
from trainables.methods import METHODS
from trainables.splits import make_split

SETTINGS = Settings(epochs=10, batch_size=32, hidden=(24, 16), evaluate_every_epochs=4)  # 50 steps of 5 an epoch


def items(n: int = 800, features: int = 12, classes: int = 40, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    """Clusters with a long tail: every split has "none" classes, and splits differ in their number of classes."""
    rng = np.random.default_rng(seed)
    share = 1 / np.arange(1, classes + 1)
    labels = np.sort(rng.choice(classes, n, p=share / share.sum()))
    labels = np.unique(labels, return_inverse=True)[1]
    x = rng.normal(size=(classes, features))[labels] + 0.6 * rng.normal(size=(n, features))
    return torch.tensor(x, dtype=torch.float32), torch.tensor(labels)


def lanes_of(name: str, seeds: Sequence[int], n: int = 800) -> list[Lane]:
    params = {key: parameter.default for key, parameter in METHODS[name].hyperparameters.items()}
    return [Lane(params, seed, make_split(n, 0.2, "paper", seed)) for seed in seeds]


def run(name: str, seeds: Sequence[int], settings: Settings = SETTINGS) -> list[LaneResult]:
    x, labels = items()
    training = train(x, labels, METHODS[name], lanes_of(name, seeds), settings)
    while True:
        try:
            next(training)
        except StopIteration as end:
            results: list[LaneResult] = end.value
            return results


@pytest.mark.parametrize("standardize", [False, True])
@pytest.mark.parametrize("name", METHODS)
def test_a_lane_equals_its_solo_run(name: str, standardize: bool) -> None:
    settings = Settings(**{**SETTINGS.__dict__, "standardize": standardize})
    together = run(name, [3, 4, 5], settings)
    assert len({result.metrics["n_known_classes"] for result in together}) > 1, "lanes differ in classes"
    for seed, lane in zip([3, 4, 5], together, strict=True):
        (solo,) = run(name, [seed], settings)
        np.testing.assert_allclose(lane.items.confidence, solo.items.confidence, atol=1e-5)
        np.testing.assert_array_equal(lane.items.predicted, solo.items.predicted)
        np.testing.assert_allclose(lane.curves.epoch_loss, solo.curves.epoch_loss, atol=1e-5)
        assert lane.metrics["auc_weighted"] == pytest.approx(solo.metrics["auc_weighted"], abs=1e-5)


@pytest.mark.parametrize("name", METHODS)
def test_a_run_repeats_exactly(name: str) -> None:
    first, second = run(name, [1]), run(name, [1])
    np.testing.assert_array_equal(first[0].items.confidence, second[0].items.confidence)


def test_methods_learn_and_share_their_split() -> None:
    settings = Settings(epochs=72, batch_size=32, hidden=(64, 64), evaluate_every_epochs=72)
    results = {name: run(name, [0, 1], settings)[0] for name in METHODS}
    for result in results.values():
        assert result.metrics["auc_weighted"] > 0.85
        assert result.metrics["n_none"] > 0
        np.testing.assert_array_equal(result.items.item, results["control"].items.item)
    assert not np.allclose(results["e_mixup"].items.confidence, results["control"].items.confidence, atol=1e-2)


def test_items_agree_with_the_figures() -> None:
    _, labels = items()
    (result,) = run("e_mixup", [2])
    split = make_split(800, 0.2, "paper", 2)
    known = set(labels[split.train].tolist())
    seen = result.items
    np.testing.assert_array_equal(seen.item, split.validation)
    np.testing.assert_array_equal(seen.label, labels[split.validation])
    np.testing.assert_array_equal(seen.known, [label in known for label in seen.label])
    assert set(seen.predicted.tolist()) <= known
    right = np.where(seen.confidence > 0.6, seen.predicted == seen.label, ~seen.known)
    np.testing.assert_array_equal(seen.correct, right)
    assert result.metrics["accuracy"] == pytest.approx(right.mean())
    assert result.metrics["accuracy_none"] == pytest.approx(right[~seen.known].mean())
    assert seen.auc_influence.mean() == pytest.approx(result.metrics["auc_weighted"], abs=1e-6)
    assert result.curves.epoch.tolist() == [4, 8, 10]
    assert result.curves.epoch_accuracy[-1] == pytest.approx(result.metrics["accuracy"], abs=1e-6)
    at = int(np.argmin(np.abs(result.curves.threshold - 0.6)))
    assert result.curves.threshold_accuracy[at] == pytest.approx(result.metrics["accuracy"], abs=1e-6)


def test_stacked_classifier_equals_plain_modules() -> None:
    model = LaneMLP(6, (5, 4), [3, 2], seeds=[7, 8])
    x = torch.randn(2, 9, 6, generator=torch.Generator().manual_seed(0))
    logits = model(x)
    for lane, width in enumerate([3, 2]):
        plain = nn.Sequential(nn.Linear(6, 5), nn.ReLU(), nn.Linear(5, 4), nn.ReLU(), nn.Linear(4, width))
        linears = [module for module in plain if isinstance(module, nn.Linear)]
        for layer, weight, bias in zip(linears, model.weights, model.biases, strict=True):
            layer.weight.data = weight.detach()[lane, :, : layer.out_features].T.clone()
            layer.bias.data = bias.detach()[lane, 0, : layer.out_features].clone()
            bound = layer.in_features**-0.5
            assert layer.weight.abs().max().item() <= bound
            assert layer.weight.std().item() == pytest.approx(bound / 3**0.5, rel=0.35), "uniform, as torch draws it"
        torch.testing.assert_close(logits[lane, :, :width], plain(x[lane]))
    assert (logits[1, :, 2:] == 0).all()


def test_triangular_schedule() -> None:
    rates = [triangular(step, 3e-4, 3e-3, 12) for step in (0, 6, 12, 18, 24, 36)]
    assert rates == pytest.approx([3e-4, 1.65e-3, 3e-3, 1.65e-3, 3e-4, 3e-3])


def test_a_loss_that_is_not_finite_is_named() -> None:
    x, labels = items()
    x[0, 0] = float("inf")
    lanes = [lane for lane in lanes_of("control", range(20)) if 0 in lane.split.train][:1]
    with pytest.raises(TrainingError, match=r"The loss of control .* is nan at epoch 4"):
        next(train(x, labels, METHODS["control"], lanes, SETTINGS))


def test_a_batch_larger_than_the_split_is_refused() -> None:
    x, labels = items()
    settings = Settings(epochs=1, batch_size=256)
    with pytest.raises(TrainingError, match=r"The batch \(256\) must not exceed the training items \(160\)"):
        next(train(x, labels, METHODS["control"], lanes_of("control", [0]), settings))
