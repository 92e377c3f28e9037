"""Write records to MLflow as study, candidate and trial runs; only the driver writes.

Every run has a deterministic key as a tag and is looked for before it is created, and times come from the record. So
writing the same records again, after any interruption, changes nothing.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from mlflow.entities import Dataset, DatasetInput, InputTag, Metric, Param, Run
from mlflow.exceptions import MlflowException

from analysis.format import cause
from analysis.results import mlflow_schema as schema
from analysis.results.aggregate import UNDEFINED, CandidateSummary
from analysis.results.controls import is_reference
from analysis.results.deadline import within
from analysis.results.mlflow import SQLITE, UNREACHABLE, artifacts_of, connect, search_runs
from embedding_jobs.files import remove_asides, whole_file
from study.errors import TrackingError
from study.state.results import StudyOutcome
from trainables.records.types import TrialRecord


@dataclass
class _Known:
    """A run on the server, without its metrics."""

    run_id: str
    finished: bool = False


@dataclass(frozen=True)
class StudyFacts:
    """What the run of a study shows.

    Attributes:
        key: Identifies the study: the same name with other deciding settings is another study.
        params: The settings, flat.
        made_by: Versions, hardware, commit and digests.
        data_digest: Digest of the table's content.
        description: `study.json`; a report from the server alone needs a copy.
        method_code: What identifies the code of each method.
    """

    name: str
    key: str
    params: Mapping[str, Any]
    made_by: Mapping[str, str]
    table: str
    n_items: int
    data_digest: str
    description: Path
    method_code: Mapping[str, str] = field(default_factory=dict)


class Tracker:
    """The runs of one study on one MLflow server.

    Args:
        uri: MLflow tracking address.
        experiment: Experiment name; made if missing.

    Attributes:
        study_run: The id of the study's run.

    Raises:
        TrackingError: The server cannot be reached.
    """

    def __init__(self, uri: str, experiment: str, about: StudyFacts) -> None:
        self._uri, self._about = uri, about
        self._experiment_name = experiment
        self._known: dict[str, _Known] = {}
        with self._as_tracking_errors():
            _make_database(uri)
            self._client = connect(uri, max_retries=0)
            self._experiment = self._experiment_id()
            for run in list(search_runs(self._client, [self._experiment], schema.runs_of(self._about.key))):
                if self._is_by_other_code(run):  # it stays on the server, but no longer as a run of this study
                    self._client.delete_tag(run.info.run_id, schema.STUDY_TAG)
                else:
                    self._known[run.data.tags[schema.KEY_TAG]] = _Known(run.info.run_id, run.info.status != "RUNNING")
            run = self._begun()
            self.study_run, self._artifacts = str(run.info.run_id), artifacts_of(run, uri)
            self._artifacts.log_artifact(str(about.description))

    def write(self, records: Iterable[TrialRecord]) -> int:
        """Write the trials that are missing on the server, complete half-written ones, and return their number.

        Raises:
            TrackingError: The server cannot be reached.
        """
        with self._as_tracking_errors():
            return sum(self._write(record) for record in records)

    def finish(self, outcome: StudyOutcome, attached: Mapping[str, Path]) -> None:
        """End the study's run: write the metrics of the study and of each candidate over its splits, and artifacts.

        Args:
            outcome: The results of the study.
            attached: Folders to attach, by the name they get; missing folders are ignored.

        Raises:
            TrackingError: The server cannot be reached.
        """
        with self._as_tracking_errors():
            self._artifacts.log_artifact(str(self._about.description))  # now with every candidate
            for name, folder in attached.items():
                if folder.is_dir():
                    self._artifacts.log_artifacts(str(folder), name)
            for candidate in outcome.candidates:
                self._summarise(candidate)
            for name, value in outcome.metrics.items():
                self._client.log_metric(self.study_run, name, value)
            self._client.set_terminated(self.study_run, "FINISHED" if outcome.complete else "FAILED")

    def _is_by_other_code(self, run: Run) -> bool:
        made_by = schema.provenance_of(run.data.tags)
        code = self._about.method_code.get(made_by.get("method", ""))
        return code is not None and code != made_by.get("method_code")

    def _summarise(self, candidate: CandidateSummary) -> None:
        run = self._known.get(schema.candidate_key(self._about.key, candidate.phase, candidate.candidate))
        if run is None:  # the server was absent when the trials were written: `study sync` writes both
            return
        # The step is the number of splits and the time is 0, so writing the same splits again changes nothing.
        step = len(candidate.splits)
        metrics = [Metric(schema.N_SPLITS, step, 0, step)]
        for name in schema.SUMMARISED:
            figure = candidate.figures.get(name, UNDEFINED)
            if figure.n == step:  # defined on every split
                metrics.append(Metric(name, figure.mean, 0, step))
                metrics.append(Metric(schema.deviation_metric(name), figure.maximum_deviation, 0, step))
        self._client.log_batch(run.run_id, metrics)

    def _write(self, record: TrialRecord) -> int:
        config = record.config
        key = schema.trial_key(self._about.key, config)
        known = self._known.get(key)
        if known is not None and known.finished:
            return 0
        start_ms = round(record.started_at_s * 1000)
        end_ms = start_ms + max(1, round(record.duration_s * 1000))
        parent = self._candidate_run_id(record, start_ms)
        name = f"{config.candidate.method} · split {config.split}"
        run = known or self._create(key, name, parent, start_ms, record.provenance)
        learning = _learning_curves(record)
        metrics = [
            Metric(name, value, end_ms, 0)
            for name, value in record.metrics.items()
            if value == value and name not in learning  # the last point of the curve has it
        ]
        metrics.append(Metric(schema.DURATION, record.duration_s, end_ms, 0))
        steps = [int(epoch) for epoch in record.curves.epoch]
        for name, values in learning.items():
            points = [Metric(name, v, end_ms, step) for step, v in zip(steps, values, strict=True) if v == v]
            metrics += reversed(points)  # MLflow updates the latest value: with the last point first, once
        self._log(run.run_id, metrics, schema.trial_params(config))
        self._finish(run, end_ms)
        return 1

    def _finish(self, run: _Known, end_ms: int) -> None:
        self._client.set_terminated(run.run_id, "FINISHED", end_ms)
        run.finished = True

    def _candidate_run_id(self, record: TrialRecord, start_ms: int) -> str:
        config = record.config
        key = schema.candidate_key(self._about.key, config.phase, config.candidate)
        run = self._known.get(key) or self._create(
            key, f"{config.phase}: {config.candidate}", self.study_run, start_ms, record.provenance
        )
        if not run.finished:
            self._log(run.run_id, [], schema.candidate_params(config))
            self._finish(run, start_ms + 1)
        return run.run_id

    def _create(
        self, key: str, name: str, parent: str | None, start_ms: int | None, made_by: Mapping[str, str]
    ) -> _Known:
        tags = schema.tags_of(self._about.key, key, made_by)
        if parent is not None:
            tags["mlflow.parentRunId"] = parent
        run = self._client.create_run(self._experiment, start_time=start_ms, tags=tags, run_name=name)
        self._known[key] = _Known(run.info.run_id)
        return self._known[key]

    def _log(self, run_id: str, metrics: list[Metric], params: Mapping[str, Any]) -> None:
        listed = [Param(name, str(value)[:6000]) for name, value in params.items()]
        self._client.log_batch(run_id, metrics[:900], listed[:90])
        for start in range(900, len(metrics), 900):  # the server accepts 1000 values per call
            self._client.log_batch(run_id, metrics[start : start + 900])
        for start in range(90, len(listed), 90):
            self._client.log_batch(run_id, params=listed[start : start + 90])

    def _experiment_id(self) -> str:
        found = self._client.get_experiment_by_name(self._experiment_name)
        if found is not None:
            return str(found.experiment_id)
        if self._uri.startswith("http"):  # the server has a place for artifacts
            return str(self._client.create_experiment(self._experiment_name))
        beside = self._uri.startswith(SQLITE)
        place = Path(self._uri.removeprefix(SQLITE)) if beside else self._about.description
        location = (place.resolve().parent / schema.ARTIFACTS).as_uri()
        tags = {schema.BESIDE_TAG: "true"} if beside else {}
        return str(self._client.create_experiment(self._experiment_name, location, tags))

    def _begun(self) -> Run:
        """Return the study's run, made if missing, with its settings and its data."""
        about = self._about
        run = self._known.get(about.key)
        if run is None:
            run = self._create(about.key, about.name, None, None, about.made_by)
        elif run.finished:
            self._client.update_run(run.run_id, status="RUNNING")
        found = self._client.get_run(run.run_id)
        if not found.data.params:  # the run is new, or was interrupted here
            self._log(run.run_id, [], about.params)
        if not found.inputs.dataset_inputs:
            source = Dataset(
                name=Path(about.table).name,
                digest=about.data_digest[:36],  # the longest that MLflow accepts
                source_type="table",
                source=json.dumps({"uri": about.table}),
                profile=json.dumps({"num_rows": about.n_items}),
            )
            context = InputTag("mlflow.data.context", "training and validation")
            self._client.log_inputs(run.run_id, datasets=[DatasetInput(source, [context])])
        return found

    @contextmanager
    def _as_tracking_errors(self) -> Iterator[None]:
        """Raise every error as a `TrackingError`: artifact stores raise errors of many kinds."""
        try:
            yield
        except Exception as error:
            raise self._explained(error) from error

    def _explained(self, error: Exception) -> TrackingError:
        if isinstance(error, MlflowException) and error.get_http_status_code() in (401, 403):
            return TrackingError(
                f"MLflow at {self._uri} rejected the user: set MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD "
                "to those of a user who may write. Nothing is lost: `study sync` then writes what is missing."
            )
        if isinstance(error, UNREACHABLE):
            return TrackingError(
                f"MLflow at {self._uri} does not answer ({cause(error)}). "
                "Nothing is lost: once it is back, `study sync` writes what is missing."
            )
        return TrackingError(
            f"MLflow at {self._uri} answers but could not store the data ({type(error).__name__}: {error}). Most often "
            "this machine cannot write to its artifact store. Nothing is lost: fix that, then `study sync` writes what "
            "is missing."
        )


