"""Read a study, finished or not, from its directory: what was asked for and what was recorded."""

from __future__ import annotations

import math
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from pydantic import TypeAdapter

from analysis.results.aggregate import StudyResults
from embedding_jobs.errors import StudyError
from embedding_jobs.files import read_json
from trainables.records.description import StudyDescription, read_description
from trainables.records.failures import Failure, Stop, read_failures, read_stops
from trainables.records.parquet import own_records, read_record_file, record_files
from trainables.records.types import TrialConfig, TrialRecord

# File of a study's directory with the importance of its hyperparameters.
IMPORTANCES = "importance.json"

_IMPORTANCES = TypeAdapter(dict[str, dict[str, float]])


class ReportError(StudyError):
    """A study that cannot be reported."""


def load_study(directory: Path, *, with_items: bool = False) -> StudyResults:
    """Read a study's description and its finished trials.

    Args:
        directory: The study's directory, with `study.json` and `records/`.
        with_items: Whether to read the per-item results too, which are most of the bytes.

    Raises:
        DescriptionError: There is no study, or its description is not valid.
        RecordError: A record file is damaged or of another version.
        ReportError: The file of importances is damaged.
    """
    description = read_description(directory)
    records = directory / "records"
    own, foreign = own_records(records, description.mismatch, with_items=with_items)
    results = with_unfinished(checked(description, own), records)
    named = _excluded({_shared(why): [path for path in foreign if foreign[path] == why] for why in foreign.values()})
    return replace(results, excluded=(*named, *results.excluded), importances=_importances(directory / IMPORTANCES))


def with_unfinished(results: StudyResults, folder: Path) -> StudyResults:
    """Return a study with the reasons why planned trials are missing, from the notes in a folder.

    Raises:
        RecordError: A file is damaged, of another version or of another study.
    """
    finished = {record.config for record in results.records}

    def explains(note: Failure | Stop) -> bool:
        asked = any(results.description.asks_for(note.candidate, split) for split in note.splits)
        return asked and not finished.issuperset(note.trials)

    made_by = results.description.made_by
    failures, stops = read_failures(folder, *made_by), read_stops(folder, *made_by)
    return replace(results, failures=tuple(filter(explains, failures)), stops=tuple(filter(explains, stops)))


def checked(description: StudyDescription, records: Sequence[TrialRecord]) -> StudyResults:
    """Return the trials that are part of a study, without those that cannot be compared with the others."""
    planned = [record for record in records if description.includes(record.config)]
    valid: list[TrialRecord] = []
    excluded: dict[str, list[TrialConfig]] = {}
    for record in planned:
        if problem := _problem(record, description):
            excluded.setdefault(problem, []).append(record.config)
        else:
            valid.append(record)
    return StudyResults(
        description,
        tuple(valid),
        n_unplanned=len(records) - len(planned),
        excluded=_excluded(excluded),
    )


def read_items(directory: Path, chosen: Mapping[str, Sequence[TrialRecord]]) -> dict[str, list[TrialRecord]]:
    """Return the chosen trials of each method with their per-item results; other trials' items are not read."""
    wanted = {record.config for records in chosen.values() for record in records}
    found = {record.config: record for record in each_with_items(directory, wanted)}
    return {method: [found[record.config] for record in records] for method, records in chosen.items()}


def each_with_items(directory: Path, wanted: Collection[TrialConfig]) -> Iterator[TrialRecord]:
    """Yield some trials with their per-item results, unsorted, with one file in memory at a time."""
    description = read_description(directory)
    for path in record_files(directory / "records"):
        found = read_record_file(path)
        is_own = found and description.mismatch(found[0].provenance) is None
        if is_own and any(record.config in wanted for record in found):
            yield from (record for record in read_record_file(path, with_items=True) if record.config in wanted)


def _importances(path: Path) -> Mapping[str, Mapping[str, float]]:
    if not path.exists():
        return {}
    try:
        return _IMPORTANCES.validate_python(read_json(path)["importances"])
    except (ValueError, KeyError, TypeError) as error:
        raise ReportError(f"{path} cannot be read ({error}). Remove it: `study report` writes it again.") from None


def _problem(record: TrialRecord, description: StudyDescription) -> str | None:
    """Return why a trial cannot be compared with the others: another study made it, or it has no score."""
    if mismatch := description.mismatch(record.provenance):
        return _shared(mismatch)
    if not math.isfinite(record.metrics.get(description.objective, math.nan)):
        return (
            f"no finite {description.objective} among {', '.join(sorted(record.metrics))}. Remove the record and run "
            "the study again."
        )
    return None


def _shared(mismatch: str) -> str:
    return f"{mismatch}. Two studies share this directory: use one for each, and move the records of one away."


def _excluded(problems: Mapping[str, Sequence[TrialConfig | Path]]) -> tuple[str, ...]:
    """Return a sentence for each problem of some trials or files."""
    more = {problem: f" and {len(found) - 1} more" if len(found) > 1 else "" for problem, found in problems.items()}
    return tuple(f"Excluded: {found[0]}{more[problem]}, {problem}" for problem, found in problems.items())
