"""Read tables: their formats, their places, streams of their rows.

The formats are read directly, not with `pyarrow.dataset`: it holds whole row groups of a Parquet file, which can be
gigabytes of images; it rejects a CSV file with two unnamed columns; and it guesses types in JSON Lines.
"""

from __future__ import annotations

import csv
import io
import itertools
import json
import os
import posixpath
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from embedding_jobs.errors import SourceError
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
}


_CSV_BLOCK_BYTES = 8 << 20  # a row must fit into one block

_N_SAMPLED_LINES = 1000  # JSON Lines have no header: the keys of the first lines are the columns

Cell = str | int | float | bool | bytes | None


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
        if kind == "parquet":
            import pyarrow.parquet as pq

            with filesystem.open_input_file(paths[0]) as file:
                return list(pq.read_schema(file).names)
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
                    names.update(dict.fromkeys(_record(line, number, paths[0])))
            return list(names)


def count_rows(table: str) -> int:
    """Count the rows, from the footers (Parquet) or in one streaming pass.

    Raises:
        SourceError: The table is missing or unreadable.
    """
    with _reading(table):
        filesystem, paths, kind = _files(table)
        if kind == "parquet":
            import pyarrow.parquet as pq

            n_rows = 0
            for path in paths:
                with filesystem.open_input_file(path) as file:
                    n_rows += pq.read_metadata(file).num_rows
            return n_rows
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
    readers = {"parquet": _stream_parquet, "csv": _stream_csv, "jsonl": _stream_jsonl}
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
    read = _lists_of_parquet if kind == "parquet" else _lists_of_jsonl
    for path in paths:
        with _reading(path):
            yield from read(filesystem, path, column, batch_rows)


def read_cells(table: str, column: str, rows: Sequence[int]) -> Iterator[Any]:
    """Yield the cells of one column of a Parquet table at ascending row numbers; skip row groups between them."""
    import pyarrow.parquet as pq

    wanted = iter(rows)
    row = next(wanted, None)
    offset = 0
    with _reading(table):
        filesystem, paths, _ = _files(table)
        for path in paths:
            if row is None:
                return
            with filesystem.open_input_file(path) as source:
                file = pq.ParquetFile(source)
                for group in range(file.metadata.num_row_groups):
                    n_rows = file.metadata.row_group(group).num_rows
                    start, offset = offset, offset + n_rows
                    if row is None or row >= offset:
                        continue
                    for batch in file.iter_batches(batch_size=64, row_groups=[group], columns=[column]):
                        stop = start + batch.num_rows
                        while row is not None and row < stop:
                            yield batch.column(0)[row - start].as_py()
                            row = next(wanted, None)
                        start = stop


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
    except (pa.ArrowException, OSError, ValueError, csv.Error) as error:
        if isinstance(error, UnicodeDecodeError) or "invalid UTF8" in str(error):
            raise SourceError(f"{_undecodable(place)} ({place}); save the table as UTF-8") from error
        # Arrow counts the header of a CSV file as a row.
        what = re.sub(r"Row #(\d+)", lambda found: f"row {int(found[1]) - 1} of the data", str(error))
        raise SourceError(f"the table must be readable: {what} ({place}); repair or replace the file") from error


def _undecodable(table: str) -> str:
    """Say where a table of text is not UTF-8: the first line, its column in CSV, and the byte."""
    filesystem, paths, kind = _files(table)
    for path in paths if kind != "parquet" else ():
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


def _stream_parquet(filesystem: Any, path: str, columns: list[str], n: int) -> Iterator[dict[str, list[Cell]]]:
    import pyarrow.parquet as pq

    with filesystem.open_input_file(path) as source:
        file = pq.ParquetFile(source, pre_buffer=False)
        _require(columns, file.schema_arrow.names, path)
        for name in columns:
            _check_type(name, file.schema_arrow.field(name).type, path)
        first_row = 0
        for batch in file.iter_batches(batch_size=n, columns=columns):
            yield {name: _values(batch.column(name), name, first_row, path) for name in columns}
            first_row += batch.num_rows


def _values(cells: pa.Array, name: str, first_row: int, path: str) -> list[Cell]:
    try:
        return list(cells.to_pylist())
    except (ValueError, OverflowError):
        for row, cell in enumerate(cells, first_row):
            try:
                cell.as_py()
            except (ValueError, OverflowError) as error:
                found = f" or numbers: {error}"
                if isinstance(error, UnicodeDecodeError):
                    found = f" in UTF-8, got {error.object[:30]!r}"
                raise SourceError(
                    f"`{name}` must hold text{found} in row {row + 1} of the data ({path}); convert the column"
                ) from error
        raise


