"""Export the best candidate of a study as an MLflow model that does not need the study."""

from __future__ import annotations

import logging
import os
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from tempfile import TemporaryDirectory

import mlflow.pyfunc
import numpy as np
from mlflow.models import ModelSignature
from mlflow.types import ColSpec, DataType, Schema, TensorSpec

from analysis.results.convergence import remarks
from embedding_jobs.files import replaceable
from study.config.schema import Resources
from study.errors import RunError
from study.model.classifier import Classifier, InputColumn
from study.model.retrain import FinishedStudy, find_trial, open_study
from trainables.methods.registry import method_code
from trainables.packs.single import train_on_all, train_trial

_PACKAGE = "embedding-ablation-study"


@dataclass(frozen=True)
class TrainedModel:
    """A classifier, and how it was trained, as text."""

    classifier: Classifier
    summary: str


def train_best(
    root: Path,
    cell: str | None = None,
    split: int | None = None,
    resources: Resources | None = None,
    *,
    all_items: bool = False,
) -> TrainedModel:
    """Train the candidate of a finished study that `find_trial` finds, for use.

    With `all_items`, it is trained on every labelled item instead of the split's training items, for as many epochs.
    `resources` is what it trains on; None for that of the study's last run.

    Raises:
        RunError: No finished trial matches, or the study's embeddings or the method's code have changed.
        ReportError: The study is not readable.
        TrainingError: A GPU is asked for, and there is none.
    """
    record = find_trial(root, cell, split)
    trial, method = record.config, record.config.candidate.method
    recorded, now = record.provenance.get("method_code", "missing"), method_code(method)
    if recorded != now:
        raise RunError(
            f"The code of {method} must be what its records were made with ({recorded}), got {now}. Restore it, or run "
            "the study again in another `directory`."
        )
    study = open_study(root, resources)
    if all_items:
        lane, of = train_on_all(study.context, trial.candidate, trial.split), f"{trial.candidate}, trained on all"
    else:
        lane, of = train_trial(study.context, trial), f"{trial}, trained on its"
    n_train = int(lane.result.metrics["n_train"])
    alone = {method: [lane.result.record(trial, 0.0, {})]}
    trained = {
        "study": study.spec.name,
        "candidate": {"method": trial.candidate.method, "params": dict(trial.candidate.params)},
        "seed": trial.split,
        "items": "all" if all_items else f"{trial.phase} split {trial.split}",
        "n_train": n_train,
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
        threshold=study.spec.objective.threshold,
        inputs=_inputs_of(study),
        trained=trained,
        residual=tuple(number for number, adds in enumerate(lane.residual) if adds),
    )
    return TrainedModel(classifier, f"{of} {n_train} items")


def _inputs_of(study: FinishedStudy) -> tuple[InputColumn, ...]:
    columns = (study.embeddings.provenance["columns"][name] for name in study.embeddings.columns)
    return tuple(InputColumn(one["column"], one["encoder"], one["dimension"], one["fingerprint"]) for one in columns)


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
            signature=ModelSignature(
                Schema([TensorSpec(np.dtype(np.float32), (-1, classifier.n_features))]),
                Schema(
                    [
                        ColSpec(DataType.string, "class"),
                        ColSpec(DataType.double, "confidence"),
                        ColSpec(DataType.double, "logit"),
                        ColSpec(DataType.string, "most_probable"),
                    ]
                ),
            ),
            input_example=np.zeros((1, classifier.n_features), dtype=np.float32),
            metadata={
                "inputs": [f"{one.column} by {one.encoder}, {one.dimension} dimensions" for one in classifier.inputs],
                "threshold": classifier.threshold,
                "trained": trained.summary,
                "convergence": classifier.trained["convergence"],
            },
        )
        if output.exists():
            os.rename(replaceable(output, "MLmodel", "an exported model"), Path(aside, "before"))
        os.rename(model, output)
    return output
