"""Export the best candidate of a study as an MLflow model that does not need the study."""

from __future__ import annotations

import logging
import math
import os
from collections.abc import Sequence
from dataclasses import dataclass, replace
from importlib.metadata import version
from pathlib import Path
from tempfile import TemporaryDirectory

import mlflow.pyfunc
import numpy as np
from mlflow.models import ModelSignature
from mlflow.types import ColSpec, DataType, ParamSchema, ParamSpec, Schema, TensorSpec
from mlflow.types.schema import Array

from analysis.results.convergence import remarks
from analysis.results.load import load_study
from embedding_jobs.files import replaceable
from study.config.schema import Resources
from study.errors import RunError
from study.model.choose import Choice, Say, calibration_split, choose
from study.model.classifier import Classifier, InputColumn
from study.model.conformal import ConformalLimits
from study.model.retrain import FinishedStudy, find_trial, open_study, trials_of
from trainables.methods.registry import method_code
from trainables.packs.single import TrainedLane, train_on, train_trial
from trainables.records.types import (
    NOT_CALIBRATED,
    TEST,
    Calibration,
    Candidate,
    Design,
    SplitId,
    TrialConfig,
    TrialRecord,
)
from trainables.sampling.splits import Split, split_of_all

_PACKAGE = "embedding-ablation-study"

# The folder in the study's directory.
MODEL = "model"


@dataclass(frozen=True)
class TrainedModel:
    """A classifier, and how it was trained, as text."""

    classifier: Classifier
    summary: str


@dataclass(frozen=True)
class _Trained:
    """A trained candidate, and what is to be said of it.

    Attributes:
        items: What it was trained on.
        remark: What was chosen and how, after the number of items.
        choice: What inner splits chose; None where there were none, or the study's own did.
    """

    lane: TrainedLane
    trial: TrialConfig
    items: str
    remark: str
    calibration: Calibration = NOT_CALIBRATED
    choice: Choice | None = None


def train_best(
    root: Path,
    cell: str | None = None,
    split: int | None = None,
    resources: Resources | None = None,
    *,
    error_rate: float | None = None,
    say: Say = lambda _: None,
) -> TrainedModel:
    """Train a candidate of a finished study for use.

    Without `split` it is trained on all labelled items. Where the study's selection is nested, the candidates that its
    splits have chosen for the cell are first scored on inner splits of all items, which also choose the threshold and
    the temperature. No item is left to say how good the result is: that is what the study's figures say of the method.

    With `error_rate` it also predicts sets of labels (`study.model.conformal`). Then a fifth of the items, drawn at
    random, calibrates the sets: nothing is trained or chosen on it here. The study itself has chosen the candidates to
    try on all items.

    Args:
        root: The study's directory.
        cell: A method, or a candidate as the report names it; None for the best method.
        split: Seed of a split, whose test trial is trained again instead, on the split's training items.
        resources: What it trains on; None for that of the study's last run.
        error_rate: Of the sets of labels, in (0, 1).
        say: Called with a line before each of several trainings.

    Raises:
        RunError: No finished trial matches, or the study's embeddings or the method's code have changed.
        ReportError: The study is not readable.
        TrainingError: A GPU is asked for, and there is none, or a training gives no result.
        ModelError: The error rate is not between 0 and 1.
    """
    if split is not None:
        record = find_trial(root, cell, SplitId(split))
        _refuse_other_code(record)
        _refuse_reference(record.config.candidate)
        study, conformal = open_study(root, resources), None
        lane = train_trial(study.context, record.config, record.calibration)
        name = f"{record.config.phase} split {split}"
        done = _Trained(lane, record.config, name, "", record.calibration)
        says = f"{record.config}, trained on its {_n_train(lane)} items"
    else:
        trials = trials_of(load_study(root), cell)
        _refuse_reference(trials[0].candidate)
        _refuse_other_code(find_trial(root, trials[0].candidate.key, trials[0].split))
        study = open_study(root, resources)
        candidates = sorted({trial.candidate for trial in trials if trial.phase == trials[0].phase})
        done, conformal = _on_all(study, candidates, error_rate, say)
        says = f"{done.trial.candidate}, trained on {done.items} items; {done.remark}"
    return TrainedModel(_classifier(study, done, error_rate, conformal), says)


def _refuse_reference(candidate: Candidate) -> None:
    if candidate.is_reference:
        raise RunError(f"{candidate} is a reference, without a network to use: name another method.")


def _on_all(
    study: FinishedStudy, candidates: Sequence[Candidate], error_rate: float | None, say: Say
) -> tuple[_Trained, Split | None]:
    """Choose and train on all items, or on four fifths of them; the other fifth then calibrates."""
    context, seed = study.context, study.spec.splits.seed
    split = split_of_all(context.items, context.rules)
    n_all, items, n_calibration = len(split.train), f"all {len(split.train)}", 0
    if error_rate is not None:
        split = calibration_split(context, seed)
        items, n_calibration = f"{len(split.train)} of all {n_all}", len(split.validation)
        # Official validation items would choose, though some of them calibrate.
        context = replace(context, rules=replace(context.rules, design=Design.RANDOM))
        study = replace(study, context=context)
    choice, calibration = None, NOT_CALIBRATED
    if study.spec.search.selection == "nested":
        choice = choose(study, candidates, split.train, say)
        candidate, calibration, remark = choice.candidate, choice.calibration, str(choice)
        n_trained = len(candidates) * choice.n_inner_splits + 1
        say(f"Training {n_trained} of {n_trained}: {candidate} on {items} items")
    else:
        candidate = candidates[0]
        remark = "nothing was held out to choose it, and the threshold is the fixed one"
    if error_rate is not None:
        remark += f"; sets of labels at an error rate of {error_rate:g}, calibrated on {n_calibration} other items"
        if context.items.groups is not None:
            remark += ", which come in groups and are not independent: expect this rate only approximately"
    lane = train_on(context, candidate, seed, split)
    trial = TrialConfig(TEST, candidate, SplitId(seed))
    return _Trained(lane, trial, items, remark, calibration, choice), None if error_rate is None else split


