"""Read tables: their formats, their places, streams of their rows.

The formats are read directly, not with `pyarrow.dataset`: it holds whole row groups of a Parquet file, which can be
gigabytes of images; it rejects a CSV file with two unnamed columns; and it guesses types in JSON Lines.
"""

from __future__ import annotations

import csv
import io
import itertools
import os
import posixpath
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from embedding_jobs.errors import SourceError
from embedding_jobs.sources.formats import (
    Cell,
    arrow_rows,
    arrow_schema,
    lists_of_arrow,
    lists_of_jsonl,
    parts_of_arrow,
    record_of,
    stream_arrow,
    stream_csv,
    stream_jsonl,
)
from embedding_jobs.sources.places import open_place

if TYPE_CHECKING:
    import pyarrow as pa


FORMATS = {
    ".csv": "csv",
    ".csv.gz": "csv",
    ".parquet": "parquet",
    ".pq": "parquet",
    ".jsonl": "jsonl",
    ".jsonl.gz": "jsonl",
    ".ndjson": "jsonl",
    ".arrow": "arrow",
}

# The file by which Hugging Face `datasets` names the parts of a data set that it saves in folders of their own.
_DATASET_DICT = "dataset_dict.json"


_N_SAMPLED_LINES = 1000  # JSON Lines have no header: the keys of the first lines are the columns


def folder(table: str) -> str:
    """Return the folder that paths in the table are relative to: the table's folder, or the table if a directory."""
    if "://" not in table:
        path = os.path.abspath(os.path.expanduser(table))
        return path if os.path.isdir(path) else os.path.dirname(path)
    return table.rstrip("/") if _format(table) is None else posixpath.dirname(table)


def table_columns(table: str) -> list[str]:
    """Read the names of the table's columns from its header (JSON Lines: from its first 1000 lines).

    Raises:
        SourceError: The table is missing, empty, unreadable, or of no known format.
    """
    with _reading(table):
        filesystem, paths, kind = _files(table)
        if kind in ("parquet", "arrow"):
            return list(arrow_schema(filesystem, paths[0]).names)
        with filesystem.open_input_stream(paths[0], compression="detect") as text:
            lines = io.TextIOWrapper(text, encoding="utf-8-sig", newline="" if kind == "csv" else None)
            if kind == "csv":
                header = next(csv.reader(lines), [])
                if "\0" in "".join(header):
                    raise SourceError(f"the table must be text in UTF-8, got {header[0][:30]!r} in line 1 ({table})")
                return header
            names: dict[str, None] = {}
            for number, line in enumerate(itertools.islice(lines, _N_SAMPLED_LINES), start=1):
                if line.strip():
                    names.update(dict.fromkeys(record_of(line, number, paths[0])))
            return list(names)


def count_rows(table: str) -> int:
    """Count the rows, from the footers (Parquet) or in one pass.

    Raises:
        SourceError: The table is missing or unreadable.
    """
    with _reading(table):
        filesystem, paths, kind = _files(table)
        if kind in ("parquet", "arrow"):
            return sum(arrow_rows(filesystem, path) for path in paths)
        names = table_columns(table)
        first = [name for name in names if names.count(name) == 1][:1]
        return sum(len(columns[first[0]]) for _, columns in stream_rows(table, first)) if first else 0


def table_bytes(table: str) -> int:
    """Return the size of the table's files in bytes.

    Raises:
        SourceError: The table is missing or unreadable.
    """
    with _reading(table):
        filesystem, paths, _ = _files(table)
        return sum(info.size for info in filesystem.get_file_info(paths))


def stream_rows(
    table: str, columns: Sequence[str], *, batch_rows: int = 4096
) -> Iterator[tuple[int, dict[str, list[Cell]]]]:
    """Yield (number of the first row, values by column) for consecutive rows, one batch in memory at a time.

    Raises:
        SourceError: A file is unreadable, or a column is missing, ambiguous or not of plain values.
    """
    first_row = 0
    with _reading(table):
        filesystem, paths, kind = _files(table)
    readers = {"parquet": stream_arrow, "arrow": stream_arrow, "csv": stream_csv, "jsonl": stream_jsonl}
    for path in paths:
        with _reading(path):
            for values in readers[kind](filesystem, path, list(columns), batch_rows):
                yield first_row, values
                first_row += len(values[columns[0]])


def stream_lists(table: str, column: str, *, batch_rows: int = 4096) -> Iterator[pa.Array]:
    """Yield the cells of a column of lists of numbers, batch by batch, as Arrow arrays of lists.

    Raises:
        SourceError: A file is unreadable, or the column is missing or holds something else.
    """
    with _reading(table):
        filesystem, paths, kind = _files(table)
    if kind == "csv":
        raise SourceError(f"`{column}` must hold lists of numbers, which CSV has not ({table}); save it as Parquet")
    read = lists_of_jsonl if kind == "jsonl" else lists_of_arrow
    for path in paths:
        with _reading(path):
            yield from read(filesystem, path, column, batch_rows)


