"""Figures against scikit-learn and slow, obvious references."""

import numpy as np
import pytest
import torch
from sklearn.metrics import average_precision_score, brier_score_loss, log_loss, roc_auc_score, roc_curve

from trainables.evaluation.metrics import (
    ROC_GRID,
    THRESHOLDS,
    accuracies,
    accuracy_curves,
    correct_at,
    crossing_threshold,
    figures,
    nll_of_items,
    weighted_auc,
)
from trainables.records.figures import item_metrics
from trainables.records.types import N_BINS, ItemResults


def problem(seed: int, n: int = 600, classes: int = 7, ties: bool = False) -> tuple[torch.Tensor, torch.Tensor]:
    """Logits and targets, -1 for "none"; the last class is rare."""
    rng = np.random.default_rng(seed)
    target = rng.choice([-1, *range(classes)], n, p=[0.1, *np.array([30, 20, 15, 12, 8, 4, 1]) / 100])
    logits = rng.normal(size=(n, classes))
    logits[np.arange(n)[target >= 0], target[target >= 0]] += 1.5
    if ties:
        logits = logits.round()
    return torch.tensor(logits), torch.tensor(target)


def item_results(logits: torch.Tensor, target: torch.Tensor) -> ItemResults:
    """What a record holds of each item."""
    predicted = logits.argmax(-1)
    return ItemResults(
        item=np.arange(len(target), dtype=np.int32),
        label=np.where(target < 0, 99, target).astype(np.int32),
        known=(target >= 0).numpy(),
        predicted=predicted.numpy().astype(np.int32),
        logit=logits.amax(-1).numpy(),
        correct=(predicted == target).numpy(),
        auc_influence=np.zeros(len(target), np.float32),
        nll=nll_of_items(logits, target).float().numpy(),
    )


def sklearn_auc(logits: torch.Tensor, target: torch.Tensor) -> float:
    """The weighted one-vs-rest AUC with a "none" column, classes without positives left out."""
    probability = torch.sigmoid(logits).numpy()
    scores = np.column_stack([1 - probability.max(1), probability])
    truth = target.numpy()[:, None] == np.arange(-1, logits.shape[1])
    seen = truth.any(0) & ~truth.all(0)
    return float(roc_auc_score(truth[:, seen], scores[:, seen], average="weighted"))


@pytest.mark.parametrize("ties", [False, True])
@pytest.mark.parametrize("seed", range(3))
def test_weighted_auc_equals_scikit_learn(seed: int, ties: bool) -> None:
    logits, target = problem(seed, ties=ties)
    result = weighted_auc(logits, target)
    assert result.auc == pytest.approx(sklearn_auc(logits, target), abs=1e-12)
    assert float(result.influence.mean()) == pytest.approx(result.auc, abs=1e-12)


def test_classes_without_positives_are_left_out() -> None:
    logits, target = problem(0)
    target[target == 6] = 0
    target[target == -1] = 1
    result = weighted_auc(logits, target)
    assert result.auc == pytest.approx(sklearn_auc(logits, target), abs=1e-12)
    assert float(result.influence.mean()) == pytest.approx(result.auc, abs=1e-12)


def test_without_a_class_to_tell_from_another_nothing_is_defined() -> None:
    result = weighted_auc(torch.randn(5, 3), torch.full((5,), 2))
    assert np.isnan(result.auc)
    assert result.influence.shape == (5,)
    assert result.influence.isnan().all()


def test_influences_against_pairwise_definition() -> None:
    logits, target = problem(1, n=120, ties=True)
    n = len(target)
    expected = np.zeros(n)
    total = 0.0
    for index in range(-1, logits.shape[1]):
        positive = (target == index).numpy()
        if not positive.any():
            continue
        score = (-logits.amax(1) if index == -1 else logits[:, index]).numpy()
        wins = (score[:, None] > score) + 0.5 * (score[:, None] == score)
        n_pos, n_neg = positive.sum(), (~positive).sum()
        auc = wins[positive][:, ~positive].mean()
        share = np.where(
            positive,
            (n / n_pos) * (wins[:, ~positive].mean(1) - auc),
            (n / n_neg) * (wins[positive].mean(0) - auc),
        )
        expected += n_pos / n * (auc + share)
        total += n_pos / n
    np.testing.assert_allclose(weighted_auc(logits, target).influence.numpy(), expected / total, atol=1e-12)


def test_roc_curve_is_the_weighted_mean_of_the_classes() -> None:
    logits, target = problem(2)
    expected = np.zeros(len(ROC_GRID))
    for index in range(-1, logits.shape[1]):
        positive = (target == index).numpy()
        score = (-logits.amax(1) if index == -1 else logits[:, index]).numpy()
        fpr, tpr, _ = roc_curve(positive, score, drop_intermediate=False)
        reached = [tpr[fpr <= grid + 1e-12].max() for grid in ROC_GRID.astype(float)]
        expected += positive.mean() * np.array(reached)
    result = weighted_auc(logits, target)
    np.testing.assert_allclose(result.roc_tpr.numpy(), expected, atol=1e-9)
    area = np.trapezoid(result.roc_tpr.numpy(), ROC_GRID)
    assert area == pytest.approx(result.auc, abs=0.01), "the area under the drawn curve is the AUC, up to the grid"


