"""A study from the runs of an MLflow server alone: no records, no embeddings at hand.

A server holds of each trial its coordinates, figures, learning curves and provenance, and of the study `study.json`. It
does not hold per-item results, nor the curves against threshold and the ROC: what rests on them is left out.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import requests
from mlflow.entities import Run
from mlflow.exceptions import MlflowException
from mlflow.tracking import MlflowClient
from sqlalchemy.exc import SQLAlchemyError

from analysis.format import cause
from analysis.results.load import ReportError, StudyResults, checked, with_unfinished
from trainables.records.description import read_description
from trainables.records.types import Candidate, Curves, TrialConfig, TrialRecord

# A server that is away is an answer within seconds, not after minutes of retries.
os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "1")

os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", "20")

os.environ.setdefault("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")


for _name in ("mlflow.store.db.utils", "alembic"):
    logging.getLogger(_name).setLevel(logging.WARNING)

_UNREACHABLE = (MlflowException, requests.RequestException, SQLAlchemyError)

_KEY_TAG = "ablation.key"

_STUDY_TAG = "ablation.study"

_UNFINISHED = "unfinished"


_LEARNING = {
    "epoch_loss": "train_loss",
    "epoch_accuracy": "curve_accuracy",
    "epoch_accuracy_known": "curve_accuracy_known",
    "epoch_accuracy_none": "curve_accuracy_none",
}

_COORDINATES = ("phase", "method", "split")

_NOTHING = np.empty(0, dtype=np.float32)


@dataclass(frozen=True)
class ServerStudy:
    """A study on an MLflow server.

    Attributes:
        results: What it set out to do, and its finished trials, without items and curves.
        run_ids: The run of each trial.
        client: The connection to its server.
    """

    results: StudyResults
    run_ids: Mapping[TrialConfig, str]
    client: MlflowClient

    def with_learning_curves(self, wanted: Collection[TrialRecord]) -> list[TrialRecord]:
        """Some of its trials with their learning curves.

        Raises:
            ReportError: The server stopped answering.
        """
        with _answering("the MLflow server"):
            return [replace(record, curves=self._curves(self.run_ids[record.config])) for record in wanted]

    def _curves(self, run_id: str) -> Curves:
        found: dict[str, dict[int, float]] = {}
        for field, name in _LEARNING.items():
            found[field] = {metric.step: metric.value for metric in self.client.get_metric_history(run_id, name)}
        epochs = sorted(found["epoch_loss"])
        learning = {
            field: np.array([points.get(epoch, np.nan) for epoch in epochs], np.float32)
            for field, points in found.items()
        }
        return replace(_no_curves(), epoch=np.array(epochs, np.float32), **learning)


def load_runs(uri: str, study: str) -> ServerStudy:
    """Reads a study and its finished trials from a server.

    Args:
        uri: MLflow tracking address.
        study: Name of the study; where several studies of other settings go by it, `NAME/DIGEST`.

    Raises:
        ReportError: The server does not answer, or does not hold one such study.
    """
    if uri.startswith("sqlite:///") and not Path(uri.removeprefix("sqlite:///")).exists():
        raise ReportError(f"{uri} must name a database that exists, it does not. Correct --tracking-uri.")
    with _answering(f"MLflow at {uri}"):
        client = MlflowClient(tracking_uri=uri)
        experiments = {entry.experiment_id: entry.name for entry in client.search_experiments()}
        key, runs = _runs_of_one(list(_search(client, list(experiments), study)), study, uri, experiments)
        own = next(run for run in runs if run.data.tags[_KEY_TAG] == key)
        finished = {}
        for run in runs:
            if "split" in run.data.params and run.info.status == "FINISHED":
                record = _record(run)
                finished[record.config] = (record, run.info.run_id)
        records = [finished[config][0] for config in sorted(finished)]
        with TemporaryDirectory() as folder:
            description = read_description(_study_json(client, own, folder, uri).parent)
            if own.info.status == "RUNNING":  # it has proposed more since it was begun
                description = replace(description, candidates={})
            results = checked(description, records)
            if any(artifact.path == _UNFINISHED for artifact in client.list_artifacts(own.info.run_id)):
                unfinished = client.download_artifacts(own.info.run_id, _UNFINISHED, folder)
                results = with_unfinished(results, Path(unfinished))
    return ServerStudy(results, {config: run for config, (_, run) in finished.items()}, client)


def _search(client: MlflowClient, experiments: list[str], study: str) -> Iterator[Run]:
    """Every run of the studies of a name."""
    # The name is put between quotes: one that holds a quote is none of a study.
    name = study.replace("'", "")
    condition = f"tags.`{_STUDY_TAG}` LIKE '{name if '/' in name else f'{name}/%'}'"
    token: str | None = None
    while experiments:
        page = client.search_runs(experiments, condition, max_results=1000, page_token=token)
        yield from page
        token = page.token
        if not token:
            return


def _runs_of_one(runs: list[Run], study: str, uri: str, experiments: Mapping[str, str]) -> tuple[str, list[Run]]:
    """The key of the one study meant, and its runs."""
    places: dict[tuple[str, str], list[Run]] = {}
    for run in runs:
        places.setdefault((run.data.tags[_STUDY_TAG], run.info.experiment_id), []).append(run)
    whole = {place: own for place, own in places.items() if any(run.data.tags[_KEY_TAG] == place[0] for run in own)}
    if not whole:
        there = ", ".join(sorted(name for name in experiments.values() if name != "Default")) or "none"
        raise ReportError(f"{uri} must hold the study {study!r}, it does not. Its experiments: {there}.")
    if len(whole) > 1:
        listed = ", ".join(
            f"{key} ({len(own)} runs in {experiments[place]})" for (key, place), own in sorted(whole.items())
        )
        raise ReportError(
            f"--study must mean one study, {study!r} means {len(whole)} of other settings or data: {listed}. "
            "Name one with its digest."
        )
    ((key, _), own) = next(iter(whole.items()))
    return key, own


def _study_json(client: MlflowClient, run: Run, folder: str, uri: str) -> Path:
    try:
        return Path(client.download_artifacts(run.info.run_id, "study.json", folder))
    except (MlflowException, OSError) as error:
        raise ReportError(
            f"The run {run.info.run_id} of {uri} must hold the artifact study.json, it cannot be had "
            f"({str(error).splitlines()[0][:200]}). `study sync`, where the records are, writes it."
        ) from error


def _record(run: Run) -> TrialRecord:
    params, tags = run.data.params, run.data.tags
    chosen = {name: float(value) for name, value in params.items() if name not in _COORDINATES}
    left_out = {*_LEARNING.values(), "duration_s"}
    return TrialRecord(
        config=TrialConfig(params["phase"], Candidate.of(params["method"], chosen), int(params["split"])),
        metrics={name: value for name, value in run.data.metrics.items() if name not in left_out},
        curves=_no_curves(),
        items=None,
        started_at_s=run.info.start_time / 1000,
        duration_s=run.data.metrics["duration_s"],
        provenance={
            name.removeprefix("ablation."): value
            for name, value in tags.items()
            if name.startswith("ablation.") and name not in (_KEY_TAG, _STUDY_TAG)
        },
    )


def _no_curves() -> Curves:
    return Curves(*[_NOTHING] * 11)


@contextmanager
def _answering(what: str) -> Iterator[None]:
    """Turns what a server that is away raises into a `ReportError`."""
    try:
        yield
    except _UNREACHABLE as error:
        raise ReportError(
            f"{what} does not answer ({cause(error)}). Correct the address, or start the server."
        ) from error
