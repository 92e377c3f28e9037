"""Read the rows of one file, one batch in memory at a time: CSV, JSON Lines, Parquet, or an Arrow stream.

Hugging Face `datasets` saves a data set as Arrow streams.
"""

from __future__ import annotations

import io
import json
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

from embedding_jobs.errors import SourceError

if TYPE_CHECKING:
    import pyarrow as pa

_CSV_BLOCK_BYTES = 8 << 20  # a row must fit into one block

Cell = str | int | float | bool | bytes | None


def stream_arrow(filesystem: Any, path: str, columns: list[str], n: int) -> Iterator[dict[str, list[Cell]]]:
    """Yield the cells of consecutive rows of a Parquet or Arrow file by column, `n` rows at a time.

    A class of a Hugging Face data set is its name, an image its bytes or its path.
    """
    first_row = 0
    for batch in _batches(filesystem, path, columns, n, _check_type):
        classes = class_names(batch.schema)
        yield {name: _values(batch.column(name), name, first_row, path, classes.get(name)) for name in columns}
        first_row += batch.num_rows


def lists_of_arrow(filesystem: Any, path: str, column: str, n: int) -> Iterator[pa.Array]:
    """Yield the lists of numbers of a column of a Parquet or Arrow file, `n` rows at a time."""
    import pyarrow as pa

    for batch in _batches(filesystem, path, [column], n, _check_lists):
        # As a variable list: a null of a fixed-size list has values, of which nothing is said.
        yield batch.column(0).cast(pa.large_list(batch.schema.field(0).type.value_type))


def arrow_schema(filesystem: Any, path: str) -> pa.Schema:
    """Return the schema of a Parquet or Arrow file."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    with filesystem.open_input_file(path) as source:
        return pa.ipc.open_stream(source).schema if path.endswith(".arrow") else pq.read_schema(source)


def arrow_rows(filesystem: Any, path: str) -> int:
    """Return the number of rows of a Parquet or Arrow file."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    with filesystem.open_input_file(path) as source:
        if not path.endswith(".arrow"):
            return int(pq.read_metadata(source).num_rows)
        return sum(batch.num_rows for batch in pa.ipc.open_stream(source))


def parts_of_arrow(filesystem: Any, path: str, column: str) -> Iterator[tuple[int, Callable[[int], Any]]]:
    """Yield, for consecutive rows of a Parquet or Arrow file, their number and what gives a cell by its place in them.

    Ask before the next ones. Of a Parquet file, only row groups are read of which a cell is asked.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    with filesystem.open_input_file(path) as source:
        if path.endswith(".arrow"):
            for batch in pa.ipc.open_stream(source):
                yield batch.num_rows, _Cells(iter([batch.select([column])]))
            return
        file = pq.ParquetFile(source)
        for group in range(file.metadata.num_row_groups):
            batches = file.iter_batches(batch_size=64, row_groups=[group], columns=[column])
            yield file.metadata.row_group(group).num_rows, _Cells(batches)


class _Cells:
    """The cells of consecutive batches of one column, asked in ascending order; one batch is in memory."""

    def __init__(self, batches: Iterator[pa.RecordBatch]) -> None:
        self._batches, self._batch, self._first = batches, None, 0

    def __call__(self, row: int) -> Any:
        while self._batch is None or row >= self._first + self._batch.num_rows:
            self._first += 0 if self._batch is None else self._batch.num_rows
            self._batch = next(self._batches)
        return plain_cell(self._batch.column(0)[row - self._first].as_py())


def class_names(schema: pa.Schema) -> dict[str, list[str]]:
    """Return the class names of each column that has some, as a Hugging Face data set holds them in its metadata."""
    stored = (schema.metadata or {}).get(b"huggingface")
    features = json.loads(stored).get("info", {}).get("features", {}) if stored else {}
    return {
        name: feature["names"]
        for name, feature in features.items()
        if isinstance(feature, dict) and feature.get("_type") == "ClassLabel" and "names" in feature
    }


def plain_cell(cell: Any) -> Any:
    """Return an image of a Hugging Face data set as its bytes or its path; any other cell as it is."""
    return (cell["bytes"] or cell["path"]) if isinstance(cell, dict) else cell


def _batches(
    filesystem: Any, path: str, columns: list[str], n: int, check: Callable[[str, pa.DataType, str], None]
) -> Iterator[pa.RecordBatch]:
    """Yield batches of at most `n` rows, once each column's type is found to be right."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    with filesystem.open_input_file(path) as source:
        opened = pa.ipc.open_stream(source) if path.endswith(".arrow") else pq.ParquetFile(source, pre_buffer=False)
        schema = opened.schema if path.endswith(".arrow") else opened.schema_arrow
        _require(columns, schema.names, path)
        for name in columns:
            check(name, schema.field(name).type, path)
        if not path.endswith(".arrow"):
            yield from opened.iter_batches(batch_size=n, columns=columns)
            return
        for batch in opened:
            for start in range(0, batch.num_rows, n):
                yield batch.slice(start, n).select(columns)


