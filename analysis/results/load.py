"""A finished, or half finished, study from its directory: what was asked for and what was recorded."""

from __future__ import annotations

import json
import math
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pandas as pd

from embedding_jobs.errors import StudyError
from trainables.records.failures import Failure, Stop, read_failures, read_stops
from trainables.records.parquet import read_record_file, read_records, record_files
from trainables.records.types import Candidate, TrialConfig, TrialRecord

FORMAT = 1

"""Version of `study.json` that this module reads."""

IMPORTANCES = "importance.json"

"""What a study's directory says of the importance of hyperparameters, if it does."""

PROTOCOLS: Mapping[str, tuple[str, ...]] = {"paper": ("paper",), "nested": ("search", "confirm")}

"""The phases of each protocol, in order; what is reported comes from the last one."""


class ReportError(StudyError):
    """A study that cannot be reported: the message names the rule, the value and the remedy."""


@dataclass(frozen=True)
class DataDescription:
    """The data of a study, as far as the runner described it.

    Attributes:
        n_items: Items in all; None where not stated.
        n_classes: Classes in all; None where not stated.
        class_names: Sorted label names; per-item labels index this.
        n_features: Length of the concatenated embedding; None where not stated.
        embeddings: What encoded each column, by column.
        notes: Plain sentences to show the reader.
    """

    n_items: int | None = None
    n_classes: int | None = None
    class_names: tuple[str, ...] = ()
    n_features: int | None = None
    embeddings: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class StudyDescription:
    """What a study set out to do: the typed view of `study.json`.

    Attributes:
        name: Name of the study.
        preset: The preset that it started from; None where it was written by hand.
        protocol: One of `PROTOCOLS`.
        objective: The figure that chooses each method's best candidate; higher is better.
        threshold: Confidence above which a class is predicted, in (0, 1).
        methods: Method names in the study file's order.
        splits: Planned split seeds of each phase of the protocol.
        n_candidates: Planned candidates of each method.
        candidates: The candidates of each method that the study has proposed; a method that is not named may have any.
        settings: The whole study file, resolved.
        choices: Text of each choice made where the published method is silent, by short name.
        data: The data and its embeddings.
        digests: Digests of settings and embeddings.
    """

    name: str
    preset: str | None
    protocol: str
    objective: str
    threshold: float
    methods: tuple[str, ...]
    splits: Mapping[str, tuple[int, ...]]
    n_candidates: Mapping[str, int]
    candidates: Mapping[str, frozenset[Candidate]]
    settings: Mapping[str, Any]
    choices: Mapping[str, str]
    data: DataDescription
    digests: Mapping[str, str]

    @property
    def reported_phase(self) -> str:
        """The phase whose figures are reported."""
        return PROTOCOLS[self.protocol][-1]

    @property
    def choosing_phase(self) -> str:
        """The phase whose objective chooses each method's best candidate."""
        return PROTOCOLS[self.protocol][0]


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
        ReportError: There is no readable description.
        RecordError: A record file is damaged or of another version.
    """
    description = read_description(directory / "study.json")
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
        return _is_asked(note.candidate, results.description) and not finished.issuperset(note.trials)

    failures, stops = filter(tells, read_failures(folder)), filter(tells, read_stops(folder))
    return replace(results, failures=tuple(failures), stops=tuple(stops))


def checked(description: StudyDescription, records: Sequence[TrialRecord]) -> StudyResults:
    """The trials that a description plans; those that cannot stand beside the others are left out, and named."""
    planned = [record for record in records if _is_planned(record, description)]
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


def read_description(path: Path) -> StudyDescription:
    """Reads and checks `study.json`.

    Raises:
        ReportError: The file is missing, damaged, of another version, or lacks what a report rests on.
    """
    try:
        raw = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ReportError(
            f"{path} does not exist: a study's directory holds study.json. Run the study first, or name its directory."
        ) from None
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise ReportError(f"{path} is not JSON ({error}). Run the study again: it writes the file anew.") from None
    if not isinstance(raw, dict) or raw.get("format") != FORMAT:
        found = raw.get("format") if isinstance(raw, dict) else type(raw).__name__
        raise ReportError(f"{path} must have format {FORMAT}, got {found}. Report it with the version that wrote it.")
    required = ("name", "protocol", "objective", "threshold", "methods", "splits", "n_candidates")
    absent = [key for key in required if key not in raw]
    if absent:
        raise ReportError(f"{path} lacks {', '.join(absent)}. Run the study again: it writes the file anew.")
    if raw["protocol"] not in PROTOCOLS:
        raise ReportError(f"{path}: protocol must be one of {', '.join(PROTOCOLS)}, got {raw['protocol']!r}.")
    phases = PROTOCOLS[raw["protocol"]]
    if sorted(raw["splits"]) != sorted(phases):
        raise ReportError(
            f"{path}: splits of protocol {raw['protocol']} must be given for {', '.join(phases)}, "
            f"got {', '.join(raw['splits']) or 'none'}."
        )
    uncounted = [method for method in raw["methods"] if method not in raw["n_candidates"]]
    if not raw["methods"] or uncounted:
        what = f"n_candidates lacks {', '.join(uncounted)}" if uncounted else "methods is empty"
        raise ReportError(f"{path}: {what}; a report needs at least one method, each with its number of candidates.")
    return _description(raw)


def _description(raw: Mapping[str, Any]) -> StudyDescription:
    data = raw.get("data") or {}
    return StudyDescription(
        name=str(raw["name"]),
        preset=raw.get("preset"),
        protocol=str(raw["protocol"]),
        objective=str(raw["objective"]),
        threshold=float(raw["threshold"]),
        methods=tuple(raw["methods"]),
        splits={phase: tuple(int(seed) for seed in seeds) for phase, seeds in raw["splits"].items()},
        n_candidates={method: int(count) for method, count in raw["n_candidates"].items()},
        candidates={
            method: frozenset(Candidate.of(method, params) for params in found["proposed"])
            for method, found in (raw.get("candidates") or {}).items()
        },
        settings=raw.get("settings") or {},
        choices=raw.get("choices") or {},
        data=DataDescription(
            n_items=data.get("n_items"),
            n_classes=data.get("n_classes"),
            class_names=tuple(str(name) for name in data.get("class_names") or ()),
            n_features=data.get("n_features"),
            embeddings=data.get("embeddings") or {},
            notes=tuple(data.get("notes") or ()),
        ),
        digests=raw.get("digests") or {},
    )


def _importances(path: Path) -> Mapping[str, Mapping[str, float]]:
    """What was computed of hyperparameters; a report is no worse without it."""
    if not path.exists():
        return {}
    try:
        found: Mapping[str, Mapping[str, float]] = json.loads(path.read_text(encoding="utf-8"))["importances"]
    except (ValueError, KeyError) as error:
        raise ReportError(f"{path} cannot be read ({error}). Remove it: `study report` writes it anew.") from None
    return found


def _is_planned(record: TrialRecord, description: StudyDescription) -> bool:
    config = record.config
    return _is_asked(config.candidate, description) and config.split in description.splits.get(config.phase, ())


def _is_asked(candidate: Candidate, description: StudyDescription) -> bool:
    method, proposed = candidate.method, description.candidates
    return method in description.methods and (method not in proposed or candidate in proposed[method])


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
