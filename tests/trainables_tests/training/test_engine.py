"""A lane is its solo run; a stacked classifier is its classifiers; the schedule is the paper's."""

from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np
import numpy.typing as npt
import pytest
import torch
from sklearn.metrics import roc_auc_score
from torch import nn

from tests.trainables_tests.random_split import random_split
from trainables.methods.protocol import Augmentation, Batch, Draws
from trainables.methods.references import Reference
from trainables.methods.registry import METHODS, Contrastive
from trainables.records.types import Design, SplitId
from trainables.sampling.splits import Split, SplitItems, SplitRules, split_of
from trainables.sampling.streams import stream
from trainables.training.contrastive import ContrastiveStack
from trainables.training.engine import Training
from trainables.training.model import LaneMLP
from trainables.training.protocol import LaneFailure, LaneResult, LaneTraining, PackInputs, TrainingError, ready
from trainables.training.settings import HoldOut, Lane, Pretraining, Settings
from trainables.training.stack import repeated_order, triangular
from trainables.training.start import start_lockstep, start_training
from trainables.training.supervised import SupervisedStack, balanced_order

SETTINGS = Settings(  # 50 steps of 5 an epoch
    epochs=10,
    batch_size=32,
    hidden=(24, 16),
    evaluate_every_epochs=4,
    pretraining=Pretraining(epochs=10, projection=12, classifier_hidden=(16,)),
)

TRAINED = [name for name, method in METHODS.items() if not isinstance(method, Reference)]
SUPERVISED = [name for name in TRAINED if not isinstance(METHODS[name], Contrastive)]


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
    return [Lane(METHODS[name], params, seed, random_split(n, 0.2, seed)) for seed in seeds]


def finish(training: LaneTraining) -> list[LaneResult]:
    while not training.finished:
        training.advance()
    results = training.results()
    assert all(isinstance(result, LaneResult) for result in results), results
    return [result for result in results if isinstance(result, LaneResult)]


def run(name: str, seeds: Sequence[int], settings: Settings = SETTINGS) -> list[LaneResult]:
    x, labels = items()
    return finish(start_lockstep(PackInputs(x, labels, lanes_of(name, seeds), settings)))


def assert_equal_lanes(one: LaneResult, other: LaneResult) -> None:
    np.testing.assert_allclose(one.items.confidence, other.items.confidence, atol=1e-5)
    np.testing.assert_array_equal(one.items.predicted, other.items.predicted)
    np.testing.assert_allclose(one.curves.epoch_loss, other.curves.epoch_loss, atol=1e-5)
    assert one.metrics["auc_weighted"] == pytest.approx(other.metrics["auc_weighted"], abs=1e-5)


@pytest.mark.parametrize("standardize", [False, True])
@pytest.mark.parametrize("name", SUPERVISED)
def test_a_lane_equals_its_solo_run(name: str, standardize: bool) -> None:
    """Same parameters after 50 steps, whatever the company."""
    settings = replace(SETTINGS, standardize=standardize)
    x, labels = items()
    together = Training(PackInputs(x, labels, lanes_of(name, [3, 4, 5]), settings))
    (_, stack) = together._stacks[0]
    together.advance()
    together.advance()
    stack.train(2)
    assert stack.n_steps == 50
    for place, seed in enumerate([3, 4, 5]):
        solo = Training(PackInputs(x, labels, lanes_of(name, [seed]), settings))
        (_, alone) = solo._stacks[0]
        alone.train(10)
        assert len(alone.known[0]) == len(stack.known[place])
        for stacked, own in zip(stack.weights(place), alone.weights(0), strict=True):
            narrowed = stacked[..., : own.shape[-1]]
            torch.testing.assert_close(narrowed, own, atol=1e-5, rtol=0)
    assert len({len(known) for known in stack.known}) > 1, "lanes differ in classes"


@pytest.mark.parametrize("name", TRAINED)
def test_bfloat16_changes_products_and_little_else(name: str) -> None:
    results = {
        precision: run(name, [3, 4], replace(SETTINGS, precision=precision)) for precision in ("float32", "bfloat16")
    }
    for exact, coarse in zip(results["float32"], results["bfloat16"], strict=True):
        assert not np.array_equal(exact.curves.epoch_loss, coarse.curves.epoch_loss)
        np.testing.assert_allclose(exact.curves.epoch_loss, coarse.curves.epoch_loss, rtol=0.02)
        assert coarse.metrics["auc_weighted"] == pytest.approx(exact.metrics["auc_weighted"], abs=0.02)
        # Predictions are not rounded to the 8 bits of bfloat16, which would make ties.
        assert len(np.unique(coarse.items.logit)) > 0.95 * len(np.unique(exact.items.logit))