def _values(cells: pa.Array, name: str, first_row: int, path: str, classes: list[str] | None) -> list[Cell]:
    try:
        found = [plain_cell(cell) for cell in cells.to_pylist()]
        if classes is None:
            return found
        # An item without a class has the number -1.
        return [classes[cell] if cell is not None and 0 <= cell < len(classes) else None for cell in found]
    except (ValueError, OverflowError):
        for row, cell in enumerate(cells, first_row):
            try:
                cell.as_py()
            except (ValueError, OverflowError) as error:
                got = f" or numbers: {error}"
                if isinstance(error, UnicodeDecodeError):
                    got = f" in UTF-8, got {error.object[:30]!r}"
                raise SourceError(
                    f"`{name}` must hold text{got} in row {row + 1} of the data ({path}); convert the column"
                ) from error
        raise


def stream_csv(filesystem: Any, path: str, columns: list[str], n: int) -> Iterator[dict[str, list[Cell]]]:
    """Yield the cells of consecutive rows of a CSV file by column, at most `n` rows at a time; all are text."""
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


def stream_jsonl(filesystem: Any, path: str, columns: list[str], n: int) -> Iterator[dict[str, list[Cell]]]:
    """Yield the cells of consecutive rows of a JSON Lines file by column, `n` rows at a time."""
    with filesystem.open_input_stream(path, compression="detect") as source:
        values: dict[str, list[Cell]] = {name: [] for name in columns}
        for number, line in enumerate(io.TextIOWrapper(source, encoding="utf-8-sig"), start=1):
            if not line.strip():
                continue
            record = record_of(line, number, path)
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


def lists_of_jsonl(filesystem: Any, path: str, column: str, n: int) -> Iterator[pa.Array]:
    """Yield the lists of numbers of a key of a JSON Lines file, `n` rows at a time."""
    import pyarrow as pa

    with filesystem.open_input_stream(path, compression="detect") as source:
        cells: list[list[float] | None] = []
        for number, line in enumerate(io.TextIOWrapper(source, encoding="utf-8-sig"), start=1):
            if not line.strip():
                continue
            cell = record_of(line, number, path).get(column)
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


def record_of(line: str, number: int, path: str) -> dict[str, Any]:
    """Return the JSON object of a line.

    Raises:
        SourceError: The line is none.
    """
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

    is_image = pa.types.is_struct(kind) and {field.name for field in kind} == {"bytes", "path"}
    # Pickled Python objects are extension types in Parquet; reading one would run code from the file.
    if (pa.types.is_nested(kind) and not is_image) or isinstance(kind, pa.ExtensionType):
        raise SourceError(f"`{name}` must hold text, numbers or image bytes, got {kind} ({path}); convert the column")


def _check_lists(name: str, kind: pa.DataType, path: str) -> None:
    import pyarrow as pa

    lists = pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind)
    if not lists or not (pa.types.is_floating(kind.value_type) or pa.types.is_integer(kind.value_type)):
        raise SourceError(f"`{name}` must hold lists of numbers, got {kind} ({path}); convert the column")
