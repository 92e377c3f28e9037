"""Read and write record files: one Parquet file per pack, one row per trial.

A file is written aside, flushed and renamed: a record file that exists is complete. It holds the SHA-256 of the rest of
the file, which every reader verifies first, so that a changed bit anywhere is an error and never another result. Any
Parquet reader can open it, and nothing in it is executable.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from embedding_jobs.files import write_whole
from trainables.records.types import (
    LAYER_SCORES,
    LOGIT_SCORES,
    Candidate,
    Curves,
    DamagedRecordError,
    ItemResults,
    RecordError,
    SplitId,
    TrialConfig,
    TrialRecord,
)

# Version of the record file's schema; a file of another version is refused.
_FORMAT = 6

_METADATA_KEY = b"embedding_ablation_study"

# What precedes the digest, which is written as 64 hexadecimal digits; the text occurs once in a file.
_DIGEST_MARK, _N_DIGEST = b"sha256 of all other bytes: ", 64

# What the name of a damaged file gets behind it, which makes it no record file.
_DAMAGED = ".damaged"

_CKA = "epoch_cka"

_CURVES = tuple(field.name for field in fields(Curves) if field.name != _CKA)


_ITEM_TYPES = {
    "item": pa.int32(),
    "label": pa.int32(),
    "known": pa.bool_(),
    "predicted": pa.int32(),
    "logit": pa.float32(),
    "correct": pa.bool_(),
    "auc_influence": pa.float32(),
    "nll": pa.float32(),
    **{name: pa.int32() for name in (*LOGIT_SCORES, *LAYER_SCORES)},
}

# Items are sorted: their differences are small. Of other numbers, the first bytes are nearly all the same.
_ENCODINGS = {
    f"item_{name}.list.element": "DELTA_BINARY_PACKED" if name == "item" else "BYTE_STREAM_SPLIT"
    for name, kind in _ITEM_TYPES.items()
    if kind != pa.bool_()
}


_SCHEMA = pa.schema(
    [
        ("phase", pa.string()),
        ("method", pa.string()),
        ("params", pa.map_(pa.string(), pa.float64())),
        ("split", pa.int64()),
        ("inner", pa.int64()),
        ("metrics", pa.map_(pa.string(), pa.float64())),
        ("started_at_s", pa.float64()),
        ("duration_s", pa.float64()),
        *((name, pa.list_(pa.float32())) for name in _CURVES),
        *((f"item_{name}", pa.list_(kind)) for name, kind in _ITEM_TYPES.items()),
        (_CKA, pa.list_(pa.list_(pa.float32()))),
    ]
)


# The columns of a trial's coordinates.
_COORDINATES = ("phase", "method", "params", "split", "inner")


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
    rows = [_row(record) for record in records]
    metadata = {"format": _FORMAT, "provenance": dict(records[0].provenance)}
    table = pa.Table.from_pylist(rows, schema=_SCHEMA.with_metadata({_METADATA_KEY: json.dumps(metadata).encode()}))
    file = pa.BufferOutputStream()
    # The checksums of pages are for other readers of Parquet: the digest covers the pages too.
    with pq.ParquetWriter(
        file,
        table.schema,
        compression="zstd",
        use_dictionary=False,
        column_encoding=_ENCODINGS,
        write_page_checksum=True,
    ) as writer:
        writer.write_table(table)
        writer.add_key_value_metadata({f"{_METADATA_KEY.decode()}.digest": _DIGEST_MARK + b"0" * _N_DIGEST})
    content = bytearray(file.getvalue())
    begin, digest = _digest(content)
    content[begin : begin + _N_DIGEST] = digest
    return write_whole(directory / record_name([record.config for record in records]), bytes(content))


def read_records(directory: Path, *, with_items: bool = False) -> list[TrialRecord]:
    """Read every record of a study, sorted by coordinates.

    Args:
        directory: Folder of the study's records; a missing folder has none.
        with_items: Whether to read the per-item results too, which are most of the bytes.

    Raises:
        RecordError: A file is damaged, of another version, or a trial is in two files.
    """
    return own_records(directory, lambda provenance: None, with_items=with_items)[0]


def own_records(
    directory: Path, mismatch: Callable[[Mapping[str, str]], str | None], *, with_items: bool = False
) -> tuple[list[TrialRecord], dict[Path, str]]:
    """Read every record of a study, sorted by coordinates, beside which there may be files of other studies.

    Args:
        directory: Folder of the study's records; a missing folder has none.
        mismatch: Returns why records of some provenance are not of the study; None where they are.
        with_items: Whether to read the per-item results too, which are most of the bytes.

    Returns:
        The records, and the files that are left out with the reason of each.

    Raises:
        RecordError: A file is damaged, of another version, or a trial is in two files of the study.
    """
    found: dict[TrialConfig, tuple[TrialRecord, Path]] = {}
    foreign: dict[Path, str] = {}
    for path in record_files(directory):
        records = read_record_file(path, with_items=with_items)
        if records and (why := mismatch(records[0].provenance)):
            foreign[path] = why
            continue
        for record in records:
            if record.config in found:
                raise RecordError(
                    f"{record.config} is recorded twice: in {found[record.config][1]} and in {path}. "
                    "Remove one of the two files."
                )
            found[record.config] = (record, path)
    return [found[config][0] for config in sorted(found)], foreign


@dataclass(frozen=True)
class RecordedPack:
    """What a record file is about, without the results in it.

    Attributes:
        path: The file.
        provenance: Digests of settings and embeddings, versions, hardware and commit that made it.
        durations_s: Device seconds of each of its trials.
        metrics: Metrics of each of its trials, by name.
    """

    path: Path
    provenance: Mapping[str, str]
    durations_s: Mapping[TrialConfig, float]
    metrics: Mapping[TrialConfig, Mapping[str, float]]


def read_packs(directory: Path, *, damaged_too: bool = True) -> list[RecordedPack]:
    """Read what each record file is about, sorted by file name; much faster than reading the records.

    Args:
        directory: Folder of the study's records; a missing folder has none.
        damaged_too: Whether a damaged file is an error; else it is left out.

    Raises:
        RecordError: A file is damaged or of another version.
    """
    packs = []
    for path in record_files(directory):
        try:
            rows, provenance = _read(path, [*_COORDINATES, "duration_s", "metrics"])
        except DamagedRecordError:
            if damaged_too:
                raise
            continue
        of_trial = {_config(row): row for row in rows.to_pylist()}
        durations = {trial: row["duration_s"] for trial, row in of_trial.items()}
        metrics = {trial: dict(row["metrics"]) for trial, row in of_trial.items()}
        packs.append(RecordedPack(path, provenance, durations, metrics))
    return packs


def set_aside_damaged(directory: Path) -> list[str]:
    """Rename the damaged record files of a folder, so that their trials are missing; nothing is deleted.

    Returns:
        What happened to each file and why, in one sentence.
    """
    done = []
    for path in record_files(directory):
        try:
            _verified(path)
        except DamagedRecordError as error:
            aside, n = path.with_name(path.name + _DAMAGED), 1
            while aside.exists():
                n += 1
                aside = path.with_name(f"{path.name}{_DAMAGED}-{n}")
            path.rename(aside)
            done.append(f"{error.problem}. It is set aside as {aside.name}, and its trials are trained again.")
    return done


def record_files(directory: Path) -> list[Path]:
    """Return the complete record files of a folder, sorted by name."""
    return sorted(path for path in directory.glob("*.parquet") if not path.name.startswith("."))


def read_record_file(path: Path, *, with_items: bool = False) -> list[TrialRecord]:
    """Read the records of one pack.

    Raises:
        RecordError: The file is damaged or of another version.
    """
    rows, provenance = _read(path, [name for name in _SCHEMA.names if with_items or not name.startswith("item_")])
    return [_record(rows, index, provenance, with_items) for index in range(rows.num_rows)]


def _read(path: Path, columns: Sequence[str]) -> tuple[pa.Table, Mapping[str, str]]:
    """Return some columns of a record file, and the provenance of its trials."""
    content = _verified(path)
    try:
        with pq.ParquetFile(pa.BufferReader(content)) as file:
            schema = file.schema_arrow
            metadata = json.loads((schema.metadata or {}).get(_METADATA_KEY, b"{}"))
            # A column of another type may be a pickled object, which would run its maker's code when read.
            if metadata.get("format") != _FORMAT or not schema.equals(_SCHEMA):
                raise RecordError(
                    f"{path} is not a record file of format {_FORMAT} (found {metadata.get('format')}). "
                    "Remove it and run the study again, or use the version that wrote it."
                )
            return file.read(columns=list(columns)), metadata["provenance"]
    except (pa.ArrowException, OSError, ValueError, KeyError, AttributeError, RecursionError) as error:
        raise RecordError(f"{path} cannot be read: {error}. Remove it and run the study again.") from error


def _verified(path: Path) -> bytes:
    """Return the content of a record file, which is as it was written.

    Raises:
        DamagedRecordError: It is not.
        RecordError: The file cannot be read.
    """
    try:
        content = path.read_bytes()
    except OSError as error:
        raise RecordError(f"{path} cannot be read: {error}. Make it readable, or remove it.") from error
    begin, digest = _digest(content)
    if begin < 0:
        raise DamagedRecordError(f"{path} is damaged, or no record file: it has no digest")
    if content[begin : begin + _N_DIGEST] != digest:
        raise DamagedRecordError(f"{path} is damaged: its content does not have the digest that was written with it")
    return content


def _digest(content: bytes | bytearray) -> tuple[int, bytes]:
    """Return where the digest of a file begins, or -1 where there is none, and what it must be."""
    mark = content.rfind(_DIGEST_MARK)
    if mark < 0:
        return -1, b""
    begin, view = mark + len(_DIGEST_MARK), memoryview(content)
    found = hashlib.sha256(view[:begin])
    found.update(view[begin + _N_DIGEST :])
    return begin, found.hexdigest().encode()


def _row(record: TrialRecord) -> dict[str, Any]:
    if record.items is None:
        raise ValueError(f"{record.config} has no per-item results; a record is written whole.")
    return {
        "phase": record.config.phase,
        "method": record.config.candidate.method,
        "params": list(record.config.candidate.params),
        "split": record.config.split.seed,
        "inner": record.config.split.inner,
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
        config=_config({name: value(name) for name in _COORDINATES}),
        metrics=dict(value("metrics")),
        curves=Curves(**{name: array(name) for name in _CURVES}, **compared),
        items=ItemResults(**{name: array(f"item_{name}") for name in _ITEM_TYPES}) if with_items else None,
        started_at_s=value("started_at_s"),
        duration_s=value("duration_s"),
        provenance=dict(provenance),
    )


def _config(row: Mapping[str, Any]) -> TrialConfig:
    candidate = Candidate.of(row["method"], dict(row["params"]))
    return TrialConfig(row["phase"], candidate, SplitId(row["split"], row["inner"]))