def test_tf32_ends_with_training() -> None:
    seen = []
    x, labels = items()

    def watch(batch: Batch, params: Mapping[str, torch.Tensor], draws: Draws) -> Batch:
        seen.append(torch.backends.cuda.matmul.allow_tf32)
        return batch

    for precision in ("tf32", "float32"):
        lane = replace(lanes_of("control", [3])[0], method=Augmentation("control", watch))
        finish(Training(PackInputs(x, labels, [lane], replace(SETTINGS, epochs=1, precision=precision))))
        assert not torch.backends.cuda.matmul.allow_tf32
    assert seen == [True] * 5 + [False] * 5


def test_a_pack_mixes_candidates_methods_and_settings() -> None:
    """Different alphas, methods, learning rates, weight decays and dropouts side by side: each as if alone."""
    x, labels = items()
    variants = [
        ("e_mixup", {"alpha": 0.1}),
        ("control", {}),
        ("e_mixup", {"alpha": 0.9, "learning_rate_high": 1e-2, "weight_decay": 0.1}),
        ("soft_e_stitchup", {"alpha": 0.3, "softness": 0.2}),
        ("e_mixup", {"alpha": 0.1, "dropout": 0.0}),
        ("soft_e_stitchup", {"alpha": 0.3, "softness": 0.0}),
    ]
    lanes = [
        Lane(METHODS[name], params, seed, random_split(800, 0.2, seed)) for seed, (name, params) in enumerate(variants)
    ]
    together = finish(Training(PackInputs(x, labels, lanes, SETTINGS)))
    for lane, result in zip(lanes, together, strict=True):
        (solo,) = finish(Training(PackInputs(x, labels, [lane], SETTINGS)))
        assert_equal_lanes(result, solo)
    plain = finish(Training(PackInputs(x, labels, [replace(lanes[2], params={"alpha": 0.9})], SETTINGS)))
    assert not np.allclose(plain[0].items.confidence, together[2].items.confidence, atol=1e-3)


@pytest.mark.parametrize("hidden", [(), (16,), (16, 12), (16, 12, 8)])
def test_manifold_mixup_mixes_states_in_every_step_in_which_it_mixes_targets(hidden: tuple[int, ...]) -> None:
    """At a layer that the model has: the input, or one of its first two hidden layers."""
    mixed: list[list[list[int]]] = []  # of each step and lane, the layers whose states were mixed

    def watch(batch: Batch, params: Mapping[str, torch.Tensor], draws: Draws) -> Batch:
        out = METHODS["manifold_mixup"].transform(batch, params, draws)
        mixed.append([[] for _ in out.x])

        def note(layer: int, h: torch.Tensor, changed: torch.Tensor) -> torch.Tensor:
            for lane, (before, after) in enumerate(zip(h, changed, strict=True)):
                if not torch.equal(before, after):
                    mixed[-1][lane].append(layer)
            return changed

        def at_layer(layer: int, h: torch.Tensor) -> torch.Tensor:
            assert out.at_layer is not None
            return note(layer, h, out.at_layer(layer, h))

        return replace(out, x=note(0, batch.x, out.x), at_layer=at_layer)

    x, labels = items()
    lanes = [
        replace(lane, method=Augmentation("watched", watch, METHODS["manifold_mixup"].hyperparameters))
        for lane in lanes_of("manifold_mixup", [3, 4])
    ]
    finish(Training(PackInputs(x, labels, lanes, replace(SETTINGS, hidden=hidden))))
    assert len(mixed) == 50
    chosen = [layers for step in mixed for layers in step]
    assert {len(layers) for layers in chosen} == {1}
    assert {layer for (layer,) in chosen} == set(range(1 + min(2, len(hidden))))


def test_lanes_that_leave_change_nothing_for_the_rest() -> None:
    x, labels = items()
    training = Training(PackInputs(x, labels, lanes_of("soft_e_mixup", range(4)), SETTINGS))
    training.advance()
    training.stop([0, 2])
    evaluation = training.advance()
    assert np.isnan(evaluation.accuracy).tolist() == [True, False, True, False]
    training.advance()
    results = training.results()
    assert results[0] is None
    assert results[2] is None
    for seed in (1, 3):
        (solo,) = run("soft_e_mixup", [seed])
        left = results[seed]
        assert isinstance(left, LaneResult)
        assert_equal_lanes(left, solo)


