"""Runs a study: what is missing -> Ray Tune -> records.

A study's directory is its state. Whatever a run finds recorded there it does not do again; whatever interrupts it, the
next run goes on from the records.
"""

from __future__ import annotations

import math
import os
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import ray
from rich.console import Console

# Read by the processes that Ray starts; set before the import, this one would announce it.
os.environ.setdefault("RAY_BACKEND_LOG_LEVEL", "fatal")

from analysis.report import write_report
from embedding_jobs.extract import ExtractionSummary, extract
from study.background import BackgroundTracker
from study.cluster import address_of, connect, loss_as_error
from study.context import encoder_configs, load_embeddings, pack_context, provenance
from study.description import (
    DESCRIPTION,
    candidates_before,
    candidates_entry,
    describe,
    read_description,
    refuse_changed_file,
    refuse_other_settings,
    write_description,
)
from study.journal import JOURNAL, Journal
from study.packs import FixedProposals, PackQueue, Proposals
from study.progress import Progress
from study.results import StudyResult, outcome
from study.search import proposals
from study.spec import StudySpec, phases
from study.status import Activity, StudyError, only_run, write_activity
from study.stopping import Stopping
from study.tracking import StudyFacts, Tracker, TrackingError
from study.tuning import train_packs
from trainables.pack import Pack
from trainables.records import (
    CONTRASTIVE,
    SUPERVISED,
    Candidate,
    TrialRecord,
    read_record_file,
    read_records,
    record_name,
)
from trainables.unfinished import FAILED, STOPPED, Failure, Stop, read_failures, read_stops, write_failure, write_stop


