"""Why planned trials have no record: they failed, or the search stopped their candidate. One small JSON file each.

The files are beside the records, in `records/failed/` and `records/stopped/`. Unlike a record, a failure can be
removed: its trials are then planned again.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal, TypeVar

from pydantic import TypeAdapter

from embedding_jobs.files import read_json, write_whole
from trainables.records.choice import figure_of
from trainables.records.parquet import record_name
from trainables.records.types import Candidate, Pack, RecordError, SplitId

# Version of the files; a file of another version is refused.
_FORMAT = 4

# Their folders beside the records.
FAILED, STOPPED = "failed", "stopped"

# Metrics of an evaluation during a training, each the mean over the lanes: the objectives that ASHA can judge by.
EVALUATED = ("auc_weighted", "top1", "accuracy", "accuracy_known", "accuracy_none")

_Note = TypeVar("_Note", bound=Pack)


@dataclass(frozen=True)
class Failure(Pack):
    """A pack that failed in every attempt.

    Attributes:
        cause: The error, in one line.
        traceback: The worker's traceback.
        n_attempts: Number of attempts.
        failed_at_s: Time of the last failure, seconds since 1970.
    """

    cause: str
    traceback: str
    n_attempts: int
    failed_at_s: float

    def __str__(self) -> str:
        return f"{self.candidate} on {self.phase} splits {', '.join(map(str, self.splits))}: {self.cause}"


@dataclass(frozen=True)
class Stop(Pack):
    """A candidate that the search stopped before it was trained on every split.

    Attributes:
        rule: `asha` (stopped during a training) or `racing` (given no further splits).
        metric: The study's objective, by which it was judged.
        value: Its score when it was stopped: the metric, or its negative where lower is better.
        n_epochs_saved: Epochs that were not trained, over all its splits.
        n_epochs_planned: Epochs that all its splits would have taken.
        evaluated_splits: With `asha`, the splits in training when it was stopped.
        evaluations: With `asha`, the metric at each evaluation until then: (epoch, mean over those splits).
    """

    rule: Literal["asha", "racing"]
    metric: str
    value: float
    n_epochs_saved: int
    n_epochs_planned: int
    evaluated_splits: tuple[SplitId, ...] = ()
    evaluations: tuple[tuple[int, float], ...] = ()

    @property
    def figure(self) -> float:
        """The metric when it was stopped."""
        return figure_of(self.value, self.metric)

    @property
    def share(self) -> float:
        """Fraction of the candidate's training that was done, in [0, 1)."""
        return 1 - self.n_epochs_saved / self.n_epochs_planned


def write_failure(records: Path, failure: Failure, settings: str, method_code: Mapping[str, str]) -> None:
    """Write a failure to a study's records folder; one of the same trials is replaced.

    Args:
        records: The study's records folder.
        failure: The failure.
        settings: Digest of the study's settings, by which readers know whose it is.
        method_code: What identifies the code of each of its methods.
    """
    _write(records / FAILED, failure, settings, method_code)


def write_stop(records: Path, stop: Stop, settings: str, method_code: Mapping[str, str]) -> None:
    """Write a stop to a study's records folder, as `write_failure` does."""
    _write(records / STOPPED, stop, settings, method_code)


def read_failures(records: Path, settings: str, method_code: Mapping[str, str]) -> list[Failure]:
    """Read the failures of a study, sorted by coordinates; those of a method's other code are left out.

    Args:
        records: The study's records folder.
        settings: Digest of the study's settings.
        method_code: What identifies the code of each of its methods.

    Raises:
        RecordError: A file is damaged, of another version or of another study.
    """
    return _read(records / FAILED, Failure, settings, method_code)


def read_stops(records: Path, settings: str, method_code: Mapping[str, str]) -> list[Stop]:
    """Read the stopped candidates of a study, as `read_failures` does its failures."""
    return _read(records / STOPPED, Stop, settings, method_code)


def forget_failures(records: Path, failures: Iterable[Failure]) -> None:
    """Remove failures, so that their trials are planned again."""
    for failure in failures:
        _path(records / FAILED, failure).unlink(missing_ok=True)


def _path(folder: Path, note: Pack) -> Path:
    return folder / Path(record_name(note.trials)).with_suffix(".json").name


def _write(folder: Path, note: Pack, settings: str, method_code: Mapping[str, str]) -> None:
    method = note.candidate.method
    made_by = {"format": _FORMAT, "settings": settings, "method_code": method_code.get(method, "")}
    candidate = {"method": method, "params": dict(note.candidate.params)}
    write_whole(_path(folder, note), json.dumps({**made_by, **asdict(note), "candidate": candidate}).encode())


def _read(folder: Path, kind: type[_Note], settings: str, method_code: Mapping[str, str]) -> list[_Note]:
    found, checked = [], TypeAdapter(kind)
    for path in folder.glob("[!.]*.json"):
        try:
            fields = read_json(path)
            if fields.pop("format") != _FORMAT:
                raise ValueError(f"it is not of format {_FORMAT}")
            if (made_with := fields.pop("settings")) != settings:
                remedy = "Move it out of the folder"
                if kind is Failure:
                    remedy += ", or forget all failures of the study's last run with `study retry`"
                raise RecordError(
                    f"{path} is not of this study: it was made with other settings (digest {made_with}, not "
                    f"{settings}). {remedy}."
                )
            code = fields.pop("method_code")
            note = checked.validate_python({**fields, "candidate": Candidate.of(**fields["candidate"])})
            if code == method_code.get(note.candidate.method, code):
                found.append(note)
        except FileNotFoundError:
            continue  # removed since the folder was listed
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise RecordError(f"{path} cannot be read: {error}. Remove it and run the study again.") from error
    return sorted(found, key=lambda note: note.trials[0])