def read_cells(table: str, column: str, rows: Sequence[int]) -> Iterator[Any]:
    """Yield the cells of one column of a Parquet or Arrow table at ascending row numbers, reading little in between."""
    wanted = iter(rows)
    row = next(wanted, None)
    first = 0
    with _reading(table):
        filesystem, paths, _ = _files(table)
        for path in paths:
            for n_rows, cells in parts_of_arrow(filesystem, path, column):
                while row is not None and row < first + n_rows:
                    yield cells(row - first)
                    row = next(wanted, None)
                first += n_rows
                if row is None:
                    return


def _format(path: str) -> str | None:
    name = path.lower()
    return next((kind for suffix, kind in FORMATS.items() if name.endswith(suffix)), None)


def _files(table: str) -> tuple[Any, list[str], str]:
    """Return the table's file system, its files in order of their names, and their format."""
    from pyarrow import fs

    known = ", ".join(FORMATS)
    filesystem, path = open_place(table)
    info = filesystem.get_file_info(path)
    if info.type == fs.FileType.NotFound:
        raise SourceError(f"there is no table at {table}; correct the path (data.table)")
    if info.type == fs.FileType.File:
        kind = _format(path)
        if kind is None:
            raise SourceError(f"the table must be one of {known}, got {table}; convert or rename it")
        return filesystem, [path], kind
    if filesystem.get_file_info(f"{path.rstrip('/')}/{_DATASET_DICT}").is_file:
        entries = filesystem.get_file_info(fs.FileSelector(path))
        parts = ", ".join(sorted(entry.base_name for entry in entries if not entry.is_file))
        raise SourceError(
            f"a table must be one data set, {table} has {parts}; name the folder of one, or join them with a column "
            "that says train or test (data.split), and save that"
        )
    found = filesystem.get_file_info(fs.FileSelector(path, recursive=True))
    paths = sorted(entry.path for entry in found if entry.is_file and not entry.base_name.startswith((".", "_")))
    paths = [entry for entry in paths if _format(entry) is not None]
    kinds = sorted({str(_format(entry)) for entry in paths})
    if len(kinds) != 1:
        got = " and ".join(kinds) if kinds else "none"
        raise SourceError(f"a table's directory must hold files of one format ({known}), got {got} in {table}")
    return filesystem, paths, kinds[0]


@contextmanager
def _reading(place: str) -> Iterator[None]:
    """Turn the errors of readers into a SourceError that names the file."""
    import pyarrow as pa

    try:
        yield
    except SourceError:
        raise
    except Exception as error:
        if not isinstance(error, pa.ArrowException | OSError | ValueError | csv.Error):
            if "://" not in place:
                raise
            # What a storage raises that is not reached is its own.
            raise SourceError(
                f"the table must be reachable: {error} ({place}); check its address, the network and your access, or "
                "copy the table to this machine"
            ) from error
        if isinstance(error, UnicodeDecodeError) or "invalid UTF8" in str(error):
            raise SourceError(f"{_undecodable(place)} ({place}); save the table as UTF-8") from error
        # Arrow counts the header of a CSV file as a row.
        what = re.sub(r"Row #(\d+)", lambda found: f"row {int(found[1]) - 1} of the data", str(error))
        raise SourceError(f"the table must be readable: {what} ({place}); repair or replace the file") from error


def _undecodable(table: str) -> str:
    """Say where a table of text is not UTF-8: the first line, its column in CSV, and the byte."""
    filesystem, paths, kind = _files(table)
    for path in paths if kind in ("csv", "jsonl") else ():
        with filesystem.open_input_stream(path, compression="detect") as stream:
            # Bytes that are not UTF-8 become characters of this range.
            text = io.TextIOWrapper(stream, encoding="utf-8", errors="surrogateescape", newline="")
            reader = csv.reader(text)
            header = next(reader, []) if kind == "csv" else []
            for number, cells in enumerate(itertools.chain([header], reader) if kind == "csv" else ([x] for x in text)):
                # A cell may hold several lines, of which the reader names the last.
                for index, cell in enumerate(cells):
                    found = re.search("[\udc80-\udcff]", cell)
                    if found is not None:
                        start = max(0, found.start() - 15)
                        around = cell[start : found.start() + 15].encode(errors="surrogateescape")
                        column = f" of `{header[index]}`" if number and index < len(header) else ""
                        line = reader.line_num if kind == "csv" and number else number + 1
                        is_utf16 = b"\0" in around or around.startswith((b"\xff\xfe", b"\xfe\xff"))
                        looks = ", which looks like UTF-16" if is_utf16 else ""
                        return f"the table must be UTF-8, got {around!r} in line {line}{column}{looks}"
    return "the table must be UTF-8"