def _n_train(lane: TrainedLane) -> int:
    return int(lane.result.metrics["n_train"])


def _refuse_other_code(record: TrialRecord) -> None:
    method = record.config.candidate.method
    recorded, now = record.provenance.get("method_code", "missing"), method_code(method)
    if recorded != now:
        raise RunError(
            f"The code of {method} must be what its records were made with ({recorded}), got {now}. Restore it, or run "
            "the study again in another `directory`."
        )


def _classifier(study: FinishedStudy, done: _Trained, error_rate: float | None, calibrates: Split | None) -> Classifier:
    lane, candidate = done.lane, done.trial.candidate
    temperature = done.calibration.temperature if math.isfinite(done.calibration.temperature) else 1.0
    threshold = done.calibration.threshold
    if not math.isfinite(threshold):
        threshold = temperature * _logit(study.spec.objective.threshold)
    alone = {candidate.method: [lane.result.record(done.trial, 0.0, {})]}
    trained = {
        "study": study.spec.name,
        "candidate": {"method": candidate.method, "params": dict(candidate.params)},
        "seed": done.trial.split.seed,
        "items": done.items,
        "n_train": _n_train(lane),
        "chosen": None if done.choice is None else done.choice.described(),
        "remark": done.remark,
        "digests": study.description.digests,
        "hardware": lane.hardware,
        "convergence": next(iter(remarks(alone, study.description.settings["training"])), None),
        "package": version(_PACKAGE),
    }
    classifier = Classifier(
        weights=lane.weights,
        biases=lane.biases,
        shift=lane.shift,
        scale=lane.scale,
        classes=tuple(study.description.data.class_names[label] for label in lane.known),
        threshold_logit=threshold,
        inputs=_inputs_of(study),
        trained=trained,
        residual=tuple(number for number, adds in enumerate(lane.residual) if adds),
        temperature=temperature,
    )
    if error_rate is None or calibrates is None:
        return classifier
    output = np.full(len(study.description.data.class_names), -1)
    output[lane.known] = np.arange(len(lane.known))
    target = output[study.context.labels[calibrates.validation]]
    limits = ConformalLimits.of(classifier.logits(study.embeddings.matrix[calibrates.validation]), target)
    limits.limit(error_rate)  # refuses a rate that is none
    return replace(classifier, error_rate=error_rate, conformal=limits)


def _logit(probability: float) -> float:
    """Return the logit of a probability; of 0 and 1, what every or no logit exceeds."""
    most = float(np.finfo(np.float32).max)
    return math.log(probability / (1 - probability)) if 0 < probability < 1 else math.copysign(most, probability - 0.5)


def _inputs_of(study: FinishedStudy) -> tuple[InputColumn, ...]:
    columns = (study.embeddings.provenance["columns"][name] for name in study.embeddings.columns)
    return tuple(InputColumn(one["column"], one["encoder"], one["dimension"], one["fingerprint"]) for one in columns)


def _signature(classifier: Classifier) -> ModelSignature:
    outputs = [
        ColSpec(DataType.string, "class"),
        ColSpec(DataType.double, "confidence"),
        ColSpec(DataType.double, "logit"),
        ColSpec(DataType.string, "most_probable"),
    ]
    params = None
    if classifier.conformal is not None:
        outputs += [ColSpec(Array(DataType.string), "set"), ColSpec(DataType.double, "p_known")]
        params = ParamSchema([ParamSpec("error_rate", DataType.double, classifier.error_rate)])
    inputs = Schema([TensorSpec(np.dtype(np.float32), (-1, classifier.n_features))])
    return ModelSignature(inputs, Schema(outputs), params)


def write_model(trained: TrainedModel, output: Path) -> Path:
    """Write an MLflow model, complete or not at all. A model that exists in the folder is replaced.

    Raises:
        StudyError: The folder contains something other than a model.
    """
    logging.getLogger("mlflow.pyfunc").setLevel(logging.WARNING)
    classifier = trained.classifier
    output.parent.mkdir(parents=True, exist_ok=True)
    with TemporaryDirectory(prefix=f".{output.name}.", suffix=".tmp", dir=output.parent) as aside:
        data, model = Path(aside, "classifier"), Path(aside, "model")
        data.mkdir()
        classifier.save(data)
        mlflow.pyfunc.save_model(
            str(model),
            loader_module="study.model.classifier",
            data_path=str(data),
            pip_requirements=[f"{name}=={version(name)}" for name in (_PACKAGE, "numpy", "pandas", "safetensors")],
            signature=_signature(classifier),
            input_example=np.zeros((1, classifier.n_features), dtype=np.float32),
            metadata={
                "inputs": [f"{one.column} by {one.encoder}, {one.dimension} dimensions" for one in classifier.inputs],
                "threshold": classifier.threshold,
                "temperature": classifier.temperature,
                "error_rate": classifier.error_rate,
                "trained": trained.summary,
                "convergence": classifier.trained["convergence"],
            },
        )
        if output.exists():
            os.rename(replaceable(output, "MLmodel", "an exported model"), Path(aside, "before"))
        os.rename(model, output)
    return output
