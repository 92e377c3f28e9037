"""Read a study from an MLflow server alone, without its records and embeddings.

A server has the coordinates, figures, learning curves and provenance of each trial, and `study.json` of the study. It
has neither per-item results nor the ROC and the curves against threshold: a report without records omits what rests on
them.
"""

from __future__ import annotations

import logging
import os
import sqlite3
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import fields, replace
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import requests
from mlflow.entities import Run
from mlflow.exceptions import MlflowException
from mlflow.store.artifact.artifact_repo import ArtifactRepository
from mlflow.store.artifact.artifact_repository_registry import get_artifact_repository
from mlflow.tracking import MlflowClient
from sqlalchemy.exc import SQLAlchemyError

from analysis.format import cause
from analysis.results import mlflow_schema as schema
from analysis.results.aggregate import StudyResults
from analysis.results.deadline import SameThread, within
from analysis.results.load import ReportError, checked, with_unfinished
from trainables.records.description import DESCRIPTION, read_description
from trainables.records.types import Curves, TrialRecord

# What MLflow raises if a server or a database does not answer.
UNREACHABLE = (MlflowException, requests.RequestException, SQLAlchemyError, sqlite3.Error)

SQLITE = "sqlite:///"

_SETTINGS = {
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "20",  # seconds
    "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",  # else two lines for every run that ends on a server
}

# Tables and columns of MLflow's database that hold absolute locations of artifacts.
_LOCATIONS = (("experiments", "artifact_location"), ("runs", "artifact_uri"), ("logged_models", "artifact_location"))

_NO_CURVES = Curves(*[np.empty(0, dtype=np.float32)] * len(fields(Curves)[:-1]))


def connect(uri: str, max_retries: int) -> MlflowClient:
    """Return a quiet client that reports an absent server within seconds; MLflow's defaults retry for minutes.

    Environment variables that the user has set are kept.

    Args:
        uri: MLflow tracking address.
        max_retries: How often a request is repeated that had no answer.
    """
    if uri.startswith(SQLITE):
        _follow(Path(uri.removeprefix(SQLITE)))
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", str(max_retries))
    for name, value in _SETTINGS.items():
        os.environ.setdefault(name, value)
    for name in ("mlflow.store.db.utils", "alembic"):
        logging.getLogger(name).setLevel(logging.WARNING)
    return MlflowClient(tracking_uri=uri)


def _follow(database: Path) -> None:
    """Correct the locations of artifacts in a database that was moved or copied with its folder.

    MLflow keeps absolute locations. Uncorrected, what is written in a copy would change the original.
    """
    if not database.exists():
        return
    new = (database.resolve().parent / schema.ARTIFACTS).as_uri()
    with closing(sqlite3.connect(database, timeout=20)) as connection, connection:
        if not connection.execute("SELECT 1 FROM sqlite_master WHERE name = 'experiment_tags'").fetchone():
            return
        moved = connection.execute(
            "SELECT experiment_id, artifact_location FROM experiments JOIN experiment_tags USING (experiment_id) "
            "WHERE key = ? AND artifact_location != ?",
            (schema.BESIDE_TAG, new),
        ).fetchall()
        for experiment, old in moved:
            for table, column in _LOCATIONS:
                connection.execute(
                    f"UPDATE {table} SET {column} = ? || substr({column}, ?) "
                    f"WHERE experiment_id = ? AND ({column} = ? OR substr({column}, 1, ?) = ?)",
                    (new, len(old) + 1, experiment, old, len(old) + 1, f"{old}/"),
                )


def artifacts_of(run: Run, uri: str) -> ArtifactRepository:
    """Return the artifacts of a run.

    MLflow's client remembers them by the id of the run for the whole process, and a copied database has the same ids.
    """
    artifacts = get_artifact_repository(run.info.artifact_uri, tracking_uri=uri)
    artifacts.thread_pool = SameThread()
    return artifacts


def search_runs(client: MlflowClient, experiments: Sequence[str], condition: str) -> Iterator[Run]:
    """Yield every run of some experiments that meets a condition, over all pages of the answer."""
    token: str | None = None
    while experiments:
        page = client.search_runs(list(experiments), condition, max_results=1000, page_token=token)
        yield from page
        token = page.token
        if not token:
            return


def load_runs(uri: str, study: str, limit_s: float = 300) -> StudyResults:
    """Read a study and its finished trials from a server: without items, the reported trials with learning curves.

    Args:
        uri: MLflow tracking address.
        study: Name of the study, or `NAME/DIGEST` if several studies with other settings have that name.
        limit_s: The longest time that the server may take for all of it.

    Raises:
        ReportError: The server does not answer, takes too long, or does not have exactly one such study.
        DescriptionError: The server's `study.json` is not valid.
    """
    if uri.startswith(SQLITE) and not Path(uri.removeprefix(SQLITE)).exists():
        raise ReportError(f"{uri} names a database that does not exist. Correct --tracking-uri.")
    with _answering(f"MLflow at {uri}"):
        return within(limit_s, lambda: _load_runs(uri, study))


