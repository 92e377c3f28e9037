"""Read vectors that exist already: a column of lists in the table, or a file beside it.

```
table column                 lists of one length, in Parquet or JSON Lines
.npy, .safetensors           (rows, features), in the order of the table's rows
.npz                         an array of vectors, and `ids` (rows,) if the order is another
.parquet, .jsonl, folders    a column of lists, and the table's id column if the order is another
```

One batch is in memory at a time, except where ids say another order than the table's: then the whole file is.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from embedding_jobs.errors import SourceError
from embedding_jobs.sources import tables
from embedding_jobs.sources.cells import Rows, hash_inputs

if TYPE_CHECKING:
    import pyarrow as pa
    from numpy.typing import NDArray

_BATCH_ROWS = 4096

_IDS = "ids"

_FILES = (".npy", ".npz", ".safetensors")


@dataclass(frozen=True)
class VectorColumn:
    """Vectors that exist.

    Attributes:
        name: Name of the table's column, or of the vectors in the file.
        file: Path of the file; None for a column of the table.
    """

    name: str
    file: str | None = None


@dataclass(frozen=True)
class VectorFacts:
    """What one pass over the vectors of a column found.

    Attributes:
        n_missing: Number of rows without a vector: null, or with a value that is not finite.
        digest: Hash of all vectors in the order of the table's rows.
        norms: Least, median and largest Euclidean norm.
    """

    dimension: int
    n_missing: int
    digest: str
    norms: tuple[float, float, float]


def stream_vectors(
    column: VectorColumn, table: str, id_column: str | None, ids: NDArray[np.uint64]
) -> Iterator[NDArray[np.float32]]:
    """Yield the vectors of consecutive rows of the table, shape (rows, features); NaN in rows without one.

    Args:
        column: The vectors.
        table: The table.
        id_column: The table's column of ids, if it has one.
        ids: Hash of each row's id (rows, 2), as `hash_inputs` makes it.

    Raises:
        SourceError: The file is unreadable, holds no such vectors, or other rows than the table.
    """
    place = column.file or table
    with _reading(place):
        order, blocks = _order_and_blocks(column, table, id_column, ids)
        n_rows, n_before, width = 0, 0, None
        held: list[NDArray[np.float32]] = []
        for block in blocks:
            found = _as_floats(block, place)
            if found.shape[1] == 0:  # no row of it has a vector
                if width is None:
                    n_before += len(found)
                    continue
                found = np.full((len(found), width), np.nan, dtype=np.float32)
            if width is None:
                width = found.shape[1]
                found = np.concatenate([np.full((n_before, width), np.nan, dtype=np.float32), found])
            if found.shape[1] != width:
                raise SourceError(
                    f"the vectors of `{column.name}` must be of one length, got {width}, and {found.shape[1]} in row "
                    f"{n_rows + 1} ({place}); correct these rows"
                )
            n_rows += len(found)
            if order is None:
                yield found
            else:
                held.append(found)
        if order is None and n_rows != len(ids) and width is not None:
            raise SourceError(
                f"`{column.name}` must have a vector for each of the table's {len(ids)} rows, got {n_rows} ({place}); "
                f"{'correct the table' if column.file is None else 'give a file of the same rows, or one with ids'}"
            )
        if order is not None and width is not None:
            # A last row of NaN, for items that the file does not have.
            every = np.concatenate([*held, np.full((1, width), np.nan, dtype=np.float32)])
            held.clear()
            for start in range(0, len(order), _BATCH_ROWS):
                yield every[order[start : start + _BATCH_ROWS]]


def check_vectors(
    column: VectorColumn, table: str, id_column: str | None, ids: NDArray[np.uint64], *, allow_missing: bool
) -> tuple[VectorFacts, list[str]]:
    """Read all vectors of a column once; return what is in them, and the problems.

    Arguments and errors are those of `stream_vectors`; `allow_missing`: whether rows may have no vector.
    """
    digest, rows, norms = VectorDigest(), Rows(), []
    n_rows, width = 0, 0
    for block in stream_vectors(column, table, id_column, ids):
        digest.add(block)
        width = block.shape[1]
        with np.errstate(over="ignore"):
            own = np.sqrt(np.einsum("ij,ij->i", block, block, dtype=np.float64))
        for row in np.flatnonzero(np.isnan(own)).tolist():
            rows.add(n_rows + row)
        n_rows += len(block)
        norms.append(own[~np.isnan(own)])
    there = np.concatenate(norms) if norms else np.empty(0)
    problems = []
    if not len(there):
        problems.append(f"`{column.name}` must hold vectors, no row has one; name another column or file")
    elif rows.count and not allow_missing:
        problems.append(
            f"`{column.name}` must hold a vector of finite numbers in every row, it is missing in {rows}; remove these "
            "rows, or set on_error: skip"
        )
    quantiles = np.quantile(there, [0, 0.5, 1]).tolist() if len(there) else [0.0] * 3
    return VectorFacts(width, rows.count, digest.hexdigest(), (quantiles[0], quantiles[1], quantiles[2])), problems


def vector_length(column: VectorColumn, table: str, id_column: str | None) -> int:
    """Return the length of a column's vectors, by its first rows; 0 if there are none.

    Raises:
        SourceError: The file is unreadable, or holds no vectors.
    """
    with _reading(column.file or table):
        _, blocks = _order_and_blocks(column, table, id_column, np.empty((0, 2), dtype=np.uint64))
        return next((block.shape[1] for block in blocks), 0)


class VectorDigest:
    """Hash vectors, batch by batch; the batches' sizes do not matter."""

    def __init__(self) -> None:
        self._digest = hashlib.blake2b(digest_size=16)

    def add(self, block: NDArray[np.float32]) -> None:
        """Add the next rows (rows, features)."""
        self._digest.update(np.ascontiguousarray(block).data)

    def hexdigest(self) -> str:
        """Return the hash of all rows so far."""
        return self._digest.hexdigest()


