"""A finished, or half finished, study from its directory: what was asked for and what was recorded."""

from __future__ import annotations

import json
import math
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import pandas as pd

from embedding_jobs.errors import StudyError
from trainables.records.description import StudyDescription, read_description
from trainables.records.failures import Failure, Stop, read_failures, read_stops
from trainables.records.parquet import read_record_file, read_records, record_files
from trainables.records.types import TrialConfig, TrialRecord

IMPORTANCES = "importance.json"

"""What a study's directory says of the importance of hyperparameters, if it does."""


class ReportError(StudyError):
    """A study that cannot be reported: the message names the rule, the value and the remedy."""


@dataclass(frozen=True)
class StudyResults:
    """A study and its finished trials.

    Attributes:
        description: What was asked for.
        records: The finished trials that the description plans, sorted by coordinates.
        n_unplanned: Finished trials left out because the study no longer asks for their method, candidate, phase
            or split.
        unsound: Why finished trials are left out that were made by other settings or have no score, a sentence each.
        failures: Packs that could not be trained.
        stops: Candidates that the search gave up before they had met every split.
        importances: Importance of each hyperparameter of a method, by method.
    """

    description: StudyDescription
    records: tuple[TrialRecord, ...]
    n_unplanned: int = 0
    unsound: tuple[str, ...] = ()
    failures: tuple[Failure, ...] = ()
    stops: tuple[Stop, ...] = ()
    importances: Mapping[str, Mapping[str, float]] = field(default_factory=dict)

    def table(self) -> pd.DataFrame:
        """One tidy row a trial: coordinates, each hyperparameter, every figure, `duration_s`."""
        return pd.DataFrame(
            [
                {
                    "phase": record.config.phase,
                    "method": record.config.candidate.method,
                    "candidate": str(record.config.candidate),
                    **dict(record.config.candidate.params),
                    "split": record.config.split,
                    **record.metrics,
                    "duration_s": record.duration_s,
                }
                for record in self.records
            ]
        )


def load_study(directory: Path, *, with_items: bool = False) -> StudyResults:
    """Reads a study's description and its finished trials.

    Args:
        directory: The study's directory: `study.json` and `records/`.
        with_items: Whether to read the per-item results too (most of the bytes).

    Raises:
        DescriptionError: There is no study, or its description is not valid.
        RecordError: A record file is damaged or of another version.
    """
    description = read_description(directory)
    records = directory / "records"
    results = with_unfinished(checked(description, read_records(records, with_items=with_items)), records)
    return replace(results, importances=_importances(directory / IMPORTANCES))


def with_unfinished(results: StudyResults, folder: Path) -> StudyResults:
    """A study with why its planned trials are missing.

    Args:
        results: The study and its finished trials.
        folder: Where its failures and stops lie.

    Raises:
        RecordError: A file is damaged or of another version.
    """
    finished = {record.config for record in results.records}

    def tells(note: Failure | Stop) -> bool:
        return results.description.asks_for(note.candidate) and not finished.issuperset(note.trials)

    failures, stops = filter(tells, read_failures(folder)), filter(tells, read_stops(folder))
    return replace(results, failures=tuple(failures), stops=tuple(stops))


def checked(description: StudyDescription, records: Sequence[TrialRecord]) -> StudyResults:
    """The trials that a description plans; those that cannot stand beside the others are left out, and named."""
    planned = [record for record in records if description.includes(record.config)]
    sound: list[TrialRecord] = []
    unsound: dict[str, list[TrialConfig]] = {}
    for record in planned:
        if problem := _problem(record, description):
            unsound.setdefault(problem, []).append(record.config)
        else:
            sound.append(record)
    return StudyResults(
        description,
        tuple(sound),
        n_unplanned=len(records) - len(planned),
        unsound=tuple(f"{_named(trials)}: {problem}" for problem, trials in unsound.items()),
    )


def load_items(directory: Path, wanted: Collection[TrialConfig]) -> list[TrialRecord]:
    """Reads some trials with their per-item results, sorted by coordinates; files without any are passed over.

    Args:
        directory: The study's directory.
        wanted: The coordinates of the trials.
    """
    return sorted(each_with_items(directory, wanted), key=lambda record: record.config)


def each_with_items(directory: Path, wanted: Collection[TrialConfig]) -> Iterator[TrialRecord]:
    """The same one file after the other, in no order, for what sums them up."""
    for path in record_files(directory / "records"):
        if any(record.config in wanted for record in read_record_file(path)):
            yield from (record for record in read_record_file(path, with_items=True) if record.config in wanted)


def _importances(path: Path) -> Mapping[str, Mapping[str, float]]:
    """What was computed of hyperparameters; a report is no worse without it."""
    if not path.exists():
        return {}
    try:
        found: Mapping[str, Mapping[str, float]] = json.loads(path.read_text(encoding="utf-8"))["importances"]
    except (ValueError, KeyError) as error:
        raise ReportError(f"{path} cannot be read ({error}). Remove it: `study report` writes it anew.") from None
    return found


def _problem(record: TrialRecord, description: StudyDescription) -> str | None:
    """Why a trial cannot be reported: another study made it, or it has no score to compare."""
    for name, digest in description.digests.items():
        found = record.provenance.get(f"digest_{name}", digest)
        if found != digest:
            return (
                f"made by other {name} than study.json describes ({found}, not {digest}). Two studies share this "
                "directory: give each its own, or remove the records of one."
            )
    if not math.isfinite(record.metrics.get(description.objective, math.nan)):
        return (
            f"no finite {description.objective}, of {', '.join(sorted(record.metrics))}. Remove the record and run the "
            "study again."
        )
    return None


def _named(trials: Sequence[TrialConfig]) -> str:
    return str(trials[0]) if len(trials) == 1 else f"{trials[0]} and {len(trials) - 1} more"
