"""Studies made of random predictions: every figure in them follows from the predictions, and every file is real."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from sklearn.metrics import average_precision_score, roc_auc_score

from analysis.report.write import ReportFiles, write_report
from analysis.results.controls import is_reference
from tests.conftest import made_once
from trainables.records.description import read_description, search_name
from trainables.records.figures import TEMPERATURE, THRESHOLD, item_metrics, places
from trainables.records.parquet import write_records
from trainables.records.types import (
    SEARCH,
    SELECTIONS,
    TEST,
    Candidate,
    Curves,
    ItemResults,
    SplitId,
    TrialConfig,
    TrialRecord,
)

THRESHOLDS = np.arange(0.05, 0.951, 0.05)

ROC_GRID = np.unique(np.concatenate([[0.0], np.logspace(-4, 0, 81), np.linspace(0, 1, 51)]))

STRENGTHS = {"control": 1.1, "e_mixup": 1.3, "e_stitchup": 1.4, "soft_e_mixup": 1.45, "soft_e_stitchup": 1.55}

EPOCHS = np.arange(4, 49, 4)

TRAINING = {
    "epochs": 48, "batch_size": 128, "learning_rate": {"low": 3e-4, "high": 3e-3, "step_size_epochs": 6},
    "pretraining": {"epochs": 48},
}  # fmt: skip

DEPTH = 3


DEEP_METHODS = (
    "control", "uniform_dropout", "deep_dropout", "deep_pca",
    "contrastive_control", "contrastive_uniform_dropout", "contrastive_deep_dropout", "contrastive_deep_pca",
)  # fmt: skip


@dataclass(frozen=True)
class Plan:
    """What a synthetic study holds."""

    methods: Sequence[str] = tuple(STRENGTHS)
    alphas: Sequence[float] = (0.2, 0.4)
    layers: Sequence[int] = (0, 1, 2, 3, -1)
    selection: str = "reported"
    preset: str | None = "paper"
    n_splits: int = 3
    first_split: int = 0
    n_inner: int = 1
    own_searches: bool = False
    n_items: int = 500
    n_classes: int = 12
    n_rare: int = 3
    skip: Callable[[TrialConfig], bool] = lambda config: False
    provenance: Mapping[str, str] = field(
        default_factory=lambda: {"digest_settings": "aa11", "digest_embeddings": "bb22"}
    )
    training: Mapping[str, Any] = field(default_factory=lambda: TRAINING)
    changes: Mapping[str, Any] = field(default_factory=dict)


def mann_whitney(score: np.ndarray, positive: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Placement of each positive among the negatives, and of each negative among the positives."""
    wins = score[positive][:, None] > score[~positive][None, :]
    ties = score[positive][:, None] == score[~positive][None, :]
    above = wins + 0.5 * ties
    return above.mean(1), above.mean(0)