def _order_and_blocks(
    column: VectorColumn, table: str, id_column: str | None, ids: NDArray[np.uint64]
) -> tuple[NDArray[np.int64] | None, Iterator[NDArray[Any]]]:
    """Return the file's row of each row of the table (None if they are the same), and the file's vectors in its order.

    A row of the table that the file does not have is -1.
    """
    if column.file is None:
        return None, _lists(table, column.name)
    suffix = Path(column.file).suffix.lower()
    if suffix == ".npy":
        return None, _npy(column.file)
    if suffix == ".safetensors":
        return None, _safetensors(column.file, column.name)
    if suffix == ".npz":
        arrays = _npz(column.file)
        own = arrays.pop(_IDS, None)
        array = _only(arrays, column)
        if own is not None and (own.ndim != 1 or len(own) != len(array)):
            raise SourceError(f"`ids` of {column.file} must be ({len(array)},), one of each vector, got {own.shape}")
        if own is not None and id_column is None:
            raise SourceError(
                f"{column.file} holds ids, and the table has none to join them by; name its column of ids, or leave "
                "`ids` out of the file if its order is that of the table"
            )
        order = None if own is None else _order([str(one) for one in own.tolist()], ids, column)
        return order, (array[start : start + _BATCH_ROWS] for start in range(0, len(array), _BATCH_ROWS))
    names = tables.table_columns(column.file)
    rest = [name for name in names if name != id_column]
    name = column.name if column.name in names else rest[0] if len(rest) == 1 else None
    if name is None:
        raise SourceError(
            f"{column.file} must have a column `{column.name}` of vectors, or one column besides the ids; it has "
            f"{', '.join(names)}"
        )
    order = None
    if id_column is not None and id_column in names:
        own_ids = [
            "" if cell is None else str(cell)
            for _, cells in tables.stream_rows(column.file, [id_column])
            for cell in cells[id_column]
        ]
        order = _order(own_ids, ids, column)
    return order, _lists(column.file, name)


def _order(own: list[str], ids: NDArray[np.uint64], column: VectorColumn) -> NDArray[np.int64] | None:
    place = {digest: row for row, digest in enumerate(hash_inputs(own))}
    if len(place) < len(own):
        raise SourceError(
            f"the ids of {column.file} must be unique, got {len(own) - len(place)} repeated; remove the repeated rows"
        )
    keys = np.ascontiguousarray(ids).view("V16").ravel().tolist()
    order = np.array([place.get(key, -1) for key in keys], dtype=np.int64)
    if len(order) and (order < 0).all():
        raise SourceError(
            f"the ids of {column.file} must be those of the table, none of them is: the first is {own[0]!r}"
            if own
            else f"{column.file} must hold vectors, it has no rows"
        )
    return None if len(own) == len(order) and (order == np.arange(len(order))).all() else order


def _lists(place: str, name: str) -> Iterator[NDArray[Any]]:
    first_row = 0
    for cells in tables.stream_lists(place, name, batch_rows=_BATCH_ROWS):
        yield _rectangle(cells, name, first_row, place)
        first_row += len(cells)


