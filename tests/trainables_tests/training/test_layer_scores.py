"""The scores on layers in a trial's result: on its own layers, as a plain model computes them, and once a split."""

from dataclasses import replace

import numpy as np
import pytest
from sklearn.metrics import roc_auc_score
from sklearn.neighbors import NearestNeighbors
from sklearn.preprocessing import normalize

from tests.trainables_tests.training.test_engine import SETTINGS, finish, items, lanes_of
from trainables.packs.single import TrainedLane, finish_training
from trainables.records.types import LAYER_SCORES, LOGIT_SCORES
from trainables.training.protocol import InputScores, PackInputs
from trainables.training.settings import HoldOut
from trainables.training.start import start_lockstep, start_training


def hidden_layer(trained: TrainedLane, x: np.ndarray) -> np.ndarray:
    """What the last hidden layer of a trained classifier gives for standardised embeddings."""
    for weight, bias, adds in list(zip(trained.weights, trained.biases, trained.residual, strict=True))[:-1]:
        out = np.maximum(x @ weight + bias, 0)
        x = x + out if adds else out
    return x


@pytest.mark.parametrize("name", ["soft_e_mixup", "contrastive_control"])
def test_neighbours_are_those_of_the_trained_layers(name: str) -> None:
    x, labels = items()
    (lane,) = lanes_of(name, [3])
    settings = replace(SETTINGS, standardize=True, residual=True, hidden=(12, 12))
    trained = finish_training(start_training(PackInputs(x, labels, [lane], settings, input_scores={})), "cpu")
    inputs = (x.numpy() - trained.shift) / trained.scale
    found = trained.result
    for layer, values in (("hidden", hidden_layer(trained, inputs)), ("input", inputs)):
        plain = normalize(values.astype(np.float64))
        finder = NearestNeighbors(n_neighbors=12).fit(plain[lane.split.train])  # 12 * 12 <= 160 < 13 * 13
        score = finder.kneighbors(plain[lane.split.validation])[0][:, -1]
        expected = roc_auc_score(~found.items.known, score)
        assert found.metrics[f"ood_auroc_knn_{layer}"] == pytest.approx(expected, abs=2e-4)
    assert all(np.isfinite(found.metrics[f"ood_auroc_{score}"]) for score in (*LOGIT_SCORES, *LAYER_SCORES))


def test_scores_on_the_input_are_computed_once_a_split() -> None:
    x, labels = items()
    seen: InputScores = {}
    runs = [
        finish(start_lockstep(PackInputs(x, labels, lanes_of(name, [0, 1]), SETTINGS, input_scores=seen)))
        for name in ("control", "e_mixup")
    ]
    assert len(seen) == 2
    for one, other in zip(*runs, strict=True):
        assert one.items.knn_input is other.items.knn_input
        assert not np.array_equal(one.items.knn_hidden, other.items.knn_hidden)
    held_out = replace(SETTINGS, early_stopping=HoldOut(0.25))
    finish(start_lockstep(PackInputs(x, labels, lanes_of("control", [0]), held_out, input_scores=seen)))
    assert len(seen) == 3, "items that are held out are no training items"


def test_what_has_no_hidden_layer_has_no_scores_on_it() -> None:
    x, labels = items()
    inputs = PackInputs(x, labels, lanes_of("control", [0]), replace(SETTINGS, hidden=()), input_scores={})
    ((linear,), (without,)) = (
        finish(start_training(inputs)),
        finish(start_training(replace(inputs, input_scores=None))),
    )
    for result, there in ((linear, {"knn_input", "relative_mahalanobis_input"}), (without, set())):
        for score in LAYER_SCORES:
            assert len(getattr(result.items, score)) == (len(result.items.item) if score in there else 0)
            assert np.isfinite(result.metrics[f"ood_fpr95_{score}"]) == (score in there)
        assert np.isfinite(result.metrics["ood_auroc_gen"])
