"""Scores of how unknown an item is, against scikit-learn and plain references."""

import numpy as np
import pytest
import torch
from scipy.special import expit
from sklearn.covariance import ledoit_wolf
from sklearn.neighbors import NearestNeighbors
from sklearn.preprocessing import normalize

from trainables.evaluation.scores import NearestNeighbour, RelativeMahalanobis, layer_scores, logit_scores

Arrays = tuple[torch.Tensor, torch.Tensor, torch.Tensor]


def problem(n_train: int, n_features: int, n_classes: int = 5, n: int = 90, seed: int = 0) -> Arrays:
    """Values of a layer, the training items' first; the training items' indices and classes, one of them empty."""
    rng = np.random.default_rng(seed)
    classes = rng.choice([c for c in range(n_classes) if c != 1], n_train)
    spread = rng.normal(size=(n_features, n_features)) / n_features**0.5
    values = rng.normal(size=(n_train + n, n_features)) @ spread
    centres = 2 * rng.normal(size=(n_classes, n_features))
    values[:n_train] += centres[classes]
    values[n_train:] += centres[rng.integers(n_classes, size=n)]
    return torch.from_numpy(values).float(), torch.arange(n_train), torch.from_numpy(classes)


@pytest.mark.parametrize("n_classes", [3, 40, 150])
def test_scores_of_logits_by_their_definitions(n_classes: int, monkeypatch: pytest.MonkeyPatch) -> None:
    logits = 5 * np.random.default_rng(0).normal(size=(70, n_classes)).astype(np.float32)
    probability = expit(logits.astype(np.float64))
    top = np.sort(probability, 1)[:, -{3: 3, 40: 10, 150: 15}[n_classes] :]
    for chunk_bytes in (2**26, 8 * n_classes * 9):
        monkeypatch.setattr("trainables.evaluation.scores._CHUNK_BYTES", chunk_bytes)
        found = logit_scores(torch.from_numpy(logits))
        np.testing.assert_allclose(found["joint_energy"], -np.log1p(np.exp(logits.astype(np.float64))).sum(1))
        np.testing.assert_allclose(found["gen"], (top**0.1 * (1 - top) ** 0.1).sum(1))


def test_saturated_logits_keep_their_order() -> None:
    found = logit_scores(torch.tensor([[50.0, -60.0], [45.0, -60.0], [-80.0, -90.0], [-80.0, -95.0]]))
    for scores in found.values():
        assert torch.isfinite(scores).all()
        assert scores[1] > scores[0]
    assert (found["joint_energy"].diff() > 0).all()


@pytest.mark.parametrize(("n_train", "k"), [(30, 5), (2600, 50)])
def test_the_nearest_neighbour_is_scikit_learns(n_train: int, k: int) -> None:
    values, train, _ = problem(n_train, 8)
    found = NearestNeighbour(lambda items: values[items], train)
    assert found.k == k
    plain = normalize(values.numpy().astype(np.float64))
    distance, _ = NearestNeighbors(n_neighbors=k).fit(plain[:n_train]).kneighbors(plain[n_train:])
    np.testing.assert_allclose(found(values[n_train:]), distance[:, -1], atol=2e-6)


def test_many_training_items_are_thinned(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("trainables.evaluation.scores._MOST_REFERENCES", 40)
    values, train, _ = problem(100, 4)
    thinned = NearestNeighbour(lambda items: values[items], train)(values[100:])
    assert torch.equal(thinned, NearestNeighbour(lambda items: values[items], train[::3])(values[100:]))


@pytest.mark.parametrize(("n_train", "n_features"), [(400, 6), (40, 60)])
def test_relative_mahalanobis_by_its_definition(n_train: int, n_features: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("trainables.evaluation.scores._ROWS", 32)
    values, train, classes = problem(n_train, n_features)
    found = RelativeMahalanobis(lambda items: values[items], train, classes)
    x, own = values.numpy().astype(np.float64), classes.numpy()
    means = {c: x[:n_train][own == c].mean(0) for c in np.unique(own)}
    mean = x[:n_train].mean(0)
    within = x[:n_train] - np.array([means[c] for c in own])
    covariance, shrinkage = ledoit_wolf(within, assume_centered=True)
    assert found.shrinkage == pytest.approx(shrinkage, abs=1e-6)
    between = sum((own == c).mean() * np.outer(m - mean, m - mean) for c, m in means.items())

    def distance(centre: np.ndarray, of: np.ndarray) -> np.ndarray:
        away = x[n_train:] - centre
        return np.einsum("if,fg,ig->i", away, np.linalg.inv(of), away)

    nearest = np.min([distance(m, covariance) for m in means.values()], axis=0)
    expected = nearest - distance(mean, covariance + between)
    np.testing.assert_allclose(found(values[n_train:]), expected, rtol=1e-4, atol=1e-4 * np.abs(expected).max())


def test_items_that_do_not_vary_within_classes_have_no_mahalanobis_distance() -> None:
    values = torch.eye(3).repeat(4, 1)
    found = RelativeMahalanobis(lambda items: values[items], torch.arange(12), torch.arange(3).repeat(4))
    assert found(values).isnan().all()


def test_features_that_do_not_vary_are_no_obstacle() -> None:
    values, train, classes = problem(60, 5)
    wide = torch.cat([values, torch.zeros(len(values), 3)], dim=1)
    assert RelativeMahalanobis(lambda items: wide[items], train, classes)(wide).isfinite().all()


def test_chunks_and_the_order_of_items_do_not_matter(monkeypatch: pytest.MonkeyPatch) -> None:
    values, train, classes = problem(50, 7)
    items = torch.arange(50, 140)
    whole = layer_scores(lambda rows: values[rows], train, classes, items)
    monkeypatch.setattr("trainables.evaluation.scores._CHUNK_BYTES", 1)
    single = layer_scores(lambda rows: values[rows], train, classes, items.flip(0))
    assert set(whole) == {"knn", "relative_mahalanobis"}
    for name, scores in whole.items():
        torch.testing.assert_close(single[name].flip(0), scores, rtol=1e-4, atol=1e-4)