def _rectangle(cells: pa.Array, name: str, first_row: int, place: str) -> NDArray[Any]:
    """Return lists of one length as (rows, length), NaN where a list or a number is null."""
    import pyarrow.compute as pc

    lengths = pc.list_value_length(cells).to_numpy(zero_copy_only=False)
    there = np.isfinite(lengths.astype(np.float64))
    widths = np.unique(lengths[there])
    if len(widths) > 1:
        rows = [int(np.argmax(there)), int(np.argmax(there & (lengths != lengths[there][0])))]
        listed = ", and ".join(f"{int(lengths[row])} in row {first_row + row + 1}" for row in rows)
        raise SourceError(f"the vectors of `{name}` must be of one length, got {listed} ({place}); correct these rows")
    flat = pc.list_flatten(cells).to_numpy(zero_copy_only=False)
    width = int(widths[0]) if len(widths) else 0
    if there.all():
        return np.asarray(flat).reshape(len(cells), width)
    found = np.full((len(cells), width), np.nan, dtype=np.float32)
    found[there] = np.asarray(flat).reshape(int(there.sum()), width)
    return found


def _npy(path: str) -> Iterator[NDArray[Any]]:
    # Read, not mapped: the pages of a map count as memory of the process.
    with open(path, "rb") as file:
        major = np.lib.format.read_magic(file)[0]
        read = np.lib.format.read_array_header_1_0 if major == 1 else np.lib.format.read_array_header_2_0
        shape, is_fortran, dtype = read(file)
        if len(shape) != 2 or is_fortran or dtype.kind not in "fiu":
            raise SourceError(
                f"{path} must hold numbers of shape (rows, features), one row after the other, got {dtype} {shape}"
                f"{' by columns' if is_fortran else ''}; save it again by numpy.save(numpy.ascontiguousarray(...))"
            )
        for start in range(0, shape[0], _BATCH_ROWS):
            n_rows = min(_BATCH_ROWS, shape[0] - start)
            block = np.fromfile(file, dtype, n_rows * shape[1])
            if len(block) < n_rows * shape[1]:
                raise SourceError(f"{path} must hold {shape[0]} rows, it ends before row {start + n_rows}")
            yield block.reshape(n_rows, shape[1])


def _npz(path: str) -> dict[str, NDArray[Any]]:
    with np.load(path, allow_pickle=False) as file:
        return {name: file[name] for name in file.files}


def _only(arrays: Mapping[str, NDArray[Any]], column: VectorColumn) -> NDArray[Any]:
    found = arrays.get(column.name)
    if found is None and len(arrays) == 1:
        found = next(iter(arrays.values()))
    if found is None or found.ndim != 2:
        has = ", ".join(f"{name} {array.shape}" for name, array in arrays.items()) or "none"
        raise SourceError(
            f"{column.file} must hold one array of shape (rows, features), or one that is called `{column.name}`; it "
            f"has {has}"
        )
    return found


def _safetensors(path: str, name: str) -> Iterator[NDArray[Any]]:
    from safetensors import safe_open

    with safe_open(path, framework="numpy") as file:
        names = list(file.keys())
        if name not in names and len(names) != 1:
            raise SourceError(f"{path} must hold one tensor, or one that is called `{name}`; it has {', '.join(names)}")
        tensor = file.get_slice(name if name in names else names[0])
        shape = tensor.get_shape()
        if len(shape) != 2:
            raise SourceError(f"{path} must hold a tensor of shape (rows, features), got {tuple(shape)}")
        for start in range(0, shape[0], _BATCH_ROWS):
            yield tensor[start : min(start + _BATCH_ROWS, shape[0])]


def _as_floats(block: NDArray[Any], place: str) -> NDArray[np.float32]:
    """Return numbers as float32; a row with one that is not finite becomes NaN as a whole."""
    if block.dtype.kind not in "fiu":
        raise SourceError(f"vectors must be numbers, got {block.dtype} ({place}); convert them")
    with np.errstate(over="ignore"):
        found = block.astype(np.float32)
    bad = ~np.isfinite(found).all(axis=1)
    if bad.any():
        found[bad] = np.nan
    return found


@contextmanager
def _reading(place: str) -> Iterator[None]:
    """Turn the errors of readers into a SourceError that names the file."""
    import pyarrow as pa
    from safetensors import SafetensorError

    try:
        yield
    except SourceError:
        raise
    except (pa.ArrowException, SafetensorError, OSError, ValueError, TypeError, EOFError) as error:
        reason = "it does not exist" if isinstance(error, FileNotFoundError) else str(error)
        raise SourceError(f"the vectors in {place} must be readable: {reason}; repair or replace the file") from error
