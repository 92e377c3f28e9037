"""Write the store's files as a whole, and read them with their checksums verified."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from embedding_jobs.errors import StoreError
from embedding_jobs.files import sha256_file, write_whole

if TYPE_CHECKING:
    import pyarrow as pa
    from numpy.typing import NDArray

AGAIN = "run `study embed` again to remake it"


@dataclass(frozen=True)
class Shard:
    """A file of a column or of the items."""

    file: str
    n_rows: int
    n_bytes: int
    sha256: str


def part_name(number: int) -> str:
    """Return the file name of a shard."""
    return f"part-{number:05d}.parquet"


def read_part(path: Path, columns: Sequence[str]) -> pa.Table:
    """Read columns of a shard through a memory map, verifying the checksums of its pages.

    Raises:
        StoreError: The file is missing or damaged, or a column is missing.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        with pq.ParquetFile(path, memory_map=True, page_checksum_verification=True) as file:
            schema = file.schema_arrow
            for name in columns:
                # An extension type may be a pickled object, and reading one would run code from the file.
                if name not in schema.names or isinstance(schema.field(name).type, pa.BaseExtensionType):
                    raise StoreError(f"the column `{name}` of {path} must exist and have a plain type; {AGAIN}")
            return file.read(columns=list(columns), use_threads=False)
    except (pa.ArrowException, OSError) as error:
        reason = "it is missing" if isinstance(error, FileNotFoundError) else str(error)
        raise StoreError(f"the shard {path} must be readable: {reason}; {AGAIN}") from error


def vectors_of(part: pa.Table, dimension: int, path: Path) -> NDArray[Any]:
    """Return a shard's `vector` column as an array (rows, dimension), without a copy."""
    import pyarrow.types as types

    column = part.column("vector")
    if not types.is_fixed_size_list(column.type) or column.type.list_size != dimension:
        raise StoreError(f"`vector` of {path} must hold vectors of length {dimension}, got {column.type}; {AGAIN}")
    array = column.combine_chunks()
    flat = array.values.to_numpy(zero_copy_only=False)
    start = array.offset * dimension
    return np.asarray(flat[start : start + len(array) * dimension]).reshape(len(array), dimension)


def parquet_bytes(table: pa.Table, *, compression: str, metadata: dict[str, str] | None = None) -> memoryview:
    """Return a table as a Parquet file with page checksums: the same bytes for the same table."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    sink = pa.BufferOutputStream()
    pq.write_table(
        table.replace_schema_metadata(metadata or {}),
        sink,
        compression=compression,
        use_dictionary=False,
        write_statistics=False,
        write_page_checksum=True,
    )
    return memoryview(sink.getvalue())


def write_stored(path: Path, content: bytes | memoryview) -> str:
    """Write a file of the store as a whole.

    Returns:
        Its SHA-256.

    Raises:
        StoreError: The disk is full or cannot be written. Nothing is left behind.
    """
    try:
        write_whole(path, content)
    except OSError as error:
        raise StoreError(
            f"{path} must be writable: {error.strerror or error}; free space or choose another store, then run again: "
            "finished files are kept"
        ) from error
    return hashlib.sha256(content).hexdigest()


def write_json(path: Path, value: Any) -> None:
    """Write JSON: the same bytes for the same value.

    Raises:
        StoreError: The disk is full or cannot be written.
    """
    write_stored(path, (json.dumps(value, indent=1, sort_keys=True, ensure_ascii=False) + "\n").encode())


def damaged(folder: Path, shards: Sequence[Shard]) -> dict[str, str]:
    """Compare files with their checksums; return the reason by file name for those that differ."""

    def reason(shard: Shard) -> str | None:
        try:
            digest = sha256_file(folder / shard.file)
        except FileNotFoundError:
            return "it is missing"
        except OSError as error:
            return f"it is unreadable: {error.strerror}"
        if digest == shard.sha256:
            return None
        return f"its sha256 is {digest[:12]}…, the manifest has {shard.sha256[:12]}…"

    with ThreadPoolExecutor(4) as pool:
        reasons: Iterator[str | None] = pool.map(reason, shards)
        return {shard.file: text for shard, text in zip(shards, reasons, strict=True) if text is not None}