def test_early_stopping_keeps_the_best_weights() -> None:
    settings = replace(
        SETTINGS, epochs=200, evaluate_every_epochs=5, early_stopping=HoldOut(0.25, patience=2),
        learning_rate=replace(SETTINGS.learning_rate, high=3e-2),
    )  # fmt: skip
    together = run("control", [0, 1, 2], settings)
    epochs = [result.metrics["epochs"] for result in together]
    assert max(epochs) < 200, "every lane overfits within 200 epochs"
    for seed, result in zip([0, 1, 2], together, strict=True):
        assert result.curves.epoch[-1] == result.metrics["epochs"]
        assert result.metrics["n_train"] == 120, "a quarter is held out"
        (solo,) = run("control", [seed], settings)
        assert_equal_lanes(result, solo)
        # The weights are those of two evaluations before the end.
        (short,) = run("control", [seed], replace(settings, epochs=int(result.metrics["epochs"]) - 10))
        np.testing.assert_allclose(result.items.confidence, short.items.confidence, atol=1e-6)


def test_early_stopping_holds_out_whole_groups_or_refuses() -> None:
    x, labels = items()
    settings = replace(SETTINGS, early_stopping=HoldOut(0.1))

    def inputs(groups: npt.NDArray[np.int64]) -> PackInputs:
        split = split_of(SplitItems(labels.numpy(), groups), SplitRules(Design.FOLDS, 0.8), SplitId(0))
        return PackInputs(x, labels, [Lane(METHODS["control"], {}, 0, split)], settings)

    groups = np.arange(800) // 7
    (progress,), _ = ready(inputs(groups))
    kept, held_out = progress.lane.split.train, progress.held_out
    assert not np.intersect1d(groups[kept], groups[held_out]).size
    assert len(held_out) == pytest.approx(64, abs=7)
    with pytest.raises(TrainingError, match=r"Early stopping holds out no item: .* smaller groups"):
        ready(inputs(np.arange(800) // 270))


@pytest.mark.parametrize(
    ("n_items", "batch_size"), [(2, 2), (3, 2), (4, 4), (5, 2), (5, 4), (7, 4), (9, 4), (16, 16), (17, 16), (21, 16)]
)
def test_the_items_of_a_batch_differ_where_a_split_has_few(n_items: int, batch_size: int) -> None:
    n_used, pairs = 12 * batch_size, np.zeros((n_items, n_items))
    for epoch in range(300):
        order = repeated_order(stream(3, "order", epoch), n_items, n_used, batch_size)
        for batch in order.reshape(-1, batch_size):
            assert len(set(batch)) == batch_size
            pairs[batch[: batch_size // 2], batch[batch_size // 2 :]] += 1
        counts = np.bincount(order, minlength=n_items)
        assert counts.max() - counts.min() <= 1
    assert pairs.diagonal().sum() == 0
    others = pairs[~np.eye(n_items, dtype=bool)]
    assert others == pytest.approx(others.mean(), abs=6 * others.mean() ** 0.5), "every pair is as likely"


@pytest.mark.parametrize("name", ["e_mixup", "contrastive_feature_corruption"])
def test_no_batch_of_a_training_holds_an_item_twice(name: str) -> None:
    x, labels = items()
    lanes = [
        replace(lane, split=Split(lane.split.train[:n], lane.split.validation))
        for n, lane in zip((8, 11), lanes_of(name, [3, 4]), strict=True)
    ]
    stack = (
        ContrastiveStack(x, lanes, 7, replace(SETTINGS, batch_size=8))
        if "contrastive" in name
        else SupervisedStack(x, labels, lanes, 7, replace(SETTINGS, batch_size=8))
    )
    for _ in range(20):
        for lane in stack._epoch_items().view(2, 7, 8):
            assert all(len(batch.unique()) == 8 for batch in lane)
        stack.train(1)


def test_class_balanced_sampling_draws_classes_equally() -> None:
    classes = np.repeat([0, 1, 2], [900, 90, 10])
    drawn = balanced_order(np.random.default_rng(0), classes, 30_000, 100)
    np.testing.assert_allclose(np.bincount(classes[drawn]) / 30_000, 1 / 3, atol=0.02)
    pairs = drawn.reshape(-1, 2, 50)
    assert (pairs[:, 0] != pairs[:, 1]).all()
    (balanced,) = run("e_mixup", [0], replace(SETTINGS, class_balanced=True))
    (plain,) = run("e_mixup", [0])
    assert not np.allclose(balanced.items.confidence, plain.items.confidence, atol=1e-3)


@pytest.mark.parametrize("name", METHODS)
def test_a_run_repeats_exactly(name: str) -> None:
    first, second = run(name, [1]), run(name, [1])
    np.testing.assert_array_equal(first[0].items.confidence, second[0].items.confidence)


def test_methods_learn_and_share_their_split() -> None:
    settings = Settings(epochs=72, batch_size=32, hidden=(64, 64), evaluate_every_epochs=72)
    results = {name: run(name, [0, 1], settings)[0] for name in SUPERVISED}
    for name, result in results.items():
        assert result.metrics["auc_weighted"] > 0.85, name
        assert result.metrics["n_none"] > 0
        np.testing.assert_array_equal(result.items.item, results["control"].items.item)
    assert not np.allclose(results["e_mixup"].items.confidence, results["control"].items.confidence, atol=1e-2)


def test_items_agree_with_the_figures() -> None:
    _, labels = items()
    (result,) = run("e_mixup", [2])
    split = random_split(800, 0.2, 2)
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
    assert result.curves.epoch_auc_weighted[-1] == np.float32(result.metrics["auc_weighted"])
    at = int(np.argmin(np.abs(result.curves.threshold - 0.6)))
    assert result.curves.threshold_accuracy[at] == pytest.approx(result.metrics["accuracy"], abs=1e-6)


@pytest.mark.parametrize("name", ["control", "contrastive_control"])
def test_each_evaluation_of_a_search_gives_the_figure_that_its_end_would(name: str) -> None:
    x, labels = items()
    lanes = lanes_of(name, [2])
    training = start_training(PackInputs(x, labels, lanes, SETTINGS, searches=True))
    seen = {}
    while not training.finished:
        evaluation = training.advance()
        if evaluation.epoch == 4 or np.isfinite(evaluation.auc_weighted[0]):
            seen[evaluation.epoch] = evaluation.auc_weighted[0]
    (ranked,), (unranked,) = training.results(), finish(start_training(PackInputs(x, labels, lanes, SETTINGS)))
    curve = dict(zip(ranked.curves.epoch.tolist(), ranked.curves.epoch_auc_weighted, strict=True))
    for epoch, value in seen.items():
        np.testing.assert_equal(curve[epoch], np.float32(value))
    assert ranked.metrics["auc_weighted"] == unranked.metrics["auc_weighted"]
    assert ranked.curves.epoch_auc_weighted[-1] == np.float32(ranked.metrics["auc_weighted"])
    assert np.isnan(unranked.curves.epoch_auc_weighted[:-1]).all()
    if name == "control":  # a training that ends at epoch 4 ends with what was seen there
        (short,) = finish(start_training(PackInputs(x, labels, lanes, replace(SETTINGS, epochs=4))))
        assert seen[4] == short.metrics["auc_weighted"]
    else:
        assert np.isnan(seen[4]), "while hidden layers are pretrained, there is nothing to rank by"


def test_an_overconfident_classifier_is_ranked_as_its_figures_say() -> None:
    """Many confidences of these items are 1 in float32; the record's logits still rank them."""
    x, labels = items()
    settings = replace(SETTINGS, epochs=40, dropout=0)
    (result,) = finish(start_lockstep(PackInputs(1000 * x, labels, lanes_of("control", [3]), settings)))
    seen = result.items
    rounded = seen.confidence.astype(np.float32)
    assert (rounded == 1).mean() > 0.01
    auroc = roc_auc_score(~seen.known, -seen.logit)
    assert auroc == pytest.approx(result.metrics["ood_auroc"], abs=1e-6)
    assert roc_auc_score(~seen.known, -rounded) != pytest.approx(auroc, abs=1e-6)


def test_stacked_classifier_equals_plain_modules() -> None:
    model = LaneMLP(6, (5, 4), [3, 2], seeds=[7, 8], n_residual=2)  # no two neighbours are equally wide
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


def test_a_lane_that_diverges_fails_alone() -> None:
    x, labels = items()
    lanes = lanes_of("e_mixup", [0, 1, 2])
    lanes[1] = replace(lanes[1], params={**lanes[1].params, "learning_rate_low": 1e30})
    training = Training(PackInputs(x, labels, lanes, SETTINGS))
    while not training.finished:
        training.advance()
    failed = training.results()[1]
    assert isinstance(failed, LaneFailure)
    assert "the loss of e_mixup" in failed.reason
    assert " is nan by epoch 4; lower the learning rate" in failed.reason
    for seed in (0, 2):
        result = training.results()[seed]
        assert isinstance(result, LaneResult)
        assert_equal_lanes(result, run("e_mixup", [seed])[0])


def test_a_batch_larger_than_the_split_is_refused() -> None:
    x, labels = items()
    settings = Settings(epochs=1, batch_size=256)
    with pytest.raises(TrainingError, match=r"The batch \(256\) must not exceed the 160 training items of the split"):
        Training(PackInputs(x, labels, lanes_of("control", [0]), settings))
    with pytest.raises(TrainingError, match="at least one lane"):
        Training(PackInputs(x, labels, [], settings))