def test_saturated_probabilities_make_no_ties() -> None:
    logits = torch.tensor([[40.0, -40], [30.0, -40], [-40.0, 20]])
    target = torch.tensor([0, -1, 1])
    assert torch.sigmoid(logits.float())[0, 0] == torch.sigmoid(logits.float())[1, 0] == 1
    # "none" (score -30) ranks below class 1's item (-20) and above class 0's (-40): AUC 1/2; the classes: 1.
    assert weighted_auc(logits, target).auc == pytest.approx((1 + 1 + 0.5) / 3)


def test_saturated_probabilities_have_a_highest_logit() -> None:
    logits, target = torch.tensor([[40.0, 50.0], [45.0, 60.0], [60.0, 40.0]]), torch.tensor([1, 1, 0])
    found = item_metrics(item_results(logits, target), {})
    assert (found["top1"], found["balanced_accuracy"], found["ece_known"]) == (1, 1, 0)


def test_correctness_and_accuracies() -> None:
    confidence = torch.tensor([0.9, 0.9, 0.6, 0.5, 0.7])
    predicted = torch.tensor([0, 1, 1, 0, 1])
    target = torch.tensor([0, 0, 1, -1, -1])
    correct = correct_at(confidence, predicted, target, 0.6)
    assert correct.tolist() == [True, False, False, True, False], "0.6 does not exceed 0.6: none is predicted"
    result = accuracies(correct, target)
    assert float(result.all) == pytest.approx(2 / 5)
    assert float(result.known) == pytest.approx(1 / 3)
    assert float(result.none) == pytest.approx(1 / 2)
    assert torch.isnan(accuracies(correct[:3], target[:3]).none)


def slow_calibration_error(confidence: np.ndarray, right: np.ndarray) -> float:
    """Bin by bin, (0, 1/15], (1/15, 2/15], ..."""
    total = 0.0
    for index in range(N_BINS):
        inside = (confidence > index / N_BINS) & (confidence <= (index + 1) / N_BINS)
        if inside.any():
            total += abs(right[inside].mean() - confidence[inside].mean()) * inside.mean()
    return total


@pytest.mark.parametrize("ties", [False, True])
def test_figures_against_references(ties: bool) -> None:
    logits, target = problem(3, n=2000, ties=ties)
    probability = torch.sigmoid(logits)
    confidence, predicted = probability.max(-1)
    against = accuracy_curves(confidence, predicted, target)
    found = {**item_metrics(item_results(logits, target), {}), **figures(logits, target, against)}
    score, none = 1 - confidence.numpy(), (target == -1).numpy()
    right = (predicted == target).numpy()
    assert found["ood_auroc"] == pytest.approx(roc_auc_score(none, score), abs=1e-12)
    assert found["ood_aupr"] == pytest.approx(average_precision_score(none, score), abs=1e-12)
    fpr, tpr, _ = roc_curve(none, score, drop_intermediate=False)
    assert found["ood_fpr95"] == pytest.approx(fpr[tpr >= 0.95][0], abs=1e-12)
    assert found["ood_prevalence"] == pytest.approx(none.mean())
    known = ~none
    recalls = [right[target == index].mean() for index in range(logits.shape[1]) if (target == index).any()]
    assert found["top1"] == pytest.approx(right[known].mean(), abs=1e-12)
    assert found["balanced_accuracy"] == pytest.approx(np.mean(recalls), abs=1e-12)
    shown = confidence.numpy()
    assert found["ece_known"] == pytest.approx(slow_calibration_error(shown[known], right[known]), abs=1e-12)
    assert found["ece_open"] == pytest.approx(slow_calibration_error(shown, right), abs=1e-12)
    assert found["overconfidence_known"] == pytest.approx((shown - right)[known].mean(), abs=1e-12)
    assert found["overconfidence_open"] == pytest.approx((shown - right).mean(), abs=1e-12)
    brier = sum(brier_score_loss(target == index, probability[:, index]) for index in range(logits.shape[1]))
    assert found["brier"] == pytest.approx(brier, abs=1e-12)
    truth = [target == index for index in range(logits.shape[1])]
    losses = [log_loss(one, probability[:, index]) for index, one in enumerate(truth)]
    assert found["nll"] == pytest.approx(sum(losses), abs=1e-12)


def test_crossing_is_between_points_of_the_curves() -> None:
    at = torch.from_numpy(THRESHOLDS).double()
    assert crossing_threshold(0.9 - 0.2 * at, 0.5 + 0.6 * at) == pytest.approx(0.5, abs=1e-6)
    assert np.isnan(crossing_threshold(0.9 - 0.2 * at, 0.1 * at)), "they never meet"
    assert np.isnan(crossing_threshold(0.9 - 0.2 * at, at * float("nan")))
