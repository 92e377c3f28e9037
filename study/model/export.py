"""The best candidate of a study as an MLflow model, to be used without the study."""

from __future__ import annotations

import logging
import os
import shutil
import tempfile
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

import mlflow.pyfunc
import numpy as np
from mlflow.models import ModelSignature
from mlflow.types import ColSpec, DataType, Schema, TensorSpec

from study.errors import ModelError
from study.model.classifier import Classifier, InputColumn
from study.model.retrain import FinishedStudy, find_trial, open_study
from trainables.packs.single import train_on_all, train_trial
from trainables.records.types import TrialConfig

logging.getLogger("mlflow.pyfunc").setLevel(logging.WARNING)

_PACKAGE = "embedding-ablation-study"


@dataclass(frozen=True)
class Trained:
    """A classifier and where it comes from.

    Attributes:
        classifier: The classifier.
        study: The study.
        trial: Whose candidate it is; its seed drew the weights.
        says: How it was trained, in words.
    """

    classifier: Classifier
    study: FinishedStudy
    trial: TrialConfig
    says: str


def train_best(root: Path, cell: str | None = None, split: int | None = None, *, all_items: bool = False) -> Trained:
    """Trains a candidate of a finished study to be used.

    Args:
        root: The study's directory.
        cell: A method, for its best candidate, or a candidate as the report names it; None for the best of all.
        split: Split seed; None for the first that is recorded.
        all_items: Whether to train on every labelled item instead of the split's training items, with as many epochs.

    Raises:
        RunError: No finished trial is meant, or the study's data are no longer there.
        analysis.load.ReportError: The study cannot be read.
    """
    trial = find_trial(root, cell, split).config
    study = open_study(root)
    if all_items:
        lane = train_on_all(study.context, trial.candidate, trial.split)
        says = f"{trial.candidate}, trained on all {int(lane.result.metrics['n_train'])} items"
    else:
        lane = train_trial(study.context, trial)
        says = f"{trial}, trained on its {int(lane.result.metrics['n_train'])} items"
    trained = {
        "study": study.spec.name,
        "candidate": {"method": trial.candidate.method, "params": dict(trial.candidate.params)},
        "seed": trial.split,
        "items": "all" if all_items else f"{trial.phase} split {trial.split}",
        "n_train": int(lane.result.metrics["n_train"]),
        "digests": study.description.digests,
        "hardware": lane.hardware,
        "package": version(_PACKAGE),
    }
    threshold = study.spec.objective.threshold
    return Trained(Classifier.of(lane, study.class_names, threshold, inputs_of(study), trained), study, trial, says)


def inputs_of(study: FinishedStudy) -> tuple[InputColumn, ...]:
    """What a study's classifier takes, in the order of its features."""
    columns = study.embeddings.provenance["columns"]
    return tuple(
        InputColumn(
            columns[name]["column"], columns[name]["encoder"], columns[name]["dimension"], columns[name]["fingerprint"]
        )
        for name in study.embeddings.columns
    )


def write_model(trained: Trained, output: Path) -> Path:
    """Writes an MLflow model, whole or not at all; one that is there is replaced.

    Args:
        trained: What to write.
        output: Folder of the model.
    """
    classifier = trained.classifier
    output.parent.mkdir(parents=True, exist_ok=True)
    aside = Path(tempfile.mkdtemp(prefix=f".{output.name}.", suffix=".tmp", dir=output.parent))
    try:
        data, model = aside / "classifier", aside / "model"
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
                        ColSpec(DataType.string, "most_probable"),
                    ]
                ),
            ),
            input_example=np.zeros((1, classifier.n_features), dtype=np.float32),
            metadata={
                "inputs": [f"{one.column} by {one.encoder}, {one.dimension} numbers" for one in classifier.inputs],
                "threshold": classifier.threshold,
                "trained": trained.says,
            },
        )
        if output.exists():
            if not (output / "MLmodel").exists() and any(output.iterdir()):
                raise ModelError(f"{output} must be a model to be replaced, or empty; give another --output.")
            os.rename(output, aside / "before")
        os.rename(model, output)
    finally:
        shutil.rmtree(aside, ignore_errors=True)
    return output
