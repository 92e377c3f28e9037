"""Contrastive trials: the loss is NT-Xent, a lane is its solo run, and pretraining does what it is for."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch.nn.functional import normalize

from tests.trainables_tests.training.test_engine import SETTINGS, assert_equal_lanes, finish, items, lanes_of, run
from trainables.methods.registry import METHODS, Contrastive
from trainables.packs.single import finish_training
from trainables.records.types import AUTO
from trainables.training.contrastive import ContrastiveStack, nt_xent
from trainables.training.engine import Training
from trainables.training.pretraining import PROBED, ContrastiveTraining
from trainables.training.protocol import LaneFailure, LaneResult, PackInputs, TrainingError
from trainables.training.settings import HoldOut, LearningRate, Pretraining, Settings
from trainables.training.start import start_lockstep, start_training

CONTRASTIVE = [name for name, method in METHODS.items() if isinstance(method, Contrastive)]


def slow_nt_xent(a: np.ndarray, b: np.ndarray, temperature: float) -> float:
    """View by view, as the paper writes it."""
    views = [*a, *b]
    n = len(a)

    def similarity(i: int, k: int) -> float:
        return float(views[i] @ views[k] / np.linalg.norm(views[i]) / np.linalg.norm(views[k]))

    losses = []
    for i in range(2 * n):
        others = sum(np.exp(similarity(i, k) / temperature) for k in range(2 * n) if k != i)
        losses.append(-np.log(np.exp(similarity(i, (i + n) % (2 * n)) / temperature) / others))
    return float(np.mean(losses))


def test_nt_xent_equals_a_loop() -> None:
    rng = torch.Generator().manual_seed(0)
    a, b = (torch.randn(2, 5, 7, generator=rng) for _ in range(2))
    temperature = torch.tensor([0.1, 0.7]).view(2, 1, 1)
    found = nt_xent(a, b, temperature)
    for lane in range(2):
        slow = slow_nt_xent(a[lane].double().numpy(), b[lane].double().numpy(), float(temperature[lane]))
        assert float(found[lane]) == pytest.approx(slow, rel=1e-5)


@pytest.mark.parametrize("name", [*CONTRASTIVE, "auto", "contrastive_auto"])
def test_a_lane_equals_its_solo_run(name: str) -> None:
    """Every figure, whatever the company; with `auto` too, where lanes of a pack target different layers."""
    settings = replace(SETTINGS, hidden=(24, 24), residual=True, standardize=True)
    x, labels = items()
    lanes = lanes_of(name.replace("auto", "deep_dropout"), [3, 4, 5])
    if name.endswith("auto"):
        lanes = [replace(lane, params={**lane.params, "layer": AUTO}) for lane in lanes]
    together = finish(start_lockstep(PackInputs(x, labels, lanes, settings)))
    for lane, result in zip(lanes, together, strict=True):
        (solo,) = finish(start_lockstep(PackInputs(x, labels, [lane], settings)))
        assert_equal_lanes(result, solo)
        np.testing.assert_allclose(result.curves.epoch_cka, solo.curves.epoch_cka, atol=1e-4)
        for figure in (*(f"probe_{one}" for one in PROBED), "layer_targeted"):
            assert result.metrics.get(figure) == pytest.approx(solo.metrics.get(figure), abs=1e-4), figure


def test_lanes_that_target_different_layers_do_not_share_draws() -> None:
    x, labels = items()
    lanes = lanes_of("deep_dropout", [0, 1, 2])
    lanes = [replace(lane, params={**lane.params, "layer": float(layer)}) for layer, lane in enumerate(lanes)]
    for lane, result in zip(lanes, finish(Training(PackInputs(x, labels, lanes, SETTINGS))), strict=True):
        assert_equal_lanes(result, finish(Training(PackInputs(x, labels, [lane], SETTINGS)))[0])


def test_a_result_tells_pretraining_and_classifier() -> None:
    (result,) = run("contrastive_deep_dropout", [0])
    curves, metrics = result.curves, result.metrics
    assert curves.epoch.tolist() == [4, 8, 10, 14, 18, 20]
    assert np.isfinite(curves.epoch_loss).all()
    assert np.isnan(curves.epoch_accuracy).tolist() == [True] * 3 + [False] * 3
    assert curves.epoch_cka.shape == (6, 3), "input, two hidden layers, output"
    assert np.isfinite(curves.epoch_cka[:3]).all()
    assert np.isnan(curves.epoch_cka[3:]).all()
    assert [metrics[f"cka_{layer}"] for layer in range(3)] == pytest.approx(curves.epoch_cka[2].tolist())
    assert metrics["epochs"] == 20
    assert metrics["probe_auc_weighted"] != metrics["auc_weighted"]
    (supervised,) = run("deep_dropout", [0])
    assert supervised.curves.epoch_cka.shape == (3, 3)
    np.testing.assert_array_equal(result.items.item, supervised.items.item)


def test_pretraining_sees_no_label_and_no_validation_item() -> None:
    x, labels = items()
    lanes = lanes_of("contrastive_deep_dropout", [0, 1])
    spoilt = x.clone()
    spoilt[np.setdiff1d(np.arange(len(x)), np.concatenate([lane.split.train for lane in lanes]))] = torch.nan
    runs = []
    for embeddings, classes in ((x, labels), (spoilt, labels.flip(0))):
        training = ContrastiveTraining(PackInputs(embeddings, classes, lanes, SETTINGS))
        training.advance()
        runs.append([training._stack.weights(lane) for lane in range(2)])
    torch.testing.assert_close(runs[0], runs[1], rtol=0, atol=0)


@pytest.mark.parametrize("name", ["contrastive_gaussian_noise", "contrastive_deep_dropout"])
def test_pretraining_aligns_views_and_tells_items_apart(name: str) -> None:
    """The loss falls, views of one item come together, and they come closer than those of different items."""
    settings = Settings(
        batch_size=32,
        hidden=(48, 48),
        residual=True,
        pretraining=Pretraining(projection=32),
        learning_rate=LearningRate(step_size_epochs=6),
    )
    x, _ = items()
    stack = ContrastiveStack(x, lanes_of(name, [0, 1]), 5, settings)

    def alignment() -> torch.Tensor:
        x = stack._inputs(torch.stack(stack._train))
        noisy = x + 0.3 * stack._deviation * torch.randn(x.shape, generator=torch.Generator().manual_seed(0))
        a, b = (normalize(stack.model(view), dim=-1) for view in (x, noisy))
        similarity = a @ b.mT
        own = similarity.diagonal(dim1=1, dim2=2).mean(1)
        return own - similarity.mean((1, 2))

    with torch.no_grad():
        before = alignment()
    losses = []
    for _ in range(6):
        stack.train(4)
        losses.append(stack.mean_loss())
    with torch.no_grad():
        after = alignment()
    assert (np.array(losses[-1]) < 0.8 * np.array(losses[0])).all()
    assert (after > before + 0.3).all()


def test_the_trunk_is_frozen_and_stays_as_pretraining_left_it() -> None:
    x, labels = items()
    training = ContrastiveTraining(PackInputs(x, labels, lanes_of("contrastive_control", [0, 1]), SETTINGS))
    while not training.stacks:
        training.advance()
    left = [layer.weight for layer in training._stack.model.layers(1)[:2]]
    (stack,) = training.stacks
    finish(training)
    torch.testing.assert_close([layer.weight for layer in stack.layers(1)[:2]], left, rtol=0, atol=0)
    assert [layer.weight.shape[0] for layer in stack.layers(1)] == [12, 24, 16, 16]


@pytest.mark.parametrize("name", ["control", "contrastive_control"])
def test_auto_targets_the_layer_most_like_the_next(name: str) -> None:
    x, labels = items()
    (scout,) = run(name, [1])
    expected = int(np.argmax([scout.metrics[f"cka_{layer}"] for layer in range(3)]))
    method = "deep_pca" if name == "control" else "contrastive_deep_pca"
    (lane,) = lanes_of(method, [1])
    chosen = replace(lane, params={**lane.params, "layer": AUTO, "components": 5.0})
    fixed = replace(lane, params={**lane.params, "layer": float(expected), "components": 5.0})
    (auto,) = finish(start_lockstep(PackInputs(x, labels, [chosen], SETTINGS)))
    (plain,) = finish(start_lockstep(PackInputs(x, labels, [fixed], SETTINGS)))
    assert auto.metrics["layer_targeted"] == expected
    assert_equal_lanes(auto, plain)
    assert auto.device_s > plain.device_s / 2
    assert "layer_targeted" not in plain.metrics


@pytest.mark.parametrize("method", ["deep_dropout", "contrastive_deep_dropout"])
def test_where_every_scout_diverges_its_reason_is_told(method: str) -> None:
    x, labels = items()
    lanes = [replace(lane, params={**lane.params, "layer": AUTO}) for lane in lanes_of(method, [1, 2])]
    training = start_lockstep(PackInputs(x * math.nan, labels, lanes, SETTINGS))
    while not training.finished:
        training.advance()
    results = training.results()
    assert all(isinstance(result, LaneFailure) for result in results)
    assert all(
        "without augmentation, the loss" in result.reason for result in results if isinstance(result, LaneFailure)
    )


def test_an_auto_lane_of_one_evaluation_can_be_exported() -> None:
    x, labels = items()
    (lane,) = lanes_of("deep_dropout", [1])
    settings = replace(SETTINGS, evaluate_every_epochs=SETTINGS.epochs)
    training = start_lockstep(PackInputs(x, labels, [replace(lane, params={**lane.params, "layer": AUTO})], settings))
    trained = finish_training(training, "cpu")
    assert trained.result.metrics["layer_targeted"] in (0, 1, 2)
    assert len(trained.weights) == len(settings.hidden) + 1


@pytest.mark.parametrize("layer", [1.0, AUTO])
@pytest.mark.parametrize("method", ["deep_dropout", "contrastive_deep_dropout"])
def test_a_lane_that_diverges_fails_alone(method: str, layer: float) -> None:
    x, labels = items()
    lanes = [replace(lane, params={**lane.params, "layer": layer}) for lane in lanes_of(method, [0, 1])]
    # NT-Xent looks at directions alone and survives much: weights must leave the range of numbers.
    lanes[0] = replace(lanes[0], params={**lanes[0].params, "learning_rate_low": 1e38})
    training = start_lockstep(PackInputs(x, labels, lanes, SETTINGS))
    while not training.finished:
        training.advance()
    failed, other = training.results()
    assert isinstance(failed, LaneFailure)
    assert " is nan by epoch" in failed.reason
    assert isinstance(other, LaneResult)
    (solo,) = finish(start_lockstep(PackInputs(x, labels, [lanes[1]], SETTINGS)))
    assert_equal_lanes(other, solo)


@pytest.mark.parametrize("n_before", [1, 4])
def test_lanes_that_leave_change_nothing_for_the_rest(n_before: int) -> None:
    """While pretraining, and after it."""
    x, labels = items()
    training = start_lockstep(PackInputs(x, labels, lanes_of("contrastive_deep_dropout", [0, 1, 2]), SETTINGS))
    for _ in range(n_before):
        training.advance()
    training.stop([0])
    evaluation = training.advance()
    assert np.isnan(evaluation.loss).tolist() == [True, False, False]
    while not training.finished:
        training.advance()
    results = training.results()
    assert results[0] is None
    for seed in (1, 2):
        left = results[seed]
        assert isinstance(left, LaneResult)
        assert_equal_lanes(left, run("contrastive_deep_dropout", [seed])[0])


def test_early_stopping_stops_the_classifier_and_the_probe() -> None:
    settings = replace(
        SETTINGS, epochs=100, evaluate_every_epochs=5, early_stopping=HoldOut(0.25, patience=2),
        learning_rate=replace(SETTINGS.learning_rate, high=1e-1),
    )  # fmt: skip
    together = run("contrastive_gaussian_noise", [0, 1, 2], settings)
    assert min(result.metrics["epochs"] for result in together) < 110, "a classifier overfits within 100 epochs"
    for seed, result in enumerate(together):
        assert result.metrics["n_train"] == 120, "a quarter is held out"
        assert result.curves.epoch[-1] == result.metrics["epochs"]
        assert_equal_lanes(result, run("contrastive_gaussian_noise", [seed], settings)[0])


def test_a_pack_is_of_one_contrastive_method() -> None:
    x, labels = items()
    lanes = [*lanes_of("contrastive_control", [0]), *lanes_of("control", [1])]
    with pytest.raises(TrainingError, match="without lanes of other methods, got contrastive_control, control"):
        start_training(PackInputs(x, labels, lanes, SETTINGS))
    with pytest.raises(TrainingError, match=r"The batch \(256\)"):
        start_training(PackInputs(x, labels, lanes[:1], Settings(epochs=1, batch_size=256)))
