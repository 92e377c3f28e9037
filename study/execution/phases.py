"""Train the phases of a study: what is missing -> Ray Tune -> records.

The study's directory is the state: whatever is recorded there is not done again, and after an interruption the next run
continues from the records.
"""

from __future__ import annotations

import math
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
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
from study.state.description import on_resources, proposed
from study.state.lock import Activity, write_activity
from study.tracking.background import BackgroundTracker
from trainables.records.description import StudyDescription, write_description
from trainables.records.failures import Failure, Stop, read_stops, write_failure, write_stop
from trainables.records.parquet import read_record_file, record_name
from trainables.records.types import CONTRASTIVE, PROTOCOLS, SUPERVISED, Candidate, Pack, TrialConfig, TrialRecord


@dataclass
class RunState:
    """What the phases of one run share and update.

    Attributes:
        description: The study's description, as it is in its directory.
        recorded: Records from before this run; emptied when the first phase ends, to free their memory.
        scores: The objective of every recorded trial.
        failures: The packs that failed for good.
        stops: The candidates that early stopping ended.
        n_trained: Trials trained by this run.
    """

    spec: StudySpec
    progress: Progress
    tracker: BackgroundTracker
    description: StudyDescription
    recorded: list[TrialRecord]
    scores: dict[TrialConfig, float]
    failures: list[Failure]
    stops: list[Stop] = field(default_factory=list)
    n_trained: int = 0

    def note_candidates(self, queue: PackQueue) -> None:
        """Write down what was proposed: it stays, whatever a sampler would propose another time."""
        before = self.description.proposed
        known = dict(before)
        for method, now in queue.candidates.items():
            if known.get(method, [])[: len(now)] != now:
                known[method] = now
        if known != before:
            self._describe(replace(self.description, candidates=proposed(self.spec, known)))

    def note_resources(self) -> None:
        """Write down what the study trains on now."""
        self._describe(on_resources(self.spec, self.description))

    def _describe(self, description: StudyDescription) -> None:
        self.description = description
        write_description(self.spec.root, description)

    def note_stops(self, queue: PackQueue) -> list[Stop]:
        """Write down, show and return the candidates that were stopped since the last call."""
        stops, queue.new_stops = queue.new_stops, []
        for stop in stops:
            write_stop(self.spec.records, stop, *self.description.made_by)
        self.stops += stops
        self.progress.stopped(stops)
        return stops

    def note_failure(self, pack: Pack, traceback: str, n_attempts: int) -> None:
        """Write down and show that a pack has failed for good."""
        cause = traceback.splitlines()[-1]
        failure = Failure(pack.phase, pack.candidate, pack.splits, cause, traceback, n_attempts, time.time())
        write_failure(self.spec.records, failure, *self.description.made_by)
        self.failures.append(failure)
        self.progress.failed([failure])


def train_phases(run: RunState, context: Callable[[], ray.ObjectRef]) -> None:
    """Train what is missing of every phase of a study's protocol.

    `context` puts the `PackContext` into the object store; it is called when there is something to train.

    Raises:
        RunError: The study's directory cannot be written to.
    """
    search, best = run.spec.search, dict[str, Candidate]()
    for phase in PROTOCOLS[run.spec.splits.protocol]:
        if phase == "confirm":
            methods: dict[str, Proposals] = {method: FixedProposals([one]) for method, one in best.items()}
        else:
            known = run.description.proposed
            methods = {method: proposals(search, method, known.get(method, ())) for method in search.methods}
        queue = _train_phase(run, phase, methods, context)
        best = {method: one for method in methods if queue.has_ended(method) and (one := queue.best(method))}


def _train_phase(
    run: RunState, phase: str, methods: Mapping[str, Proposals], context: Callable[[], ray.ObjectRef]
) -> PackQueue:
    spec, splits = run.spec, run.spec.split_seeds(phase)
    stopping = _stopping(run, splits) if phase == "search" else None
    queue = PackQueue(
        phase,
        methods,
        splits,
        run.scores,
        spec.resources.lanes_per_pack,
        failed={trial for failure in run.failures for trial in failure.trials},
        stopping=stopping,
    )
    if phase != "confirm":
        run.note_candidates(queue)
    n_planned = sum(plan.planned for plan in methods.values()) * len(splits)
    n_stopped = sum(len(stop.splits) for stop in run.stops) if stopping else 0
    run.progress.start_phase(phase, queue, n_planned, n_stopped, spec.objective.metric)
    planned = set(queue.trials())
    run.progress.recorded({trial: score for trial, score in run.scores.items() if trial in planned})
    run.progress.failed([failure for failure in run.failures if failure.phase == phase])
    run.note_stops(queue)
    journal = None
    if phase != "confirm":
        outcomes = {c: outcome for method in methods for c, outcome in queue.outcomes(method).items()}
        journal = Journal(spec.root / JOURNAL, spec.search, outcomes)
    phase_run = PhaseRun(run, phase, queue, stopping, journal)
    if not queue.exhausted:
        run.note_resources()
        resources = spec.resources
        train_packs(queue, context(), spec.tune, phase_run, cpus=resources.cpus_per_pack, gpus=resources.gpus_per_pack)
    if phase_run.write_error is not None:
        raise RunError(
            f"{spec.root} cannot be written to ({phase_run.write_error}). Make room; recorded trials are kept, and the "
            "same command continues."
        )
    run.recorded.clear()
    run.progress.end_phase()
    return queue