def embed(spec: StudySpec, progress: Progress) -> ExtractionSummary:
    """Encodes the shards that the store lacks; Ray is started once the input is found sound, where any are missing."""
    with loss_as_error():
        summary = extract(
            spec.data.source,
            encoder_configs(spec),
            spec.store,
            rows_per_shard=spec.resources.rows_per_shard,
            on_error=spec.data.on_error,
            on_progress=progress.embedding,
            start_ray=lambda: _connect(spec, progress),
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


def _connect(spec: StudySpec, progress: Progress) -> None:
    if not ray.is_initialized():
        address = address_of(spec)
        progress.say("Starting Ray ..." if address == "local" else f"Joining the Ray cluster at {address} ...")
    connect(spec)


def run_study(spec: StudySpec, progress: Progress | None = None) -> StudyResult:
    """Encodes every shard and trains every planned trial that is not yet there.

    Args:
        spec: The study, as `study.check.load_spec` or `study.check.check_spec` give it.
        progress: What shows how far it is; None for nothing.

    Raises:
        study.status.StudyError: Another run works in the directory; or it cannot be written to.
        study.description.DescriptionError: Its records were made with other settings or data.
        embedding_jobs.sources.SourceError: The table is unsound.
        embedding_jobs.encoders.EncoderError: An encoder cannot be had.
        embedding_jobs.store.StoreError: The store is of another table or encoder.
    """
    progress = progress or Progress(Console(), quiet=True)
    refuse_changed_file(spec)
    spec.root.mkdir(parents=True, exist_ok=True)
    with only_run(spec.root), loss_as_error():
        write_activity(spec.root, Activity("embedding", time.time()))
        embed(spec, progress)
        embeddings = load_embeddings(spec)
        class_names, labels = np.unique(embeddings.labels, return_inverse=True)
        description = describe(spec, embeddings, [str(name) for name in class_names])
        refuse_other_settings(spec, description)
        before = candidates_before(spec, read_description(spec.root)) if (spec.root / DESCRIPTION).exists() else {}
        description["candidates"] = candidates_entry(spec, before)
        write_description(spec.root, description)
        tracker = BackgroundTracker(
            lambda: make_tracker(spec, description), lambda: read_records(spec.records), progress.say
        )

        @cache
        def context() -> ray.ObjectRef:
            _connect(spec, progress)  # nothing was encoded, perhaps, and nothing is to be trained
            return ray.put(pack_context(spec, embeddings, labels, description))

        run = _Run(spec, progress, tracker, read_records(spec.records), description)
        for phase in phases(spec.splits.protocol):
            run.phase(phase, context)
        problem = None
        try:
            tracker.close()
        except TrackingError as error:
            problem = str(error)
        return StudyResult(spec.root, run.n_trained, len(run.scores), tuple(run.failures), tuple(run.stops), problem)


def make_tracker(spec: StudySpec, description: Mapping[str, Any]) -> Tracker:
    """The tracker of a study.

    Raises:
        TrackingError: The server cannot be reached.
    """
    about = StudyFacts(
        name=spec.name,
        key=f"{spec.name}/{description['digests']['settings']}",
        params={**spec.deciding_settings(), "splits.n_splits": spec.splits.n_splits, **description["digests"]},
        made_by=provenance(spec, description),
        table=spec.data.table,
        n_items=description["data"]["n_items"],
        data_digest=description["data"]["digest"],
        description=spec.root / DESCRIPTION,
    )
    experiment = spec.tracking.experiment or spec.name
    return Tracker(spec.tracking_uri, experiment, about, spec.root / "mlartifacts")


def attach(spec: StudySpec, folders: Mapping[str, Path]) -> str:
    """Ends the study's MLflow run with what the study has come to, why planned trials are missing, and more folders.

    Args:
        spec: The study.
        folders: What else to attach, by the name it gets.

    Returns:
        The id of the run.

    Raises:
        study.status.StudyError: A run works in the directory; it attaches its own report.
        TrackingError: The server cannot be reached.
        study.description.DescriptionError: No study was run in the directory.
    """
    description = read_description(spec.root)
    with only_run(spec.root):
        tracker = make_tracker(spec, description)
        _finish(tracker, spec, folders)
        return tracker.study_run


def sync(spec: StudySpec) -> int:
    """Writes to MLflow what it lacks, the report included; into an empty server, everything.

    Returns:
        How many trials were written.

    Raises:
        study.status.StudyError: A run works in the directory; it catches up by itself.
        TrackingError: The server cannot be reached.
        study.description.DescriptionError: No study was run in the directory.
        analysis.load.ReportError: It has no finished trial.
    """
    description = read_description(spec.root)
    with only_run(spec.root):
        tracker = make_tracker(spec, description)
        n_written = tracker.write(read_records(spec.records))
        report = spec.root / "report"
        if not (report / "report.html").exists():
            write_report(spec.root)
        _finish(tracker, spec, {"report": report})
        return n_written


def _finish(tracker: Tracker, spec: StudySpec, folders: Mapping[str, Path]) -> None:
    unfinished = {f"unfinished/{name}": spec.records / name for name in (FAILED, STOPPED)}
    tracker.finish(outcome(spec.root), {**folders, **unfinished})


class _Run:
    """The phases of one run: what is missing goes to Tune, and note is taken of what becomes of it."""

    def __init__(
        self,
        spec: StudySpec,
        progress: Progress,
        tracker: BackgroundTracker,
        recorded: list[TrialRecord],
        description: dict[str, Any],
    ) -> None:
        self.spec, self.progress, self.tracker = spec, progress, tracker
        self.scores = {record.config: record.metrics[spec.objective.metric] for record in recorded}
        self._recorded, self._description = recorded, description
        self._before = candidates_before(spec, description)
        self.n_trained = 0
        self.failures = read_failures(spec.records)
        self.stops: list[Stop] = []
        self._stopping: Stopping | None = None
        self._journal: Journal | None = None
        self._best: dict[str, Candidate] = {}
        self._unwritable: str | None = None

    def phase(self, phase: str, context: Callable[[], ray.ObjectRef]) -> None:
        """Trains what a phase lacks; later phases know the best candidate of each method that has ended it."""
        spec, metric = self.spec, self.spec.objective.metric
        if phase == "confirm":
            methods: dict[str, Proposals] = {name: FixedProposals([best]) for name, best in self._best.items()}
        else:
            methods = {
                method: proposals(spec.search, method, self._before.get(method, ())) for method in spec.search.methods
            }
        splits = spec.split_seeds(phase)
        self._stopping = None
        if phase == "search":
            rules, stops = spec.search.pruning, read_stops(spec.records)
            n_epochs = {objective: spec.training.n_epochs(objective) for objective in (SUPERVISED, CONTRASTIVE)}
            self._stopping = Stopping(rules, metric, n_epochs, splits, stops)
            self._stopping.learn(record for record in self._recorded if record.config.phase == phase)
            self.stops = list(self._stopping.stops.values())
        n_stopped = sum(len(stop.splits) for stop in self._stopping.stops.values()) if self._stopping else 0
        queue = PackQueue(
            phase,
            methods,
            splits,
            self.scores,
            spec.resources.lanes_per_pack,
            failed={trial for failure in self.failures for trial in failure.trials},
            stopping=self._stopping,
        )
        self._queue, self._phase, self._since_s, self._n_before = queue, phase, time.time(), self.n_trained
        self._n_attempts: Counter[Pack] = Counter()
        self._note_candidates()
        n_planned = sum(plan.planned for plan in methods.values()) * len(splits)
        self.progress.start_phase(phase, queue, n_planned, n_stopped, metric)
        planned = set(queue.trials())
        self.progress.recorded({trial: score for trial, score in self.scores.items() if trial in planned})
        self.progress.failed([failure for failure in self.failures if failure.phase == phase])
        self._note_stops()
        if phase != "confirm":
            outcomes = {c: outcome for method in methods for c, outcome in queue.outcomes(method).items()}
            self._journal = Journal(spec.root / JOURNAL, spec.search, outcomes)
        if not queue.exhausted:
            resources = spec.resources
            train_packs(
                queue, context(), spec.root / "tune", self, cpus=resources.cpus_per_pack, gpus=resources.gpus_per_pack
            )
        if self._unwritable is not None:
            raise StudyError(
                f"{spec.root} cannot be written to ({self._unwritable}). What is recorded stays; once there is room, "
                "the same command goes on from there."
            )
        self._journal = None
        self._recorded = []  # a thousand records and their curves are not needed again
        self.progress.end_phase()
        self._best = {
            method: best for method in methods if queue.has_ended(method) and (best := queue.best(method)) is not None
        }

    def started(self) -> None:
        """Says what is in training."""
        with self._ending_where_unwritable():
            self._note_candidates()  # of a pack in training, the candidate is written down
        with suppress(OSError):  # it is for whoever looks on
            self._write_activity()

    def _write_activity(self) -> None:
        packs = tuple(f"{pack.candidate} on {len(pack.splits)} splits" for pack in self._queue.in_flight)
        activity = Activity(self._phase, self._since_s, self.n_trained - self._n_before, packs)
        write_activity(self.spec.root, activity)

    def evaluated(self, pack: Pack, result: dict[str, Any], evaluations: dict[int, float]) -> bool:
        """Asks the queue whether the pack's candidate is worth going on with."""
        if self._stopping is None or math.isnan(result[self._stopping.metric]):
            return False  # nothing to judge by: a lane has left, or hidden layers are still being pretrained
        evaluations[result["epoch"]] = result[self._stopping.metric]
        stopped = self._queue.judge(pack, evaluations)
        with self._ending_where_unwritable():
            self._note_stops()
        return stopped

    def trained(self, pack: Pack, record: Path | None, failures: dict[int, str]) -> None:
        """Reads, scores, tracks and shows what a pack left."""
        with self._ending_where_unwritable():
            self._take(pack, record, failures)
        self.started()

    def unwritable(self, reason: str) -> None:
        """Ends the phase: what packs train could not be kept."""
        self._unwritable = reason
        self._queue.abandon()

    @contextmanager
    def _ending_where_unwritable(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            self.unwritable(str(error))

    def _take(self, pack: Pack, record: Path | None, failures: dict[int, str]) -> None:
        records = read_record_file(record) if record is not None else []
        scores = {record.config: record.metrics[self.spec.objective.metric] for record in records}
        self.scores |= scores
        self.n_trained += len(records)
        if self._stopping is not None:
            self._stopping.learn(records)
        self._queue.finish(pack, scores)
        score = self._queue.score(pack.candidate)
        if self._journal is not None and score is not None:
            self._journal.add(pack.candidate, score)
        self.tracker.write(records)
        if records:
            self.progress.trained(records)
        for split, reason in failures.items():
            self._give_up(Pack(pack.phase, pack.candidate, (split,)), reason, 1)
        self._note_stops()

    def lost(self, pack: Pack, traceback: str) -> None:
        """Has the pack tried again, `max_failures` times, then gives it up."""
        record = self.spec.records / record_name(pack.trials)
        if record.exists():  # all was done, and only the message of it was lost
            self.trained(pack, record, {})
            return
        self._n_attempts[pack] += 1
        if self._n_attempts[pack] <= self.spec.resources.max_failures:
            self._queue.retry(pack)
            return
        self._queue.finish(pack, {})
        with self._ending_where_unwritable():
            self._give_up(pack, traceback, self._n_attempts[pack])

    def _give_up(self, pack: Pack, traceback: str, n_attempts: int) -> None:
        cause = traceback.splitlines()[-1]
        failure = Failure(pack.phase, pack.candidate, pack.splits, cause, traceback, n_attempts, time.time())
        write_failure(self.spec.records, failure)
        self.failures.append(failure)
        self.progress.failed([failure])

    def _note_candidates(self) -> None:
        """Writes down what was proposed: that stands, whatever a sampler would say another time."""
        if self._phase == "confirm":
            return
        known = dict(self._before)
        for method, now in self._queue.candidates.items():
            if known.get(method, [])[: len(now)] != now:
                known[method] = now
        if known != self._before or not self._description["candidates"]:
            self._before = known
            self._description["candidates"] = candidates_entry(self.spec, known)
            write_description(self.spec.root, self._description)

    def _note_stops(self) -> None:
        stops, self._queue.new_stops = self._queue.new_stops, []
        for stop in stops:
            write_stop(self.spec.records, stop)
            self.stops.append(stop)
            if self._journal is not None:
                self._journal.add(stop.candidate, stop)
        self.progress.stopped(stops)