def weighted_auc(scores: np.ndarray, target: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Influence of each item on the weighted AUC, and the weighted ROC curve; target -1 is "none"."""
    influence, curve, weights = np.zeros(len(target)), np.zeros(len(ROC_GRID)), 0.0
    for label in range(-1, scores.shape[1]):
        positive = target == label
        if not positive.any() or positive.all():
            continue
        score = 1 - scores.max(1) if label == -1 else scores[:, label]
        among_negatives, among_positives = mann_whitney(score, positive)
        auc, weight = among_negatives.mean(), positive.mean()
        own = np.empty(len(target))
        own[positive] = auc + (among_negatives - auc) / positive.mean()
        own[~positive] = auc + (among_positives - auc) / (~positive).mean()
        influence += weight * own
        cuts = np.quantile(score[~positive], 1 - ROC_GRID)
        curve += weight * (score[positive][None, :] >= cuts[:, None]).mean(1)
        weights += weight
    return influence / weights, curve / weights


def calibration_error(confidence: np.ndarray, right: np.ndarray) -> float:
    """Mean gap of confidence and share right over 15 bins, weighted by their items."""
    place = np.minimum((confidence * 15).astype(int), 14)
    gaps = [abs((confidence - right)[place == index].sum()) for index in range(15)]
    return float(sum(gaps) / len(confidence))


def detection(logit: np.ndarray, known: np.ndarray) -> dict[str, float]:
    """How well low confidence tells "none" items apart; NaN without any."""
    if known.all():
        return {"ood_auroc": np.nan, "ood_aupr": np.nan}
    score = -logit
    return {
        "ood_auroc": float(roc_auc_score(~known, score)),
        "ood_aupr": float(average_precision_score(~known, score)),
    }


def make_trial(plan: Plan, config: TrialConfig) -> TrialRecord:
    """A trial whose classifier sees the right class through noise, and unknown classes not at all."""
    world = np.random.default_rng(7)
    labels = np.concatenate(
        [np.arange(plan.n_classes), world.integers(0, plan.n_classes - plan.n_rare, plan.n_items - plan.n_classes)]
    )
    noise = world.normal(size=(plan.n_items, plan.n_classes))
    seed = config.split.seed
    permutation = np.random.default_rng(seed).permutation(plan.n_items)
    train, items = permutation[: plan.n_items // 10], np.sort(permutation[plan.n_items // 10 :])
    if config.split.inner is not None:  # a fold of its own, and larger than a fifth: a small one would hold no class
        items = np.sort(np.random.default_rng([seed, config.split.inner]).permutation(train)[: len(train) // 2])
        train = np.setdiff1d(train, items)
    known_classes = np.unique(labels[train]) if plan.n_rare else np.arange(plan.n_classes)
    params = dict(config.candidate.params)
    if params.get("layer") == -1:
        params["layer"] = 2.0 if seed else 3.0  # a trial that chose a layer is the trial of that layer
    luck = sum(config.candidate.method.encode()) + int(1000 * sum(params.values()))
    own = np.random.default_rng([config.split.stream_seed, luck])
    strength = STRENGTHS.get(config.candidate.augmentation, 1.2) - 4 * (params.get("alpha", 0.3) - 0.3) ** 2
    strength += (0.08 if config.candidate.objective == "contrastive" else -0.05) * params.get("layer", 0)
    logits = 0.8 * noise[items] + 0.6 * own.normal(size=(len(items), plan.n_classes)) - 2
    logits[np.arange(len(items)), labels[items]] += 2 * strength
    scores = 1 / (1 + np.exp(-logits[:, known_classes]))
    highest = logits[:, known_classes].max(1).astype(np.float32)
    place = {label: index for index, label in enumerate(known_classes)}
    target = np.array([place.get(label, -1) for label in labels[items]])
    top, confidence = scores.argmax(1), scores.max(1)
    known = target >= 0

    def accuracies(threshold: float) -> tuple[np.ndarray, float, float, float]:
        correct = np.where(confidence > threshold, top == target, ~known)
        none = float(correct[~known].mean()) if (~known).any() else np.nan
        return correct, float(correct.mean()), float(correct[known].mean()), none

    influence, roc_tpr = weighted_auc(scores, target)
    correct, accuracy, accuracy_known, accuracy_none = accuracies(0.6)
    at = np.array([accuracies(threshold)[1:] for threshold in THRESHOLDS]).T
    growth = 1 - np.exp(-EPOCHS / 10)
    results = ItemResults(
        item=items.astype(np.int32),
        label=labels[items].astype(np.int32),
        known=known,
        predicted=known_classes[top].astype(np.int32),
        logit=highest,
        correct=correct,
        auc_influence=influence.astype(np.float32),
        nll=np.logaddexp(0, np.where(target[:, None] == range(len(known_classes)), -1, 1) * logits[:, known_classes])
        .sum(1)
        .astype(np.float32),
        # Another score: how many classes are likely, which the noise leaves nearer the truth.
        joint_energy=places((-np.log1p(np.exp(logits[:, known_classes])).sum(1)).astype(np.float32), ~known),
    )
    of_inner = {THRESHOLD: 0.1, TEMPERATURE: 1.3} if plan.selection == "nested" and config.phase == TEST else {}
    return TrialRecord(
        config=config,
        metrics={
            **{name: value for name, value in item_metrics(results, of_inner).items() if not np.isnan(value)},
            **of_inner,
            "auc_weighted": float(influence.mean()),
            "accuracy": accuracy,
            "accuracy_known": accuracy_known,
            "accuracy_none": accuracy_none,
            "balanced_accuracy": float(np.mean([(top == c)[target == c].mean() for c in np.unique(target[known])])),
            "ece_known": calibration_error(confidence[known], (top == target)[known]),
            **detection(highest, known),
            "n_train": len(train),
            "n_validation": len(items),
            "n_known_classes": len(known_classes),
            "n_none": int((~known).sum()),
            **of_layers(config, params, float(influence.mean()), accuracy),
        },
        curves=Curves(
            *(
                np.asarray(values, dtype=np.float32)
                for values in (
                    EPOCHS, 1 - growth, growth * accuracy, growth * accuracy_known, growth * accuracy_none,
                    growth * (top == target)[known].mean(), growth * influence.mean(), THRESHOLDS, *at, ROC_GRID,
                    roc_tpr, similarity(config),
                )
            )
        ),
        items=results,
        started_at_s=1.8e9,
        duration_s=1.5 + 0.1 * seed,
        provenance=plan.provenance,
    )  # fmt: skip


def similarity(config: TrialConfig) -> np.ndarray:
    """CKA of neighbouring layers at each evaluation; NaN for the last two of a contrastive trial's, once frozen."""
    found = np.stack(
        [0.9 - 0.1 * place - 0.01 * config.split.seed - 1 / (10 + EPOCHS) for place in range(DEPTH + 1)], 1
    )
    if config.candidate.objective == "contrastive":
        found[-2:] = np.nan
    return found


def of_layers(config: TrialConfig, params: Mapping[str, float], auc: float, accuracy: float) -> dict[str, float]:
    """What the trials of a Deep Augmentation study record besides."""
    found = {f"cka_{place}": 0.9 - 0.1 * place - 0.01 * config.split.seed for place in range(DEPTH + 1)}
    if config.candidate.objective == "contrastive":
        found |= {"probe_auc_weighted": auc - 0.05, "probe_accuracy": accuracy - 0.05}
    return found | ({"layer_targeted": params["layer"]} if "layer" in params else {})


def candidates(plan: Plan, method: str) -> list[Candidate]:
    if is_reference(method) or method.endswith("uniform_dropout"):
        return [Candidate.of(method, {})]
    if "deep_" in method:
        # A stop-gradient below the input is none, and is not trained.
        grid = [(layer, stop) for stop in (0, 1) for layer in plan.layers if layer or not stop]
        return [Candidate.of(method, {"layer": layer, "stop_gradient": stop}) for layer, stop in grid]
    return [Candidate.of(method, {"alpha": alpha}) for alpha in plan.alphas]


def make_study(directory: Path, plan: Plan) -> Path:
    """Writes a study's directory as the runner leaves it, one record file a candidate and phase."""
    description = {
        "format": 3,
        "name": "synthetic",
        "preset": plan.preset,
        "design": "random",
        "selection": plan.selection,
        "objective": "auc_weighted",
        "threshold": 0.6,
        "methods": list(plan.methods),
        "splits": splits_of(plan),
        "n_candidates": {method: len(candidates(plan, method)) for method in plan.methods},
        "candidates": proposals(plan),
        "settings": {"training": plan.training, "search": {"alpha": list(plan.alphas)}},
        "choices": {"optimizer": "AdamW, so the loss's reduction does not change the solution."},
        "data": {
            "digest": "dd44",
            "metadata_digests": {"label": "ee55"},
            "n_items": plan.n_items,
            "n_classes": plan.n_classes,
            "class_names": [f"class {index:02d}" for index in range(plan.n_classes)],
            "n_features": 64,
            "embeddings": {"title": {"encoder": "minilm", "layers": 2}, "image": {"encoder": "resnet10t"}},
            "notes": ["The image encoder is untrained."],
        },
        "deciding_settings": {},
        "digests": {"settings": "aa11", "embeddings": "bb22"},
        "method_code": {},
        **plan.changes,
    }
    directory.mkdir(parents=True, exist_ok=True)
    (directory / "study.json").write_text(json.dumps(description), encoding="utf-8")
    results = read_description(directory)
    scores: dict[TrialConfig, float] = {}
    for phase in SELECTIONS[plan.selection]:
        first = phase == results.choosing_phase
        choices = {} if first else results.chosen(scores)
        for method in plan.methods:
            splits = results.splits[phase]
            every = [
                Candidate.of(method, one)
                for name in (method, *(search_name(method, s.seed) for s in splits))
                for one in proposals(plan).get(name, {"proposed": ()})["proposed"]
            ] or candidates(plan, method)
            tried = {split: every if first else [choices[method].get(split)] for split in splits}
            for candidate in dict.fromkeys(one for own in tried.values() for one in own if one is not None):
                configs = [TrialConfig(phase, candidate, split) for split in splits if candidate in tried[split]]
                configs = [one for one in configs if results.asks_for(candidate, one.split) and not plan.skip(one)]
                if records := [make_trial(plan, config) for config in configs]:
                    write_records(directory / "records", records)
                    scores |= {one.config: one.metrics[results.objective] for one in records}
    return directory


def splits_of(plan: Plan) -> dict[str, list[SplitId]]:
    """The splits of each phase of a study."""
    outer = [SplitId(plan.first_split + place) for place in range(plan.n_splits)]
    inner = [SplitId(split.seed, number) for split in outer for number in range(plan.n_inner)]
    return {phase: inner if phase == SEARCH else outer for phase in SELECTIONS[plan.selection]}


def proposals(plan: Plan) -> dict[str, Any]:
    """What each split's own search proposes; nothing where all splits try the same candidates."""
    if not plan.own_searches:
        return {}
    found = {}
    for method in plan.methods:
        for split in range(plan.n_splits):
            own = [dict(one.params) for one in candidates(plan, method)]
            proposed = [{name: value + 0.01 * split for name, value in one.items()} for one in own]
            found[search_name(method, split)] = {"asked": "x", "proposed": proposed}
    return found


@pytest.fixture(scope="session")
def whole_study(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished study of five methods on three splits, the choice of the reported items; not to be written to."""
    return made_once("whole", lambda folder: make_study(folder, Plan()), tmp_path_factory)


@pytest.fixture(scope="session")
def nested_study(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same, chosen inside each split; not to be written to."""
    plan = Plan(selection="nested", preset="nested", n_inner=2)
    return made_once("nested", lambda folder: make_study(folder, plan), tmp_path_factory)


@pytest.fixture(scope="session")
def nested_report(nested_study: Path, tmp_path_factory: pytest.TempPathFactory) -> ReportFiles:
    """The report of the nested study, with all pairs; not to be written to."""
    return made_once(
        "nested-report", lambda folder: write_report(nested_study, folder, all_pairs=True), tmp_path_factory
    )


@pytest.fixture(scope="session")
def whole_report(whole_study: Path, tmp_path_factory: pytest.TempPathFactory) -> ReportFiles:
    """The report of the finished study; not to be written to."""
    return made_once("whole-report", lambda folder: write_report(whole_study, folder), tmp_path_factory)


@pytest.fixture(scope="session")
def deep_study(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished study of layers, contrastive and supervised; not to be written to."""
    plan = Plan(methods=DEEP_METHODS, preset="deep_augmentation")
    return made_once("deep", lambda folder: make_study(folder, plan), tmp_path_factory)


@pytest.fixture(scope="session")
def deep_report(deep_study: Path, tmp_path_factory: pytest.TempPathFactory) -> ReportFiles:
    """The report of the study of layers; not to be written to."""
    return made_once("deep-report", lambda folder: write_report(deep_study, folder), tmp_path_factory)


@pytest.fixture
def without_pdf(monkeypatch: pytest.MonkeyPatch) -> None:
    """Leave PDF files out of reports: embedding fonts takes half of the time, and the shared reports have them."""
    monkeypatch.setattr("analysis.figures.draw.to_pdf", lambda canvas: b"%PDF")


@pytest.fixture
def study_of(tmp_path: Path, without_pdf: None) -> Callable[..., Path]:
    """Makes a study's directory from changes to the plan of a small one."""

    def make(**changes: Any) -> Path:
        defaults = {"methods": ("control", "e_mixup"), "n_items": 300, "n_classes": 8}
        return make_study(tmp_path / "study", Plan(**{**defaults, **changes}))

    return make
