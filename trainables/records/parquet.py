"""Read and write record files: one Parquet file per pack, one row per trial.

A file is written aside, flushed and renamed: a record file that exists is complete. Any Parquet reader can open it, and
nothing in it is executable.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from embedding_jobs.files import whole_file
from trainables.records.types import Candidate, Curves, ItemResults, RecordError, TrialConfig, TrialRecord

# Version of the record file's schema; a file of another version is refused.
_FORMAT = 2

_METADATA_KEY = b"embedding_ablation_study"

_CKA = "epoch_cka"

_CURVES = tuple(field.name for field in fields(Curves) if field.name != _CKA)


_ITEM_TYPES = {
    "item": pa.int32(),
    "label": pa.int32(),
    "known": pa.bool_(),
    "predicted": pa.int32(),
    "confidence": pa.float32(),
    "correct": pa.bool_(),
    "auc_influence": pa.float32(),
}


_SCHEMA = pa.schema(
    [
        ("phase", pa.string()),
        ("method", pa.string()),
        ("params", pa.map_(pa.string(), pa.float64())),
        ("split", pa.int64()),
        ("metrics", pa.map_(pa.string(), pa.float64())),
        ("started_at_s", pa.float64()),
        ("duration_s", pa.float64()),
        *((name, pa.list_(pa.float32())) for name in _CURVES),
        *((f"item_{name}", pa.list_(kind)) for name, kind in _ITEM_TYPES.items()),
        (_CKA, pa.list_(pa.list_(pa.float32()))),
    ]
)


def record_name(trials: Sequence[TrialConfig]) -> str:
    """Return the file name of a pack: readable, and unique to exactly these trials.

    Args:
        trials: The trials of the pack, at least one, all of one phase.
    """
    keys = "\n".join(sorted(trial.key for trial in trials))
    slug = re.sub(r"[^a-z0-9_.=]+", "-", str(min(trials).candidate).lower()).strip("-")
    return f"{trials[0].phase}-{slug[:80]}-{hashlib.sha256(keys.encode()).hexdigest()[:12]}.parquet"


def write_records(directory: Path, records: Sequence[TrialRecord]) -> Path:
    """Write the records of one pack as one file, whole or not at all.

    Args:
        directory: Folder of the study's records; made if missing.
        records: The pack's trials, with their items, at least one.

    Returns:
        The path of the file, named by `record_name`.
    """
    directory.mkdir(parents=True, exist_ok=True)
    rows = [_row(record) for record in records]
    metadata = {"format": _FORMAT, "provenance": dict(records[0].provenance)}
    table = pa.Table.from_pylist(rows, schema=_SCHEMA.with_metadata({_METADATA_KEY: json.dumps(metadata).encode()}))
    path = directory / record_name([record.config for record in records])
    with whole_file(path) as aside:
        pq.write_table(table, aside, compression="zstd")
    return path


def read_records(directory: Path, *, with_items: bool = False) -> list[TrialRecord]:
    """Read every record of a study, sorted by coordinates.

    Args:
        directory: Folder of the study's records; a missing folder has none.
        with_items: Whether to read the per-item results too, which are most of the bytes.

    Raises:
        RecordError: A file is damaged, of another version, or a trial is in two files.
    """
    found: dict[TrialConfig, tuple[TrialRecord, Path]] = {}
    for path in record_files(directory):
        for record in read_record_file(path, with_items=with_items):
            if record.config in found:
                raise RecordError(
                    f"{record.config} is recorded twice: in {found[record.config][1]} and in {path}. "
                    "Remove one of the two files."
                )
            found[record.config] = (record, path)
    return [found[config][0] for config in sorted(found)]


def read_coordinates(directory: Path) -> dict[TrialConfig, float]:
    """Read the coordinates and device seconds of every trial, sorted; much faster than reading the records.

    Args:
        directory: Folder of the study's records; a missing folder has none.

    Raises:
        RecordError: A file is damaged.
    """
    found: dict[TrialConfig, float] = {}
    wanted = ["phase", "method", "params", "split", "duration_s"]
    for path in record_files(directory):
        try:
            with pq.ParquetFile(path) as file:
                # A column of another type may be a pickled object, which would run its maker's code when read.
                if any(file.schema_arrow.field(name).type != _SCHEMA.field(name).type for name in wanted):
                    raise RecordError(f"{path} is not a record file. Remove it and run the study again.")
                rows = file.read(columns=wanted).to_pylist()
        except (pa.ArrowException, KeyError, OSError) as error:
            raise RecordError(f"{path} cannot be read: {error}. Remove it and run the study again.") from error
        for row in rows:
            candidate = Candidate.of(row["method"], dict(row["params"]))
            found[TrialConfig(row["phase"], candidate, row["split"])] = row["duration_s"]
    return dict(sorted(found.items()))


def record_files(directory: Path) -> list[Path]:
    """Return the complete record files of a folder, sorted by name."""
    return sorted(path for path in directory.glob("*.parquet") if not path.name.startswith("."))


def read_record_file(path: Path, *, with_items: bool = False) -> list[TrialRecord]:
    """Read the records of one pack.

    Raises:
        RecordError: The file is damaged or of another version.
    """
    try:
        with pq.ParquetFile(path) as file:
            schema = file.schema_arrow
            metadata = json.loads((schema.metadata or {}).get(_METADATA_KEY, b"{}"))
            if metadata.get("format") != _FORMAT or not schema.equals(_SCHEMA):
                raise RecordError(
                    f"{path} is not a record file of format {_FORMAT} (found {metadata.get('format')}). "
                    "Remove it and run the study again, or use the version that wrote it."
                )
            wanted = [name for name in _SCHEMA.names if with_items or not name.startswith("item_")]
            rows = file.read(columns=wanted)
    except (pa.ArrowException, OSError, json.JSONDecodeError, UnicodeDecodeError, AttributeError) as error:
        raise RecordError(f"{path} cannot be read: {error}. Remove it and run the study again.") from error
    return [_record(rows, index, metadata["provenance"], with_items) for index in range(rows.num_rows)]


def _row(record: TrialRecord) -> dict[str, Any]:
    if record.items is None:
        raise ValueError(f"{record.config} has no per-item results; a record is written whole.")
    return {
        "phase": record.config.phase,
        "method": record.config.candidate.method,
        "params": list(record.config.candidate.params),
        "split": record.config.split,
        "metrics": list(record.metrics.items()),
        "started_at_s": record.started_at_s,
        "duration_s": record.duration_s,
        **{name: getattr(record.curves, name) for name in _CURVES},
        **{f"item_{name}": getattr(record.items, name) for name in _ITEM_TYPES},
        _CKA: list(record.curves.epoch_cka),
    }


def _record(rows: pa.Table, index: int, provenance: Mapping[str, str], with_items: bool) -> TrialRecord:
    def array(name: str) -> npt.NDArray[Any]:
        return np.asarray(rows.column(name)[index].values.to_numpy(zero_copy_only=False))

    def value(name: str) -> Any:
        return rows.column(name)[index].as_py()

    cka = value(_CKA)
    compared = {"epoch_cka": np.array(cka, np.float32)} if cka else {}
    return TrialRecord(
        config=TrialConfig(value("phase"), Candidate.of(value("method"), dict(value("params"))), value("split")),
        metrics=dict(value("metrics")),
        curves=Curves(**{name: array(name) for name in _CURVES}, **compared),
        items=ItemResults(**{name: array(f"item_{name}") for name in _ITEM_TYPES}) if with_items else None,
        started_at_s=value("started_at_s"),
        duration_s=value("duration_s"),
        provenance=dict(provenance),
    )
