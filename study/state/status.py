"""Where a study stands, from its files alone: while a run works, after it, on another machine. Loads nothing heavy."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from analysis.format import duration, plural
from analysis.report.text import what_was_saved
from study.state.lock import Activity, read_activity
from trainables.records.failures import Failure, Stop, read_failures, read_stops
from trainables.records.parquet import read_coordinates
from trainables.records.types import Candidate, TrialConfig


@dataclass(frozen=True)
class MethodStatus:
    """The trials of one method in one phase.

    Attributes:
        phase: The phase.
        method: The method.
        n_planned: Trials that it will have in the end, without early stopping.
        n_done: Trials recorded.
        n_failed: Trials that failed for good.
        n_stopped: Trials that early stopping spared.
    """

    phase: str
    method: str
    n_planned: int
    n_done: int
    n_failed: int
    n_stopped: int

    @property
    def n_missing(self) -> int:
        """Trials still to be trained."""
        return max(0, self.n_planned - self.n_done - self.n_failed - self.n_stopped)


@dataclass(frozen=True)
class Status:
    """Where a study stands.

    Attributes:
        methods: Its methods, phase by phase.
        failures: What failed for good.
        stops: What early stopping gave up.
        activity: What a run is at now; None when none works.
        left_s: Time that the missing trials will take: as fast as this run was so far, or one after the other.
    """

    methods: tuple[MethodStatus, ...]
    failures: tuple[Failure, ...]
    stops: tuple[Stop, ...]
    activity: Activity | None
    left_s: float | None

    @property
    def n_missing(self) -> int:
        """Trials still to be trained."""
        return sum(method.n_missing for method in self.methods)


def read_status(directory: Path, description: Mapping[str, Any]) -> Status:
    """Reads where a study stands.

    Args:
        directory: The study's directory.
        description: Its `study.json`; where that names the candidates of a method, others do not count.

    Raises:
        trainables.records.RecordError: A record file is damaged or of another version.
    """
    durations = read_coordinates(directory / "records")
    failures = read_failures(directory / "records")
    stops = read_stops(directory / "records") if _stops_early(description) else []
    splits = description["splits"]
    known = {
        method: {Candidate.of(method, params) for params in found["proposed"]}
        for method, found in description.get("candidates", {}).items()
    }

    def counted(trials: Iterable[TrialConfig]) -> Counter[tuple[str, str]]:
        """Trials by phase and method, without those that the study no longer asks for."""
        return Counter(
            (trial.phase, method)
            for trial in trials
            if trial.split in splits.get(trial.phase, ())
            and ((method := trial.candidate.method) not in known or trial.candidate in known[method])
        )

    done = counted(durations)
    failed = counted(trial for failure in failures for trial in failure.trials)
    stopped = counted(trial for stop in stops for trial in stop.trials)
    methods = []
    for phase, seeds in splits.items():
        for method in description["methods"]:
            n_candidates = 1 if phase == "confirm" else description["n_candidates"][method]
            key = (phase, method)
            methods.append(MethodStatus(phase, method, n_candidates * len(seeds), done[key], failed[key], stopped[key]))
    activity = read_activity(directory)
    n_missing = sum(method.n_missing for method in methods)
    left_s = None
    if activity is not None and activity.n_trained:
        left_s = n_missing * (time.time() - activity.since_s) / activity.n_trained
    elif durations:
        left_s = n_missing * sum(durations.values()) / len(durations)
    return Status(tuple(methods), tuple(failures), tuple(stops), activity, left_s)


def _stops_early(description: Mapping[str, Any]) -> bool:
    rules = description["settings"]["search"]["pruning"]
    return any(rule is not None for rule in rules.values())


def in_words(status: Status) -> list[str]:
    """What is to be said beside the table of a study's status, line by line."""
    lines = []
    if status.activity is not None:
        lines += work_in_words(status.activity)
    if status.stops:
        lines.append(what_was_saved(status.stops))
    lines += [f"Failed: {failure}" for failure in status.failures]
    if status.n_missing:
        left = "" if status.left_s is None else f", about {duration(status.left_s)}"
        remedy = "" if status.activity is not None else " `study run` or, on a cluster, `study submit` trains them."
        lines.append(f"{plural(status.n_missing, 'trial')} missing{left}.{remedy}")
    elif not status.failures:
        lines.append("Every planned trial is recorded.")
    return lines


def work_in_words(activity: Activity) -> list[str]:
    """What a run is at, line by line."""
    at = f"A run works: {activity.doing}, for {duration(time.time() - activity.since_s)}."
    return [at, *(f"  in training: {pack}" for pack in activity.packs)]
