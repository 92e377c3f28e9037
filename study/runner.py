"""Runs a study: what is missing -> Ray Tune -> records.

A study's directory is its state. Whatever a run finds recorded there it does not do again; whatever interrupts it, the
next run goes on from the records.
"""

from __future__ import annotations

import contextlib
import fcntl
import logging
import os
import shutil
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

# Tune's own loggers and tables cost a fifth of a second a trial and say what progress says better.
os.environ.setdefault("TUNE_DISABLE_AUTO_CALLBACK_LOGGERS", "1")
os.environ.setdefault("TUNE_DISABLE_SIGINT_HANDLER", "1")
os.environ.setdefault("RAY_AIR_NEW_OUTPUT", "0")

import numpy as np
import numpy.typing as npt
import ray
from ray import tune
from ray.tune.experiment import Trial

# Read by the processes that Ray starts; set before the import, this one would announce it.
os.environ.setdefault("RAY_BACKEND_LOG_LEVEL", "fatal")

from embedding_jobs.encoders import EncoderConfig, ImageEncoderConfig, TextEncoderConfig, encoder_name
from embedding_jobs.extract import ExtractionSummary, extract
from embedding_jobs.store import Embeddings, Store
from study.description import DESCRIPTION, describe, read_description, refuse_other_settings, write_description
from study.progress import Progress
from study.search import FixedProposals, PackQueue, PackSearcher, Proposals, proposals
from study.spec import StudySpec, phases
from study.tracking import BackgroundTracker, Tracker, TrackingError
from trainables.engine import Settings
from trainables.pack import Pack, PackContext, PackTrainable
from trainables.records import Candidate, TrialConfig, TrialRecord, read_record_file, read_records


class StudyError(RuntimeError):
    """A study that cannot be run as it stands."""


@dataclass(frozen=True)
class StudyResult:
    """How a run ended.

    Attributes:
        directory: The study's directory.
        n_trained: Trials trained by this run.
        n_recorded: Trials recorded in all.
        failures: A sentence for each pack that failed for good.
        tracking_problem: Why the tracker is behind, if it is.
    """

    directory: Path
    n_trained: int
    n_recorded: int
    failures: tuple[str, ...]
    tracking_problem: str | None


def connect(spec: StudySpec) -> None:
    """Joins the cluster that the study file names, or starts Ray on this machine; once a process."""
    if ray.is_initialized():
        return
    logging.getLogger("ray").setLevel(logging.ERROR)
    ray.init(
        address=spec.resources.address,
        log_to_driver=False,
        logging_level=logging.ERROR,
        **({} if spec.resources.address else {"include_dashboard": False}),
    )


def encoder_configs(spec: StudySpec) -> dict[str, EncoderConfig]:
    """The encoder of each encoded column, in the order of the classifier's input."""
    configs: dict[str, EncoderConfig] = {}
    if spec.encoders.text is not None:
        configs |= {column: TextEncoderConfig(**spec.encoders.text.model_dump()) for column in spec.data.text}
    if spec.encoders.image is not None and spec.data.image is not None:
        configs[spec.data.image] = ImageEncoderConfig(**spec.encoders.image.model_dump())
    return configs


def embed(spec: StudySpec, progress: Progress) -> ExtractionSummary:
    """Encodes the shards that the store lacks."""
    connect(spec)
    summary = extract(
        spec.data.source,
        encoder_configs(spec),
        spec.store,
        rows_per_shard=spec.resources.rows_per_shard,
        on_progress=progress.embedding,
    )
    progress.end_embedding()
    for column in summary.columns:
        done = f"{column.n_inputs_encoded:,} distinct inputs encoded in {column.elapsed_s:.0f} s"
        progress.say(
            f"{column.name}: {column.n_items:,} items, {done if column.n_inputs_encoded else 'already encoded'}"
            + (f", {column.n_empty:,} empty texts" if column.n_empty else "")
            + (f", {column.n_truncated:,} texts cut at the model's limit" if column.n_truncated else "")
            + (f", {column.n_skipped:,} skipped" if column.n_skipped else "")
        )
    return summary