def _learning_curves(record: TrialRecord) -> dict[str, list[float]]:
    """Return the curves of a trial that are tracked, by MLflow's name.

    The similarity of layers over the epochs is tracked only for trials without augmentation, where it helps to choose
    the layer to augment: written for every trial, it would take most of the time. The records have it for all.
    """
    found = {name: getattr(record.curves, curve).tolist() for curve, name in schema.LEARNING_CURVES.items()}
    if not is_reference(record.config.candidate.method):
        return found
    return found | {f"cka_{layer}": values.tolist() for layer, values in enumerate(record.curves.epoch_cka.T)}


def check_server(uri: str, limit_s: float = 60) -> None:
    """Send a request to a tracking server. A database needs no check before a study is written.

    Raises:
        TrackingError: The server cannot be reached, rejected the user, or took longer than `limit_s`.
    """
    if not uri.startswith(("http://", "https://")):
        return
    try:
        within(limit_s, lambda: connect(uri, max_retries=0).search_experiments(max_results=1))
    except (*UNREACHABLE, TimeoutError) as error:
        raise TrackingError(cause(error)) from error


def _make_database(uri: str) -> None:
    """Make a SQLite database whole or not at all: MLflow cannot open a half-made one."""
    path = Path(uri.removeprefix(SQLITE))
    if not uri.startswith(SQLITE) or path.exists():
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    remove_asides(path.parent, path.name)
    with whole_file(path) as aside:
        connect(f"{SQLITE}{aside}", max_retries=0).search_experiments(max_results=1)