def _stopping(run: RunState, splits: tuple[int, ...]) -> Stopping:
    """Return the rules of early stopping, with what is recorded of the search."""
    spec = run.spec
    n_epochs = {objective: spec.training.n_epochs(objective) for objective in (SUPERVISED, CONTRASTIVE)}
    stops = read_stops(spec.records, *run.description.made_by)
    stopping = Stopping(spec.search.pruning, spec.objective.metric, n_epochs, splits, stops)
    stopping.learn(record for record in run.recorded if record.config.phase == "search")
    run.stops += stopping.stops.values()
    return stopping


class PhaseRun:
    """Record what happens to the packs of one phase while Tune trains them: a `PackWatcher`.

    Args:
        stopping: The rules of early stopping; None outside the search.
        journal: The search as Optuna studies; None where nothing is searched.

    Attributes:
        write_error: Why the study's directory could not be written to; None while it can be.
    """

    def __init__(
        self, run: RunState, phase: str, queue: PackQueue, stopping: Stopping | None, journal: Journal | None
    ) -> None:
        self._run, self._phase, self._queue, self._stopping, self._journal = run, phase, queue, stopping, journal
        self._started_s, self._n_trained_before = time.time(), run.n_trained
        self._n_attempts: Counter[Pack] = Counter()
        self.write_error: str | None = None

    def started(self) -> None:
        """Write down what is in training."""
        if self._phase != "confirm":
            with self._ending_on_write_error():
                self._run.note_candidates(self._queue)  # before a candidate trains, it is written down
        packs = tuple(f"{pack.candidate} on {len(pack.splits)} splits" for pack in self._queue.in_flight)
        activity = Activity(self._phase, self._started_s, self._run.n_trained - self._n_trained_before, packs)
        with suppress(OSError):  # only `study status` reads it
            write_activity(self._run.spec.root, activity)

    def evaluated(self, pack: Pack, result: dict[str, Any], evaluations: dict[int, float]) -> bool:
        """Return whether to stop the pack's candidate."""
        if self._stopping is None or math.isnan(result[self._stopping.metric]):
            return False  # there is no score yet: a lane has left, or hidden layers are still being pretrained
        evaluations[result["epoch"]] = result[self._stopping.metric]
        stopped = self._queue.judge(pack, evaluations)
        with self._ending_on_write_error():
            self._note_stops()
        return stopped

    def trained(self, pack: Pack, record: Path | None, failures: dict[int, str]) -> None:
        """Read, score, track and show the records of a pack."""
        with self._ending_on_write_error():
            self._take(pack, record, failures)
        self.started()

    def unwritable(self, reason: str) -> None:
        """End the phase: records cannot be written."""
        self.write_error = reason
        self._queue.abandon()

    def lost(self, pack: Pack, traceback: str) -> None:
        """Return the pack to the queue, `max_failures` times; then it has failed for good."""
        record = self._run.spec.records / record_name(pack.trials)
        if record.exists():  # the pack was trained, and only the message about it was lost
            self.trained(pack, record, {})
            return
        self._n_attempts[pack] += 1
        if self._n_attempts[pack] <= self._run.spec.resources.max_failures:
            self._queue.retry(pack)
            return
        self._queue.finish(pack, {})
        with self._ending_on_write_error():
            self._run.note_failure(pack, traceback, self._n_attempts[pack])

    def _take(self, pack: Pack, record: Path | None, failures: dict[int, str]) -> None:
        run = self._run
        records = read_record_file(record) if record is not None else []
        scores = {one.config: one.metrics[run.spec.objective.metric] for one in records}
        run.scores |= scores
        run.n_trained += len(records)
        if self._stopping is not None:
            self._stopping.learn(records)
        self._queue.finish(pack, scores)
        score = self._queue.score(pack.candidate)
        if self._journal is not None and score is not None:
            self._journal.add(pack.candidate, score)
        run.tracker.write(records)
        if records:
            run.progress.trained(records)
        for split, reason in failures.items():
            run.note_failure(Pack(pack.phase, pack.candidate, (split,)), reason, 1)
        self._note_stops()

    def _note_stops(self) -> None:
        for stop in self._run.note_stops(self._queue):
            if self._journal is not None:
                self._journal.add(stop.candidate, stop)

    @contextmanager
    def _ending_on_write_error(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            self.unwritable(str(error))