def _load_runs(uri: str, study: str) -> StudyResults:
    client = connect(uri, max_retries=1)
    experiments = {entry.experiment_id: entry.name for entry in client.search_experiments()}
    named = search_runs(client, list(experiments), schema.runs_of(study))
    key, runs = _runs_of_one(list(named), study, uri, experiments)
    own = next(run for run in runs if run.data.tags[schema.KEY_TAG] == key)
    finished = {}
    for run in runs:
        if schema.is_trial(run.data.params) and run.info.status == "FINISHED":
            record = _record(run)
            finished[record.config] = (record, run.info.run_id)
    records = [finished[config][0] for config in sorted(finished)]
    with TemporaryDirectory() as folder:
        artifacts = artifacts_of(own, uri)
        description = read_description(_study_json(artifacts, own, folder, uri).parent)
        if own.info.status == "RUNNING":  # it may have proposed more candidates since it started
            description = replace(description, candidates={})
        results = checked(description, records)
        if any(artifact.path == schema.UNFINISHED for artifact in artifacts.list_artifacts()):
            unfinished = artifacts.download_artifacts(schema.UNFINISHED, folder)
            results = with_unfinished(results, Path(unfinished))
    reported = {record.config for records in results.reported_records.values() for record in records}
    with_curves = (
        replace(one, curves=_learning_curves(client, finished[one.config][1])) if one.config in reported else one
        for one in results.records
    )
    return replace(results, records=tuple(with_curves))


def _learning_curves(client: MlflowClient, run_id: str) -> Curves:
    found: dict[str, dict[int, float]] = {}
    for field, name in schema.LEARNING_CURVES.items():
        found[field] = {metric.step: metric.value for metric in client.get_metric_history(run_id, name)}
    epochs = sorted(found["epoch_loss"])
    learning = {
        field: np.array([points.get(epoch, np.nan) for epoch in epochs], np.float32) for field, points in found.items()
    }
    return replace(_NO_CURVES, epoch=np.array(epochs, np.float32), **learning)


def _runs_of_one(runs: list[Run], study: str, uri: str, experiments: Mapping[str, str]) -> tuple[str, list[Run]]:
    """Return the key of the one study that has the name, and its runs."""
    places: dict[tuple[str, str], list[Run]] = {}
    for run in runs:
        places.setdefault((run.data.tags[schema.STUDY_TAG], run.info.experiment_id), []).append(run)
    keys = {place: {run.data.tags[schema.KEY_TAG] for run in own} for place, own in places.items()}
    found = [place for place in sorted(places) if place[0] in keys[place]]  # else the study's own run was deleted
    if not found:
        there = ", ".join(sorted(name for name in experiments.values() if name != "Default")) or "none"
        raise ReportError(f"{uri} has no study {study!r}. Its experiments: {there}.")
    if len(found) > 1:
        listed = ", ".join(f"{key} ({len(places[key, at])} runs in {experiments[at]})" for key, at in found)
        raise ReportError(
            f"--study must name one study, {study!r} names {len(found)} with other settings or data: {listed}. "
            "Add the digest to the name."
        )
    return found[0][0], places[found[0]]


def _study_json(artifacts: ArtifactRepository, run: Run, folder: str, uri: str) -> Path:
    try:
        return Path(artifacts.download_artifacts(DESCRIPTION, folder))
    except (MlflowException, OSError) as error:
        raise ReportError(
            f"The artifact {DESCRIPTION} of run {run.info.run_id} at {uri} is not available "
            f"({str(error).splitlines()[0][:200]}). Run `study sync` where the records are: it writes the artifact."
        ) from error


def _record(run: Run) -> TrialRecord:
    metrics = run.data.metrics
    return TrialRecord(
        config=schema.config_of(run.data.params),
        metrics={name: value for name, value in metrics.items() if name not in schema.NOT_FIGURES},
        curves=_NO_CURVES,
        items=None,
        started_at_s=run.info.start_time / 1000,
        duration_s=metrics[schema.DURATION],
        provenance=schema.provenance_of(run.data.tags),
    )


@contextmanager
def _answering(what: str) -> Iterator[None]:
    """Raise a `ReportError` where a server does not answer in time."""
    try:
        yield
    except (*UNREACHABLE, TimeoutError) as error:
        raise ReportError(
            f"{what} does not answer ({cause(error)}). Correct the address, or start the server."
        ) from error
