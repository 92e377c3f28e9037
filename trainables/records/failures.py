"""Why planned trials have no record: they failed, or a search gave their candidate up. One small JSON file each.

They lie beside the records, in `records/failed/` and `records/stopped/`, and are written whole or not at all. Unlike
records they can be taken back: a failure is forgotten when its trials are to be tried again.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

from embedding_jobs.files import write_whole
from trainables.records.parquet import record_name
from trainables.records.types import Candidate, RecordError, TrialConfig

FORMAT = 1

"""Version of the files; one of another version is refused."""

FAILED, STOPPED = "failed", "stopped"

"""Their folders beside the records."""

EVALUATED = ("accuracy", "accuracy_known", "accuracy_none")

"""What an evaluation on the way of a training reports, each the mean over the lanes."""


def judged_by(objective: str) -> str:
    """The figure that a training is stopped by: the study's objective where it is known on the way, else accuracy."""
    return objective if objective in EVALUATED else "accuracy"


@dataclass(frozen=True)
class Failure:
    """A pack that could not be trained, however often it was tried.

    Attributes:
        phase: Phase of its trials.
        candidate: Candidate of its trials.
        splits: Their split seeds.
        cause: The error, in one line.
        traceback: The error as the worker met it.
        n_attempts: How often it was tried.
        failed_at_s: When it was given up, seconds since 1970.
    """

    phase: str
    candidate: Candidate
    splits: tuple[int, ...]
    cause: str
    traceback: str
    n_attempts: int
    failed_at_s: float

    def __str__(self) -> str:
        return f"{self.candidate} on {self.phase} splits {', '.join(map(str, self.splits))}: {self.cause}"

    @property
    def trials(self) -> list[TrialConfig]:
        """Coordinates of the trials without a record."""
        return _trials(self)


@dataclass(frozen=True)
class Stop:
    """A candidate that a search gave up before it had met every split.

    Attributes:
        phase: Phase of its trials.
        candidate: The candidate.
        splits: Split seeds without a record.
        rule: `asha`, stopped within a training, or `racing`, given no further splits.
        value: What it was judged by when it was stopped.
        n_epochs_saved: Epochs that were not trained, over all its splits.
        n_epochs_planned: Epochs that all its splits would have taken.
        evaluated_splits: With `asha`, the splits in training when it was stopped.
        evaluations: With `asha`, what it was judged by until then: (epoch, mean over those splits).
    """

    phase: str
    candidate: Candidate
    splits: tuple[int, ...]
    rule: Literal["asha", "racing"]
    value: float
    n_epochs_saved: int
    n_epochs_planned: int
    evaluated_splits: tuple[int, ...] = ()
    evaluations: tuple[tuple[int, float], ...] = ()

    @property
    def share(self) -> float:
        """Share of the candidate's training that was done, in [0, 1)."""
        return 1 - self.n_epochs_saved / self.n_epochs_planned

    @property
    def trials(self) -> list[TrialConfig]:
        """Coordinates of the trials without a record."""
        return _trials(self)


def write_failure(records: Path, failure: Failure) -> None:
    """Writes a failure; one of the same pack is replaced.

    Args:
        records: Folder of the study's records.
        failure: What to write.
    """
    _write(records / FAILED, failure)


def write_stop(records: Path, stop: Stop) -> None:
    """Writes a stop; one of the same trials is replaced.

    Args:
        records: Folder of the study's records.
        stop: What to write.
    """
    _write(records / STOPPED, stop)


def read_failures(records: Path) -> list[Failure]:
    """What failed for good in a study, sorted by coordinates.

    Raises:
        RecordError: A file is damaged or of another version.
    """
    return sorted((Failure(**fields) for fields in _read(records / FAILED)), key=lambda failure: failure.trials[0])


def read_stops(records: Path) -> list[Stop]:
    """The candidates that a study's search gave up, sorted by coordinates.

    Raises:
        RecordError: A file is damaged or of another version.
    """
    found = []
    for fields in _read(records / STOPPED):
        fields["evaluations"] = tuple((epoch, value) for epoch, value in fields["evaluations"])
        fields["evaluated_splits"] = tuple(fields["evaluated_splits"])
        found.append(Stop(**fields))
    return sorted(found, key=lambda stop: stop.trials[0])


def forget_failures(records: Path, failures: Iterable[Failure]) -> None:
    """Removes failures, so that their trials are planned again."""
    for failure in failures:
        _path(records / FAILED, failure).unlink(missing_ok=True)


def _trials(note: Failure | Stop) -> list[TrialConfig]:
    return [TrialConfig(note.phase, note.candidate, split) for split in note.splits]


def _path(folder: Path, note: Failure | Stop) -> Path:
    return folder / Path(record_name(note.trials)).with_suffix(".json").name


def _write(folder: Path, note: Failure | Stop) -> None:
    fields = asdict(note)
    fields["candidate"] = {"method": note.candidate.method, "params": dict(note.candidate.params)}
    write_whole(_path(folder, note), json.dumps({"format": FORMAT, **fields}).encode())


def _read(folder: Path) -> Iterable[dict[str, Any]]:
    for path in sorted(folder.glob("[!.]*.json")):
        try:
            fields = json.loads(path.read_text())
            if fields.pop("format") != FORMAT:
                raise ValueError(f"it is not of format {FORMAT}")
            fields["candidate"] = Candidate.of(**fields["candidate"])
            fields["splits"] = tuple(fields["splits"])
        except FileNotFoundError:
            continue  # forgotten since the folder was listed
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise RecordError(f"{path} cannot be read: {error}. Remove it and run the study again.") from error
        yield fields
