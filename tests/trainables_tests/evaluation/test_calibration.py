"""The chosen threshold and temperature, against exhaustive search and scikit-learn's scores."""

import numpy as np
import pytest
import torch
from scipy.optimize import minimize_scalar
from sklearn.metrics import brier_score_loss

from trainables.evaluation.calibration import choose_threshold, fit_temperature, scaled_scores
from trainables.evaluation.metrics import proper_scores

Items = tuple[np.ndarray, np.ndarray, np.ndarray]


def items(seed: int, n: int = 200) -> Items:
    rng = np.random.default_rng(seed)
    known = rng.random(n) < 0.8
    right = known & (rng.random(n) < 0.8)
    logit = np.round(rng.normal(size=n) + right - 0.5 * ~known, 1).astype(np.float32)  # many ties
    return logit, right, known


def balanced(threshold: float, logit: np.ndarray, right: np.ndarray, known: np.ndarray) -> float:
    above = logit.astype(np.float64) > threshold
    return float(((above & right)[known].mean() + (~above)[~known].mean()) / 2)


@pytest.mark.parametrize("seed", range(20))
def test_no_threshold_is_better_than_the_chosen_one(seed: int) -> None:
    logit, right, known = items(seed)
    values = np.unique(logit.astype(np.float64))
    tried = np.concatenate([[values[0] - 1], (values[1:] + values[:-1]) / 2, [values[-1] + 1]])
    reached = np.array([balanced(one, logit, right, known) for one in tried])
    lowest = tried[np.flatnonzero(reached > reached.max() - 1e-9)[0]]
    assert choose_threshold(logit, right, known) == pytest.approx(lowest)


def test_the_extremes_and_a_missing_kind() -> None:
    logit = np.array([0.0, 1.0], np.float32)
    no, yes = np.zeros(2, np.bool_), np.ones(2, np.bool_)
    parted = np.array([False, True])
    assert choose_threshold(logit, parted, parted) == 0.5
    assert choose_threshold(logit[::-1], parted, parted) == -1, "to give no class is no better than to give one"
    assert choose_threshold(logit[::-1], no, parted) == 2, "no class is right: only 'none' ever is"
    assert np.isnan(choose_threshold(logit, yes, yes))
    assert np.isnan(choose_threshold(logit, no, no))


def problem(seed: int, scale: float) -> tuple[torch.Tensor, torch.Tensor]:
    rng = np.random.default_rng(seed)
    target = torch.from_numpy(rng.integers(-1, 5, 300))
    logits = torch.from_numpy(rng.normal(size=(300, 5)) - 1).float()
    logits[torch.arange(300)[target >= 0], target[target >= 0]] += 2
    return scale * logits, target


@pytest.mark.parametrize("scale", [0.1, 1.0, 12.0])
def test_the_temperature_minimises_the_negative_log_likelihood(scale: float) -> None:
    logits, target = problem(3, scale)
    best = minimize_scalar(
        lambda log_t: scaled_scores(logits, target, np.exp(log_t))["nll_scaled"],
        bounds=(-4.6, 4.6), method="bounded", options={"xatol": 1e-9},
    )  # fmt: skip
    found = fit_temperature(logits, target)
    assert found == pytest.approx(np.exp(best.x), rel=1e-5)
    assert scaled_scores(logits, target, found)["nll_scaled"] <= proper_scores(logits, target)["nll"]
    assert fit_temperature(2 * logits, target) == pytest.approx(2 * found, rel=1e-6)


def test_the_temperature_is_bounded() -> None:
    logits, target = torch.tensor([[9.0, -9.0], [-9.0, 9.0]]), torch.tensor([0, 1])
    assert fit_temperature(logits, target) == pytest.approx(0.01)
    assert fit_temperature(logits, 1 - target) == pytest.approx(100)
    assert np.isnan(fit_temperature(logits[:0], target[:0]))


def test_scaled_scores_are_those_of_scaled_logits() -> None:
    logits, target = problem(1, 3.0)
    probability = torch.sigmoid(logits.double() / 2.5)
    brier = sum(brier_score_loss(target == index, probability[:, index]) for index in range(5))
    found = scaled_scores(logits, target, 2.5)
    assert found["brier_scaled"] == pytest.approx(brier, abs=1e-9)
    assert found["nll_scaled"] == pytest.approx(proper_scores(logits.double() / 2.5, target)["nll"], abs=1e-12)
