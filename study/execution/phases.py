"""Train the phases of a study: what is missing -> Ray Tune -> records.

The study's directory is the state: whatever is recorded there is not done again, and after an interruption the next run
continues from the records.
"""

from __future__ import annotations

import math
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import ray

from study.config.schema import StudySpec
from study.errors import RunError
from study.execution.devices import with_devices
from study.execution.progress import Progress
from study.execution.ray_tune import train_packs
from study.search.early_stopping import Stopping
from study.search.journal import JOURNAL, Journal
from study.search.proposals import FixedProposals, proposals
from study.search.queue import CandidateSearch, PackQueue
from study.state.description import on_resources, proposed, search_names
from study.state.lock import Activity, write_activity
from study.tracking.background import BackgroundTracker
from trainables.records.choice import median_calibration, score_of
from trainables.records.description import StudyDescription, write_description
from trainables.records.failures import Failure, Stop, read_stops, write_failure, write_stop
from trainables.records.parquet import read_record_file, record_name
from trainables.records.types import (
    CONTRASTIVE,
    SEARCH,
    SUPERVISED,
    TEST,
    Calibration,
    Candidate,
    Pack,
    SplitId,
    TrialConfig,
    TrialRecord,
)


@dataclass
class RunState:
    """What the phases of one run share and update.

    Attributes:
        description: The study's description, as it is in its directory.
        recorded: Records from before this run; emptied when the first phase ends, to free their memory.
        scores: Score of every recorded trial.
        calibrations: What each inner split has chosen, by its trial.
        failures: The packs that failed for good.
        stops: The candidates that early stopping ended.
        n_trained: Trials trained by this run.
    """

    spec: StudySpec
    progress: Progress
    tracker: BackgroundTracker
    description: StudyDescription
    recorded: list[TrialRecord]
    failures: list[Failure]
    scores: dict[TrialConfig, float] = field(default_factory=dict)
    calibrations: dict[TrialConfig, Calibration] = field(default_factory=dict)
    stops: list[Stop] = field(default_factory=list)
    n_trained: int = 0

    def __post_init__(self) -> None:
        self.learn(self.recorded)

    def learn(self, records: Iterable[TrialRecord]) -> dict[TrialConfig, float]:
        """Keep what later phases need of records, and return their scores."""
        scores = {one.config: score_of(one.metrics, self.spec.objective.metric) for one in records}
        self.scores |= scores
        self.calibrations |= {one.config: one.calibration for one in records if one.config.phase == SEARCH}
        return scores

    def calibrations_of(self, pack: Pack) -> list[Calibration]:
        """Return what the inner splits have chosen for each trial of a pack; nothing where there is no inner split."""
        if pack.phase != TEST or SEARCH not in self.spec.phases:
            return []
        inner = self.spec.planned_splits(SEARCH)
        return [
            median_calibration(
                [self.calibrations[TrialConfig(SEARCH, pack.candidate, one)] for one in inner if one.outer == split]
            )
            for split in pack.splits
        ]

    def note_candidates(self, queue: PackQueue) -> None:
        """Write down what was proposed: it stays, whatever a sampler would propose another time."""
        before = self.description.proposed
        known = dict(before)
        for search in queue.searches:
            if known.get(search.name, [])[: len(search.candidates)] != search.candidates:
                known[search.name] = search.candidates
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
    """Train what is missing of every phase of a study.

    `context` puts the `PackContext` into the object store; it is called when there is something to train.

    Raises:
        RunError: The study's directory cannot be written to.
    """
    choices: dict[tuple[str, SplitId], Candidate] = {}
    for phase in run.spec.phases:
        chosen = phase != run.spec.phases[0]
        searches = _of_choices(choices) if chosen else _searches(run)
        choices = _train_phase(run, phase, searches, context, proposes=not chosen).choices()


def _searches(run: RunState) -> list[CandidateSearch]:
    """Return the searches of the first phase: one of each method, or one of each method and split."""
    spec, known, found = run.spec, run.description.proposed, []
    stops = read_stops(spec.records, *run.description.made_by) if spec.search.pruning.is_on else []
    for method in spec.search.methods:
        for name, splits in search_names(spec, method).items():
            seed = None if name == method else splits[0].seed
            source = proposals(spec.search, method, known.get(name, ()), seed)
            search = CandidateSearch(name, method, source, splits)
            if spec.search.pruning.is_on:
                search.stopping = _stopping(run, search, stops)
            found.append(search)
    return found


def _of_choices(choices: Mapping[tuple[str, SplitId], Candidate]) -> list[CandidateSearch]:
    """Return what the splits have chosen as searches of one candidate each, on the splits that have chosen it."""
    splits: dict[Candidate, list[SplitId]] = {}
    for (_, split), candidate in choices.items():
        splits.setdefault(candidate, []).append(split)
    return [
        CandidateSearch(candidate.key, candidate.method, FixedProposals([candidate]), tuple(sorted(own)))
        for candidate, own in splits.items()
    ]