def _stream_csv(filesystem: Any, path: str, columns: list[str], n: int) -> Iterator[dict[str, list[Cell]]]:
    import pyarrow as pa
    from pyarrow import csv as arrow_csv

    with filesystem.open_input_stream(path, compression="detect") as source:
        # All cells are text: types guessed from the first block would turn 007 into 7, and fail on a later block.
        reader = arrow_csv.open_csv(
            source,
            read_options=arrow_csv.ReadOptions(block_size=_CSV_BLOCK_BYTES, use_threads=False),
            parse_options=arrow_csv.ParseOptions(newlines_in_values=True),
            convert_options=arrow_csv.ConvertOptions(
                column_types=dict.fromkeys(columns, pa.string()), strings_can_be_null=False
            ),
        )
        _require(columns, reader.schema.names, path)
        for block in reader:
            for start in range(0, block.num_rows, n):
                batch = block.slice(start, n)
                yield {name: batch.column(name).to_pylist() for name in columns}


def _stream_jsonl(filesystem: Any, path: str, columns: list[str], n: int) -> Iterator[dict[str, list[Cell]]]:
    with filesystem.open_input_stream(path, compression="detect") as source:
        values: dict[str, list[Cell]] = {name: [] for name in columns}
        for number, line in enumerate(io.TextIOWrapper(source, encoding="utf-8-sig"), start=1):
            if not line.strip():
                continue
            record = _record(line, number, path)
            for name in columns:
                cell = record.get(name)
                if isinstance(cell, dict | list):
                    raise SourceError(
                        f"`{name}` must hold text or numbers, got {type(cell).__name__} in line {number} ({path})"
                    )
                if isinstance(cell, str):
                    _check_unicode(cell, f"`{name}`", number, path)
                values[name].append(cell)
            if len(values[columns[0]]) == n:
                yield values
                values = {name: [] for name in columns}
        if values[columns[0]]:
            yield values


def _lists_of_parquet(filesystem: Any, path: str, column: str, n: int) -> Iterator[pa.Array]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    with filesystem.open_input_file(path) as source:
        file = pq.ParquetFile(source, pre_buffer=False)
        _require([column], file.schema_arrow.names, path)
        kind = file.schema_arrow.field(column).type
        lists = pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind)
        if not lists or not (pa.types.is_floating(kind.value_type) or pa.types.is_integer(kind.value_type)):
            raise SourceError(f"`{column}` must hold lists of numbers, got {kind} ({path}); convert the column")
        for batch in file.iter_batches(batch_size=n, columns=[column]):
            # As a variable list: a null of a fixed-size list has values, of which nothing is said.
            yield batch.column(0).cast(pa.large_list(kind.value_type))


def _lists_of_jsonl(filesystem: Any, path: str, column: str, n: int) -> Iterator[pa.Array]:
    import pyarrow as pa

    with filesystem.open_input_stream(path, compression="detect") as source:
        cells: list[list[float] | None] = []
        for number, line in enumerate(io.TextIOWrapper(source, encoding="utf-8-sig"), start=1):
            if not line.strip():
                continue
            cell = _record(line, number, path).get(column)
            if cell is not None and not (isinstance(cell, list) and all(type(one) in (int, float) for one in cell)):
                raise SourceError(
                    f"`{column}` must hold lists of numbers, got {str(cell)[:30]} in line {number} ({path}); correct "
                    "the line"
                )
            cells.append(cell)
            if len(cells) == n:
                yield pa.array(cells, pa.large_list(pa.float64()))
                cells = []
        if cells:
            yield pa.array(cells, pa.large_list(pa.float64()))


def _record(line: str, number: int, path: str) -> dict[str, Any]:
    try:
        record = json.loads(line)
    except json.JSONDecodeError as error:
        got = error.msg
    except RecursionError:
        got = "one that is nested too deeply"
    except ValueError:
        got = "a number of too many digits"
    else:
        if isinstance(record, dict):
            for key in record:
                _check_unicode(key, "a key", number, path)
            return record
        got = type(record).__name__
    raise SourceError(f"each line must be one JSON object, got {got} in line {number} ({path}); correct the line")


def _check_unicode(text: str, what: str, number: int, path: str) -> None:
    """Refuse half of a surrogate pair, which JSON can write and no encoding of text has."""
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise SourceError(
            f"{what} must hold text, got half of a character in line {number}: {text[:30]!a} ({path}); correct the line"
        ) from error


def _require(columns: Sequence[str], names: list[str], path: str) -> None:
    for name in columns:
        if (n := names.count(name)) != 1:
            raise SourceError(
                f"every file of the table must have one column `{name}`, {path} has {n} (columns: {', '.join(names)}); "
                "correct the table or the name"
            )


def _check_type(name: str, kind: pa.DataType, path: str) -> None:
    import pyarrow as pa

    # Pickled Python objects are extension types in Parquet; reading one would run code from the file.
    if pa.types.is_nested(kind) or isinstance(kind, pa.ExtensionType):
        raise SourceError(f"`{name}` must hold text, numbers or image bytes, got {kind} ({path}); convert the column")