def run_study(spec: StudySpec, progress: Progress) -> StudyResult:
    """Encodes every shard and trains every planned trial that is not yet there.

    Raises:
        StudyError: Another run works in the directory.
        study.description.DescriptionError: Its records were made with other settings or data.
        embedding_jobs.sources.SourceError: The table is unsound.
        embedding_jobs.encoders.EncoderError: An encoder cannot be had.
        embedding_jobs.store.StoreError: The store is of another table or encoder.
    """
    spec.root.mkdir(parents=True, exist_ok=True)
    with _only_run(spec.root):
        embed(spec, progress)
        columns = [f"{column}--{encoder_name(config)}" for column, config in encoder_configs(spec).items()]
        embeddings = Store(spec.store).load(columns)
        class_names, labels = np.unique(embeddings.labels, return_inverse=True)
        description = describe(spec, embeddings, [str(name) for name in class_names])
        refuse_other_settings(spec, description)
        write_description(spec.root, description)
        recorded = read_records(spec.records)
        tracker = BackgroundTracker(lambda: make_tracker(spec, description))
        tracker.write(recorded)
        context = ray.put(_context(spec, embeddings, labels, description))
        run = _Run(spec, progress, tracker, {record.config: record for record in recorded})
        for phase in phases(spec.splits.protocol):
            if not run.failures:
                run.phase(phase, context)
        problem = None
        try:
            tracker.close()
        except TrackingError as error:
            problem = str(error)
        return StudyResult(spec.root, run.n_trained, len(run.records), tuple(run.failures), problem)


def make_tracker(spec: StudySpec, description: Mapping[str, Any]) -> Tracker:
    """The tracker of a study.

    Raises:
        TrackingError: The server cannot be reached.
    """
    key = f"{spec.name}/{description['digests']['settings']}"
    params = {**spec.deciding_settings(), "splits.n_splits": spec.splits.n_splits, **description["digests"]}
    return Tracker(
        spec.tracking_uri,
        spec.tracking.experiment or spec.name,
        spec.name,
        key,
        params,
        spec.root / "mlartifacts",
        spec.root / DESCRIPTION,
    )


def attach_report(spec: StudySpec, report: Path, metrics: Mapping[str, float], *, complete: bool) -> str | None:
    """Ends the study's MLflow run with its report and figures.

    Args:
        spec: The study.
        report: Folder to attach.
        metrics: Figures of the study.
        complete: Whether every planned trial is recorded.

    Returns:
        Why it could not be done, or None.
    """
    try:
        make_tracker(spec, read_description(spec.root)).finish(metrics, report, complete=complete)
    except TrackingError as error:
        return str(error)
    return None


class _Run:
    """The phases of one run: hands packs to Tune and takes note of what they leave."""

    def __init__(
        self, spec: StudySpec, progress: Progress, tracker: BackgroundTracker, records: dict[TrialConfig, TrialRecord]
    ) -> None:
        self.spec, self.progress, self.tracker, self.records = spec, progress, tracker, records
        self.n_trained = 0
        self.failures: list[str] = []
        self._best: dict[str, Candidate] = {}

    def phase(self, phase: str, context: ray.ObjectRef) -> None:
        spec, metric = self.spec, self.spec.objective.metric
        if phase == "confirm":
            methods: dict[str, Proposals] = {name: FixedProposals([best]) for name, best in self._best.items()}
        else:
            methods = {method: proposals(spec.search, method) for method in spec.search.methods}
        scores = {trial: record.metrics[metric] for trial, record in self.records.items()}
        splits = spec.split_seeds(phase)
        n_planned = sum(plan.planned for plan in methods.values()) * len(splits)
        queue = PackQueue(phase, methods, splits, scores, spec.resources.lanes_per_pack)
        self.progress.start_phase(phase, queue, n_planned, metric)
        self.progress.recorded(record for trial, record in self.records.items() if trial in set(queue.trials()))
        if not queue.exhausted:
            self._tune(queue, context)
        self.progress.end_phase()
        self._best = {method: best for method in methods if (best := queue.best(method)) is not None}

    def _tune(self, queue: PackQueue, context: ray.ObjectRef) -> None:
        resources = self.spec.resources
        storage = self.spec.root / "tune"
        shutil.rmtree(storage, ignore_errors=True)  # Tune's own state: never read again
        trainable = tune.with_resources(
            tune.with_parameters(PackTrainable, context=context),
            {"cpu": resources.cpus_per_pack, "gpu": resources.gpus_per_pack},
        )
        tune.Tuner(
            trainable,
            tune_config=tune.TuneConfig(
                search_alg=PackSearcher(queue),
                num_samples=-1,
                reuse_actors=True,
                trial_name_creator=lambda trial: trial.trial_id,
                trial_dirname_creator=lambda trial: trial.trial_id,
            ),
            run_config=tune.RunConfig(
                name="packs",
                storage_path=str(storage),
                callbacks=[_Notes(self, queue)],
                verbose=0,
                failure_config=tune.FailureConfig(max_failures=resources.max_failures),
                checkpoint_config=tune.CheckpointConfig(checkpoint_frequency=0, checkpoint_at_end=False),
            ),
        ).fit()
        shutil.rmtree(storage, ignore_errors=True)


