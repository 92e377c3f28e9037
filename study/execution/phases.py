"""Runs a study: what is missing -> Ray Tune -> records.

A study's directory is its state. Whatever a run finds recorded there it does not do again; whatever interrupts it, the
next run goes on from the records.
"""

from __future__ import annotations

import math
import os
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import ray

from study.config.schema import StudySpec
from study.errors import RunError
from study.execution.progress import Progress
from study.execution.ray_tune import train_packs
from study.search.early_stopping import Stopping
from study.search.journal import JOURNAL, Journal
from study.search.proposals import FixedProposals, Proposals, proposals
from study.search.queue import PackQueue
from study.state.description import proposed
from study.state.lock import Activity, write_activity
from study.tracking.background import BackgroundTracker
from trainables.packs.pack import Pack
from trainables.records.description import StudyDescription, write_description
from trainables.records.failures import (
    Failure,
    Stop,
    read_failures,
    read_stops,
    write_failure,
    write_stop,
)
from trainables.records.parquet import read_record_file, record_name
from trainables.records.types import CONTRASTIVE, SUPERVISED, Candidate, TrialRecord

# Read by the processes that Ray starts; set before the import, this one would announce it.
os.environ.setdefault("RAY_BACKEND_LOG_LEVEL", "fatal")


class _Run:
    """The phases of one run: what is missing goes to Tune, and note is taken of what becomes of it."""

    def __init__(
        self,
        spec: StudySpec,
        progress: Progress,
        tracker: BackgroundTracker,
        recorded: list[TrialRecord],
        description: StudyDescription,
    ) -> None:
        self.spec, self.progress, self.tracker = spec, progress, tracker
        self.scores = {record.config: record.metrics[spec.objective.metric] for record in recorded}
        self._recorded, self._description = recorded, description
        self._before = description.proposed
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
            raise RunError(
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
        if known != self._before:
            self._before = known
            self._description = replace(self._description, candidates=proposed(self.spec, known))
            write_description(self.spec.root, self._description)

    def _note_stops(self) -> None:
        stops, self._queue.new_stops = self._queue.new_stops, []
        for stop in stops:
            write_stop(self.spec.records, stop)
            self.stops.append(stop)
            if self._journal is not None:
                self._journal.add(stop.candidate, stop)
        self.progress.stopped(stops)
