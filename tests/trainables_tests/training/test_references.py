"""References give what scikit-learn gives on the same split, through the figures of every method."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import numpy.typing as npt
import pytest
import torch
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import accuracy_score
from sklearn.neighbors import KNeighborsClassifier
from sklearn.preprocessing import StandardScaler

from tests.trainables_tests.training.test_engine import SETTINGS, finish, items, lanes_of
from trainables.methods.references import REFERENCES, nearest_mean
from trainables.training.protocol import LaneResult, PackInputs
from trainables.training.references import logits_of
from trainables.training.start import start_training

Floats = npt.NDArray[np.float64]


def _logistic(x: Floats, y: Floats, new: Floats) -> Floats:
    return np.asarray(LogisticRegression(C=1, max_iter=1000).fit(x, y).predict_proba(new))


def _neighbours(x: Floats, y: Floats, new: Floats) -> Floats:
    share = KNeighborsClassifier(5, metric="cosine").fit(x, y).predict_proba(new)
    return np.asarray((5 * share + 1 / share.shape[1]) / 6)


def _means(x: Floats, y: Floats, new: Floats) -> Floats:
    means = {name: x[y == name].mean(0) for name in np.unique(y)}
    variance = np.mean([(row - means[name]) ** 2 for row, name in zip(x, y, strict=True)])
    likelihood = np.array(
        [[np.exp(-((row - mean) ** 2).sum() / 2 / variance) for mean in means.values()] for row in new]
    )
    return np.asarray(likelihood / likelihood.sum(1, keepdims=True))


@pytest.mark.parametrize(
    ("name", "slow"),
    [
        ("reference_logistic_regression", _logistic),
        ("reference_knn", _neighbours),
        ("reference_nearest_mean", _means),
    ],
)
def test_a_reference_is_scikit_learns(name: str, slow: Callable[[Floats, Floats, Floats], Floats]) -> None:
    x, labels = items()
    (lane,) = lanes_of(name, range(1))
    settings = replace(SETTINGS, standardize=True)
    (result,) = finish(start_training(PackInputs(x, labels, [lane], settings, input_scores={})))
    assert isinstance(result, LaneResult)
    values, split = x.numpy().astype(np.float64), lane.split
    scaler = StandardScaler().fit(values[split.train])
    train, test = scaler.transform(values[split.train]), scaler.transform(values[split.validation])
    y = labels.numpy()[split.train]
    probability = slow(train, y, test)
    known = np.unique(y)
    np.testing.assert_array_equal(result.items.predicted, known[probability.argmax(1)])
    np.testing.assert_allclose(result.items.confidence, probability.max(1), atol=1e-4)
    mine, truth = result.items, labels.numpy()[split.validation]
    assert result.metrics["top1"] == pytest.approx(accuracy_score(truth[mine.known], mine.predicted[mine.known]))
    assert not mine.knn_hidden.size, "there is no hidden layer"
    assert np.ptp(result.curves.epoch_top1) == 0, "all evaluations are of the same classifier"


def test_logits_are_exact_where_probabilities_round() -> None:
    scores = torch.tensor([[0.0, -50.0, -800.0], [3.0, 1.0, 2.0]], dtype=torch.float64)
    expected = torch.tensor([[50.0, -50.0, -800.0]], dtype=torch.float64)
    torch.testing.assert_close(logits_of(scores)[:1], expected)
    torch.testing.assert_close(logits_of(scores)[1].sigmoid(), scores[1].softmax(-1))
    assert torch.isfinite(logits_of(torch.zeros(2, 1, dtype=torch.float64))).all()


def test_items_that_are_all_alike_have_a_mean() -> None:
    scores = nearest_mean(np.zeros((4, 2)), np.array([0, 0, 1, 1]), {})(np.ones((1, 2)))
    np.testing.assert_array_equal(scores, [[-1.0, -1.0]])


def test_a_reference_says_what_it_is() -> None:
    assert all(one.summary.startswith("No network") and one.source for one in REFERENCES)
