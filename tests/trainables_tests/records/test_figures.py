"""Figures and the influence of each item: against scikit-learn, slow references, and repeated items."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
from sklearn.metrics import average_precision_score, balanced_accuracy_score, f1_score, roc_auc_score, roc_curve

from trainables.records.figures import (
    ITEM_FIGURES,
    ItemFigure,
    auroc,
    average_precision,
    calibration_error,
    confidence_bins,
    false_positives_at_95,
    item_metrics,
    places,
)
from trainables.records.types import LAYER_SCORES, LOGIT_SCORES, ItemResults

SCORES = (*LOGIT_SCORES, *LAYER_SCORES)

CHOSEN = {"threshold_logit_chosen": 0.7, "temperature": 2.5}


def results(n: int = 240, seed: int = 0, n_classes: int = 6) -> ItemResults:
    random = np.random.default_rng(seed)
    label = random.integers(0, n_classes, n)
    predicted = np.where(random.random(n) < 0.6, label, random.integers(0, n_classes, n))
    known = random.random(n) < 0.8
    logit = np.round(random.normal(1, 2, n) + 1.5 * (predicted == label), 1)  # many ties
    correct = np.where(logit > 0.4, predicted == label, ~known)
    influence = random.normal(0.9, 0.2, n)
    scores = np.round(random.normal(size=(len(SCORES), n)) + 0.8 * ~known, 1)  # many ties
    return ItemResults(
        item=np.arange(n, dtype=np.int32),
        label=label.astype(np.int32),
        known=known,
        predicted=predicted.astype(np.int32),
        logit=logit.astype(np.float32),
        correct=correct,
        auc_influence=influence.astype(np.float32),
        nll=random.exponential(0.5, n).astype(np.float32),
        **{name: places(score, ~known) for name, score in zip(SCORES, scores, strict=True)},
    )


def rows(items: ItemResults, chosen: np.ndarray) -> ItemResults:
    return ItemResults(*(getattr(items, name)[chosen] for name in ItemResults.__dataclass_fields__))


@pytest.mark.parametrize("name", ITEM_FIGURES)
def test_the_mean_influence_is_the_figure(name: str) -> None:
    found = ITEM_FIGURES[name](results(), CHOSEN)
    assert np.nanmean(found.influence) == pytest.approx(found.value, abs=1e-12)


@pytest.mark.parametrize("name", ITEM_FIGURES)
def test_an_influence_is_the_derivative_to_an_items_weight(name: str) -> None:
    figure, items, n_times = ITEM_FIGURES[name], results(), 50
    whole = figure(items, CHOSEN)
    every = np.tile(np.arange(len(items.item)), n_times)
    before = figure(rows(items, every), CHOSEN).value
    n_counted = int((~np.isnan(whole.influence)).sum()) * n_times
    for item in range(0, len(items.item), 17):
        change = (figure(rows(items, np.append(every, item)), CHOSEN).value - before) * n_counted
        if np.isnan(whole.influence[item]):
            assert change == 0.0
        else:
            assert change == pytest.approx(whole.influence[item] - whole.value, abs=5e-3)


def test_figures_are_scikit_learns() -> None:
    items = results()
    known, right = items.known, items.predicted == items.label
    label, predicted = items.label[known], items.predicted[known]
    expected = {
        "top1": right[known].mean(),
        "balanced_accuracy": balanced_accuracy_score(label, predicted),
        "macro_f1": f1_score(label, predicted, average="macro"),
        "ood_auroc": roc_auc_score(~known, -items.logit),
        "ood_aupr": average_precision_score(~known, -items.logit),
        "accuracy_known": items.correct[known].mean(),
        "accuracy_none": items.correct[~known].mean(),
    }
    for name, value in expected.items():
        assert ITEM_FIGURES[name](items, {}).value == pytest.approx(value, abs=1e-12), name
    fpr, tpr, _ = roc_curve(~known, -items.logit, drop_intermediate=False)
    assert false_positives_at_95(-items.logit, ~known) == pytest.approx(fpr[tpr >= 0.95][0])


def test_risk_coverage_and_open_set_classification_by_their_definitions() -> None:
    items = results(n=80)
    right, known = items.predicted == items.label, items.known
    risks = [1 - right[known & (items.logit >= one)].mean() for one in items.logit[known]]
    assert ITEM_FIGURES["aurc"](items, {}).value == pytest.approx(np.mean(risks))
    won = [
        (right[i] and items.logit[i] > items.logit[j]) + (right[i] and items.logit[i] == items.logit[j]) / 2
        for i in np.flatnonzero(known)
        for j in np.flatnonzero(~known)
    ]
    assert ITEM_FIGURES["oscr"](items, {}).value == pytest.approx(np.mean(won))


def test_calibration_error_by_its_definition() -> None:
    random = np.random.default_rng(0)
    probability, right = random.random(300), random.random(300) < 0.5
    expected = 0.0
    for k in range(15):
        inside = (probability > k / 15) & (probability <= (k + 1) / 15)
        expected += abs((right[inside] - probability[inside]).sum()) / 300
    assert calibration_error(probability, right).value == pytest.approx(expected)


def test_a_bin_includes_its_upper_edge() -> None:
    assert list(confidence_bins(np.array([0.0, 1 / 15, 1 / 15 + 1e-9, 1.0]))) == [0, 0, 1, 14]


@pytest.mark.parametrize("figure", [auroc, average_precision])
@pytest.mark.parametrize("positive", [True, False])
def test_one_kind_alone_has_no_figure(figure: Callable[..., ItemFigure], positive: bool) -> None:
    found = figure(np.arange(4.0), np.full(4, positive))
    assert np.isnan(found.value)
    assert np.isnan(found.influence).all()


def test_logits_keep_the_order_that_a_float32_probability_loses() -> None:
    positive = np.arange(100) % 2 == 0
    logit = (20 + 5 * positive + np.random.default_rng(0).random(100)).astype(np.float32)
    assert auroc(logit, positive).value == 1.0
    assert auroc((1 / (1 + np.exp(-logit))).astype(np.float32), positive).value == 0.5


@pytest.mark.parametrize("n_positive", [1, 7, 150])
def test_places_tell_items_apart_as_their_scores_do(n_positive: int) -> None:
    random = np.random.default_rng(n_positive)
    positive = random.permutation(300) < n_positive
    score = np.round(random.normal(size=300) + positive, 2)
    place = places(score, positive)
    assert place.max() <= 2 * n_positive
    assert auroc(place, positive).value == pytest.approx(roc_auc_score(positive, score), abs=1e-12)
    assert average_precision(place, positive).value == pytest.approx(average_precision_score(positive, score))
    assert false_positives_at_95(place, positive) == false_positives_at_95(score, positive)
    for figure in (auroc, average_precision):
        np.testing.assert_allclose(figure(place, positive).influence, figure(score, positive).influence, atol=1e-12)


def test_more_positive_items_than_places_change_little() -> None:
    random = np.random.default_rng(0)
    positive = random.random(30_000) < 0.4
    score = random.normal(size=len(positive)) + positive
    place = places(score, positive)
    assert place.max() <= 2 * 4096
    assert abs(auroc(place, positive).value - auroc(score, positive).value) < 2e-5
    assert abs(average_precision(place, positive).value - average_precision(score, positive).value) < 1e-3
    assert abs(false_positives_at_95(place, positive) - false_positives_at_95(score, positive)) < 1e-3
    tied = np.round(score, 1)
    assert auroc(places(tied, positive), positive).value == pytest.approx(auroc(tied, positive).value, abs=1e-12)


def test_a_score_that_is_not_computed_or_not_a_number_has_no_figures() -> None:
    items = results()
    nothing = places(np.full(len(items.item), np.nan), ~items.known)
    assert len(nothing) == 0
    found = item_metrics(replace(items, gen=nothing), {})
    assert {name for name, value in found.items() if np.isnan(value) and name.startswith("ood_")} == {
        "ood_auroc_gen", "ood_aupr_gen", "ood_fpr95_gen",
    }  # fmt: skip


def test_figures_at_a_chosen_threshold_and_temperature() -> None:
    items = results()
    right = (items.predicted == items.label) & items.known
    correct = np.where(items.logit > 0.7, right, ~items.known)
    shown = 1 / (1 + np.exp(-items.logit.astype(np.float64) / 2.5))
    expected = {
        "accuracy_chosen": correct.mean(),
        "accuracy_known_chosen": correct[items.known].mean(),
        "accuracy_none_chosen": correct[~items.known].mean(),
        "overconfidence_known_scaled": (shown - right)[items.known].mean(),
        "overconfidence_open_scaled": (shown - right).mean(),
        "ece_known_scaled": calibration_error(shown, right, items.known).value,
        "ece_open_scaled": calibration_error(shown, right).value,
    }
    found, without = item_metrics(items, CHOSEN), item_metrics(items, {})
    for name, value in expected.items():
        assert found[name] == pytest.approx(value, abs=1e-12), name
        assert np.isnan(without[name]), name
    assert all(without[name] == value for name, value in found.items() if name not in expected)


def test_a_threshold_between_two_neighbouring_logits_parts_them() -> None:
    low = np.float32(1.5)
    high = np.nextafter(low, np.float32(2))
    items = replace(rows(results(), np.arange(2)), logit=np.array([low, high]), known=np.array([False, True]))
    items = replace(items, predicted=items.label)
    assert item_metrics(items, {"threshold_logit_chosen": (float(low) + float(high)) / 2})["accuracy_chosen"] == 1