class _Notes(tune.Callback):  # type: ignore[misc]
    """Tune's callback: a finished pack's record is read, scored, tracked and shown."""

    def __init__(self, run: _Run, queue: PackQueue) -> None:
        self._run, self._queue = run, queue

    def __getstate__(self) -> dict[str, Any]:
        return {}  # as the searcher's: pickled by Tune, never restored

    def on_trial_complete(self, iteration: int, trials: list[Trial], trial: Trial, **info: Any) -> None:
        run = self._run
        records = read_record_file(Path(trial.last_result["record"])) if trial.last_result["record"] else []
        run.records |= {record.config: record for record in records}
        run.n_trained += len(records)
        self._queue.finish({record.config: record.metrics[run.spec.objective.metric] for record in records})
        if records:
            run.tracker.write(records)
            run.progress.trained(records)
        pack, failures = trial.config["pack"], trial.last_result["failures"]
        if failures:
            self._note_failure(pack, list(failures), next(iter(failures.values())))

    def on_trial_error(self, iteration: int, trials: list[Trial], trial: Trial, **info: Any) -> None:
        cause = Path(trial.error_file).read_text().strip().splitlines()[-1] if trial.error_file else "it was lost"
        self._note_failure(trial.config["pack"], trial.config["pack"].splits, cause)

    def _note_failure(self, pack: Pack, splits: Sequence[int], cause: str) -> None:
        self._queue.fail(pack)
        text = f"{pack.candidate} on {pack.phase} splits {', '.join(map(str, splits))}: {cause}"
        self._run.failures.append(text)
        self._run.progress.failed(text, len(splits))


def _context(
    spec: StudySpec, embeddings: Embeddings, labels: np.ndarray, description: Mapping[str, Any]
) -> PackContext:
    training = spec.training
    return PackContext(
        embeddings=embeddings.matrix,
        labels=labels.astype(np.int64),
        train_fraction=spec.splits.train_fraction,
        settings=Settings(
            epochs=training.epochs,
            batch_size=training.batch_size,
            hidden=training.hidden,
            dropout=training.dropout,
            weight_decay=training.weight_decay,
            learning_rate_low=training.learning_rate.low,
            learning_rate_high=training.learning_rate.high,
            step_size_epochs=training.learning_rate.step_size_epochs,
            evaluate_every_epochs=training.evaluate_every_epochs,
            standardize=training.standardize,
            class_balanced=training.class_balanced,
            early_stopping_fraction=training.early_stopping.fraction if training.early_stopping else 0,
            early_stopping_patience=training.early_stopping.patience if training.early_stopping else 1,
            threshold=spec.objective.threshold,
        ),
        records=str(spec.records),
        unknown_classes=_label_indices(spec.splits.unknown_classes, description["data"]["class_names"]),
        unknown_class_fraction=spec.splits.unknown_class_fraction,
        n_threads=max(1, int(spec.resources.cpus_per_pack)),
        provenance={
            **{f"digest_{name}": value for name, value in description["digests"].items()},
            "package": version("embedding-ablation-study"),
            "git_commit": _git_commit(),
        },
    )


@contextlib.contextmanager
def _only_run(directory: Path) -> Iterator[None]:
    """Holds the directory's lock, which the system lets go when the process ends, however it ends."""
    with (directory / ".lock").open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise StudyError(f"Another `study run` works in {directory}. Wait for it, or stop it.") from None
        yield


def _label_indices(wanted: Sequence[str], class_names: Sequence[str]) -> npt.NDArray[np.int64]:
    """Indices of labels among the sorted label names.

    Raises:
        StudyError: The data lack one.
    """
    absent = [name for name in wanted if name not in class_names]
    if absent:
        raise StudyError(
            f"`splits.unknown_classes` names {', '.join(absent)}, which no item has as its label. "
            "Write labels as the table does."
        )
    return np.array([class_names.index(name) for name in wanted], np.int64)


def _git_commit() -> str:
    """Commit of the folder that the command was given in, where that is a repository."""
    git = shutil.which("git")
    if git is None:
        return ""
    done = subprocess.run([git, "rev-parse", "HEAD"], capture_output=True, text=True, check=False)
    return done.stdout.strip() if done.returncode == 0 else ""