def _train_phase(
    run: RunState,
    phase: str,
    searches: Sequence[CandidateSearch],
    context: Callable[[], ray.ObjectRef],
    *,
    proposes: bool,
) -> PackQueue:
    spec = run.spec
    queue = PackQueue(
        phase,
        searches,
        run.scores,
        spec.resources.lanes_per_pack,
        failed={trial for failure in run.failures for trial in failure.trials},
    )
    if proposes:
        run.note_candidates(queue)
    n_planned = sum(search.proposals.planned * len(search.splits) for search in searches)
    n_stopped = sum(len(stop.splits) for stop in run.stops) if proposes else 0
    run.progress.start_phase(phase, queue, n_planned, n_stopped, spec.objective.metric)
    run.progress.recorded([trial for trial in queue.trials() if trial in run.scores])
    run.progress.failed([failure for failure in run.failures if failure.phase == phase])
    run.note_stops(queue)
    journal = None
    if proposes:
        outcomes = {search.name: queue.outcomes(search) for search in searches}
        journal = Journal(spec.root / JOURNAL, spec.search, outcomes)
    phase_run = PhaseRun(run, phase, queue, journal)
    if not queue.exhausted:
        run.note_resources()
        given = context()  # Ray is connected then
        resources = with_devices(spec).resources
        train_packs(queue, given, spec.tune, phase_run, cpus=resources.cpus_per_pack, gpus=resources.n_gpus)
    if phase_run.write_error is not None:
        raise RunError(
            f"{spec.root} cannot be written to ({phase_run.write_error}). Make room; recorded trials are kept, and the "
            "same command continues."
        )
    run.recorded.clear()
    run.progress.end_phase()
    return queue


def _stopping(run: RunState, search: CandidateSearch, stops: Iterable[Stop]) -> Stopping:
    """Return the rules of early stopping of a search, with what is recorded of it."""
    spec = run.spec
    n_epochs = {objective: spec.training.n_epochs(objective) for objective in (SUPERVISED, CONTRASTIVE)}
    own = [stop for stop in stops if stop.candidate.method == search.method and stop.splits[0] in search.splits]
    stopping = Stopping(spec.search.pruning, spec.objective.metric, n_epochs, search.splits, own)
    stopping.learn(
        record
        for record in run.recorded
        if record.config.candidate.method == search.method and record.config.split in search.splits
    )
    run.stops += stopping.stops.values()
    return stopping


class PhaseRun:
    """Record what happens to the packs of one phase while Tune trains them: a `PackWatcher`.

    Args:
        journal: The search as Optuna studies; None where nothing is searched.

    Attributes:
        write_error: Why the study's directory could not be written to; None while it can be.
    """

    def __init__(self, run: RunState, phase: str, queue: PackQueue, journal: Journal | None) -> None:
        self._run, self._phase, self._queue, self._journal = run, phase, queue, journal
        self._started_s, self._n_trained_before = time.time(), run.n_trained
        self._n_attempts: Counter[Pack] = Counter()
        self.write_error: str | None = None

    def calibrations(self, pack: Pack) -> list[Calibration]:
        """Return what the inner splits have chosen for a pack that is about to be trained."""
        return self._run.calibrations_of(pack)

    def started(self) -> None:
        """Write down what is in training."""
        if self._journal is not None:
            with self._ending_on_write_error():
                self._run.note_candidates(self._queue)  # before a candidate trains, it is written down
        packs = tuple(f"{pack.candidate} on {len(pack.splits)} splits" for pack in self._queue.in_flight)
        activity = Activity(
            f"{self._phase} phase", self._started_s, self._run.n_trained - self._n_trained_before, packs
        )
        with suppress(OSError):  # only `study status` reads it
            write_activity(self._run.spec.root, activity)

    def evaluated(self, pack: Pack, result: dict[str, Any], evaluations: dict[int, float]) -> bool:
        """Return whether to stop the pack's candidate."""
        stopping = self._queue.search_of(pack).stopping
        if stopping is None or stopping.settings.asha is None:  # with racing alone, any objective may be the metric
            return False
        if math.isnan(result[stopping.metric]):
            return False  # there is no score yet: a lane has left, or hidden layers are still being pretrained
        evaluations[result["epoch"]] = result[stopping.metric]
        stopped = self._queue.judge(pack, evaluations)
        with self._ending_on_write_error():
            self._note_stops()
        return stopped

    def trained(self, pack: Pack, record: Path | None, failures: dict[SplitId, str]) -> None:
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

    def _take(self, pack: Pack, record: Path | None, failures: dict[SplitId, str]) -> None:
        run = self._run
        records = read_record_file(record) if record is not None else []
        scores = run.learn(records)
        run.n_trained += len(records)
        search = self._queue.search_of(pack)
        if search.stopping is not None:
            search.stopping.learn(records)
        self._queue.finish(pack, scores)
        score = self._queue.score(search, pack.candidate)
        if self._journal is not None and score is not None:
            self._journal.add(search.name, pack.candidate, score)
        run.tracker.write(records)
        if records:
            run.progress.trained(records)
        for split, reason in failures.items():
            run.note_failure(Pack(pack.phase, pack.candidate, (split,)), reason, 1)
        self._note_stops()

    def _note_stops(self) -> None:
        for stop in self._run.note_stops(self._queue):
            if self._journal is not None:
                self._journal.add(self._queue.search_of(stop).name, stop.candidate, stop)

    @contextmanager
    def _ending_on_write_error(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            self.unwritable(str(error))
