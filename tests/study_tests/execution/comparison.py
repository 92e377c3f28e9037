"""Everything that a finished study leaves, without times: to compare one that was killed with an undisturbed one."""

from __future__ import annotations

import json
import sqlite3
from collections import Counter
from collections.abc import Iterator
from dataclasses import fields
from pathlib import Path
from typing import Any

import numpy as np
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend

from analysis.results.mlflow_schema import DURATION, KEY_TAG
from embedding_jobs.files import sha256_file
from study.search.journal import JOURNAL
from trainables.records.parquet import read_record_file, record_files

# Figures that a run measures with a clock.
TIMES = {DURATION}

# What runs have measured, and the libraries' messages, which the command alone keeps.
PASSING = (Path("embeddings/runs"), Path("study.log"))

Facts = Counter[tuple[str, ...]]


def everything_in(directory: Path, database: Path | None = None, artifacts: Path | None = None) -> Facts:
    """Return how often each fact stands in a study's directory and in its runs; a fact is a place and a value there.

    Args:
        directory: The study's directory.
        database: MLflow's SQLite database; None for the one in the directory.
        artifacts: The folder of the server's artifacts, unless they are in the directory.
    """
    database = database or directory / "mlflow.db"
    keys = run_keys(database)
    return Counter(
        (
            *_records(directory / "records"),
            *_runs(database, keys),
            *_journal(directory / JOURNAL),
            *_files(directory, keys),
            *(_files(artifacts, keys) if artifacts is not None else ()),
        )
    )


def differences(found: Facts, expected: Facts) -> list[str]:
    """Return a line for each fact that is missing, too many, or of another value."""
    missing, extra = expected - found, found - expected
    return [
        *(f"missing {n} x {' | '.join(fact)[:300]}" for fact, n in sorted(missing.items())),
        *(f"extra {n} x {' | '.join(fact)[:300]}" for fact, n in sorted(extra.items())),
    ]


def _records(folder: Path) -> Iterator[tuple[str, ...]]:
    """Yield every column of every record, by the bits of its values."""
    for path in record_files(folder):
        for record in read_record_file(path, with_items=True):
            place = ("record", path.name, record.config.key)
            for name, value in record.metrics.items():
                yield (*place, name, "" if name in TIMES else float(value).hex())
            for name, text in record.provenance.items():
                yield (*place, name, text)
            assert record.items is not None
            for part in (record.curves, record.items):
                for field in fields(part):
                    array: np.ndarray[Any, Any] = getattr(part, field.name)
                    yield (*place, field.name, str(array.dtype), str(array.shape), array.tobytes().hex())


def run_keys(database: Path) -> dict[str, str]:
    """Return the key of each run on an MLflow server, by its id."""
    with sqlite3.connect(database) as connection:
        return dict(connection.execute("SELECT run_uuid, value FROM tags WHERE key = ?", [KEY_TAG]))


def _runs(database: Path, keys: dict[str, str]) -> Iterator[tuple[str, ...]]:
    """Yield the rows of MLflow's tables, with the keys of runs in place of their ids."""

    def key(run: str) -> str:
        return keys.get(run, run)

    with sqlite3.connect(database) as connection:
        for run, *values in connection.execute("SELECT run_uuid, name, status, lifecycle_stage, user_id FROM runs"):
            yield ("run", key(run), *map(str, values))
        for table in ("params", "tags"):
            for run, name, value in connection.execute(f"SELECT run_uuid, key, value FROM {table}"):
                yield (table, key(run), name, key(value))
        for table in ("metrics", "latest_metrics"):
            columns = "run_uuid, key, value, step, is_nan"
            for run, name, value, *values in connection.execute(f"SELECT {columns} FROM {table}"):
                yield (table, key(run), name, "" if name in TIMES else float(value).hex(), *map(str, values))
        inputs = "SELECT destination_id, name, digest, dataset_source, dataset_schema, dataset_profile FROM inputs "
        for run, *values in connection.execute(f"{inputs} JOIN datasets ON dataset_uuid = source_id"):
            yield ("input", key(run), *map(str, values))
        for name, stage in connection.execute("SELECT name, lifecycle_stage FROM experiments"):
            yield ("experiment", name, stage)


def _journal(path: Path) -> Iterator[tuple[str, ...]]:
    """Yield the trials of the search's Optuna studies."""
    storage = JournalStorage(JournalFileBackend(str(path)))
    for study in storage.get_all_studies():
        for trial in storage.get_all_trials(study._study_id):
            values = (trial.state, trial.value, trial.params, trial.distributions, trial.intermediate_values)
            yield ("journal", study.study_name, str(trial.user_attrs), *map(str, values))


def _files(folder: Path, keys: dict[str, str]) -> Iterator[tuple[str, ...]]:
    """Yield the files of a folder, with the content of those that hold no times."""
    for path in folder.rglob("*"):
        place = path.relative_to(folder)
        if path.is_dir() or any(place.is_relative_to(one) for one in PASSING):
            continue
        named = "/".join(keys.get(part, part) for part in place.parts)
        yield ("file", named, *_content(path, place))


def _content(path: Path, place: Path) -> tuple[str, ...]:
    if place.name == "results.json":
        return (json.dumps(_timeless(json.loads(path.read_text())), sort_keys=True),)
    if place.parts[0] == "embeddings" or place.name == "study.json":
        return (sha256_file(path),)
    return ()


def _timeless(value: Any) -> Any:
    """Return JSON without what a clock has measured."""
    if isinstance(value, dict):
        return {name: _timeless(one) for name, one in value.items() if name not in TIMES}
    return [_timeless(one) for one in value] if isinstance(value, list) else value
