"""How far a study is, read from its files: during a run, after it, or on another machine. Loads nothing heavy."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass

from analysis.format import duration, plural
from analysis.report.text import what_was_saved
from study.config.schema import StudySpec
from study.search.early_stopping import in_force
from study.state.description import MOVE_AWAY, foreign_in_words, plan_of, plans_differ
from study.state.lock import Activity, read_activity
from trainables.records.choice import score_of
from trainables.records.description import StudyDescription
from trainables.records.failures import Failure, Stop, read_failures, read_stops
from trainables.records.parquet import read_packs
from trainables.records.types import TrialConfig


@dataclass(frozen=True)
class MethodStatus:
    """The trials of one method in one phase.

    Attributes:
        n_planned: Planned trials, without early stopping.
        n_failed: Trials that failed for good.
        n_stopped: Trials that early stopping saved.
    """

    phase: str
    method: str
    n_planned: int
    n_done: int
    n_failed: int
    n_stopped: int

    @property
    def n_missing(self) -> int:
        """Number of trials still to be trained."""
        return max(0, self.n_planned - self.n_done - self.n_failed - self.n_stopped)


@dataclass(frozen=True)
class Status:
    """How far a study is.

    Attributes:
        methods: Its methods, phase by phase.
        foreign: The record files that are of another study and do not count, one sentence each.
        activity: What a run is doing now; None when there is no run.
        left_s: Seconds that the missing trials will take, at the speed of this run so far, or one after the other; None
            where nothing is known about it.
        changed: Whether the study file plans something else than the last run did.
    """

    methods: tuple[MethodStatus, ...]
    failures: tuple[Failure, ...]
    stops: tuple[Stop, ...]
    foreign: tuple[str, ...]
    activity: Activity | None
    left_s: float | None
    changed: bool

    @property
    def n_missing(self) -> int:
        """Number of trials still to be trained."""
        return sum(method.n_missing for method in self.methods)


def read_status(spec: StudySpec, before: StudyDescription | None) -> Status:
    """Compare what the study file plans now with what its directory holds.

    `before` is the description that the last run wrote, if there was one.

    Raises:
        RecordError: A file is damaged or of another version, or a note on a failure or a stop is of another study.
    """
    plan = plan_of(spec, before)
    packs, failures, stops, foreign = read_packs(spec.records), [], [], {}
    if before is not None:
        foreign = {pack.path: why for pack in packs if (why := before.mismatch(pack.provenance))}
        failures = read_failures(spec.records, *before.made_by)
        stops = in_force(read_stops(spec.records, *before.made_by), spec.search.pruning, spec.objective.metric)
    own = [pack.durations_s for pack in packs if pack.path not in foreign]
    durations = {trial: duration_s for pack in own for trial, duration_s in pack.items()}

    metrics = {trial: found for pack in packs if pack.path not in foreign for trial, found in pack.metrics.items()}
    objective = spec.objective.metric
    chosen = plan.chosen({one: score_of(found, objective) for one, found in metrics.items() if objective in found})

    def counts(trial: TrialConfig) -> bool:
        if not plan.includes(trial) or trial.phase == spec.phases[0]:
            return plan.includes(trial)
        # What a split had chosen before, among fewer candidates or by another objective, is not planned any more.
        return chosen[trial.candidate.method].get(trial.split) == trial.candidate

    def counted(trials: Iterable[TrialConfig]) -> Counter[tuple[str, str]]:
        return Counter((trial.phase, trial.candidate.method) for trial in trials if counts(trial))

    done = counted(durations)
    failed = counted(trial for failure in failures for trial in failure.trials)
    stopped = counted(trial for stop in stops for trial in stop.trials)
    methods = []
    for phase, seeds in plan.splits.items():
        for method in plan.methods:
            n_candidates = plan.n_candidates[method] if phase == spec.phases[0] else 1
            key = (phase, method)
            methods.append(MethodStatus(phase, method, n_candidates * len(seeds), done[key], failed[key], stopped[key]))
    activity = read_activity(spec.root)
    n_missing = sum(method.n_missing for method in methods)
    left_s = None
    if activity is not None and activity.n_trained:
        left_s = n_missing * (time.time() - activity.since_s) / activity.n_trained
    elif durations:
        left_s = n_missing * sum(durations.values()) / len(durations)
    changed = before is not None and plans_differ(before, plan)
    return Status(
        tuple(methods), tuple(failures), tuple(stops), tuple(foreign_in_words(foreign)), activity, left_s, changed
    )


def in_words(status: Status) -> list[str]:
    """Return what to print below the table of a study's status, line by line."""
    lines = []
    if status.activity is not None and status.n_missing:
        lines += work_in_words(status.activity)
    elif status.activity is not None:
        lines.append("A run is in progress, and has no trial left to train.")
    if status.stops:
        lines.append(what_was_saved(status.stops))
    lines += [f"Failed: {failure}" for failure in status.failures]
    lines += [f"Not counted: {sentence}" for sentence in status.foreign]
    if status.foreign:
        lines.append(MOVE_AWAY)
    if status.n_missing:
        left = "" if status.left_s is None else f", about {duration(status.left_s)}"
        remedy = "" if status.activity is not None else " `study run` or, on a cluster, `study submit` trains them."
        lines.append(f"{plural(status.n_missing, 'trial')} missing{left}.{remedy}")
    elif not status.failures:
        lines.append("Every planned trial is recorded.")
    if status.changed:
        lines.append("The study file has changed since the last run: the counts are of its present plan.")
    return lines


def work_in_words(activity: Activity) -> list[str]:
    """Return what a run is doing, line by line."""
    now = f"A run is in progress: {activity.doing}, for {duration(time.time() - activity.since_s)}."
    return [now, *(f"  in training: {pack}" for pack in activity.packs)]
