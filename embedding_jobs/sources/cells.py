"""Check the cells of a table: ids and labels of one type, texts that are text."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from embedding_jobs.sources.tables import Cell

_N_EXAMPLES = 5  # rows named in a message; the others are only counted

_N_SHOWN = 30  # characters of a cell in a message

# Control characters that no text has: all but tabs, line ends and form feeds.
_CONTROL = re.compile("[\x00-\x08\x0e-\x1f\x7f]")

# A text with more of them is taken for binary data; one of them alone is a slip in a catalogue.
_MOST_CONTROL = 0.1

_TYPES = {bool: "true or false", int: "whole numbers", float: "numbers with a point", str: "texts"}


class Rows:
    """Count rows, and keep the first few for a message."""

    def __init__(self) -> None:
        self.count = 0
        self._examples: list[str] = []

    def add(self, row: int, name: str = "") -> None:
        """Count a row; `name` is what it holds."""
        self.count += 1
        if len(self._examples) < _N_EXAMPLES:
            self._examples.append(f"{row} ({name})" if name else str(row))

    def __str__(self) -> str:
        more = f" and {self.count - len(self._examples)} more" if self.count > len(self._examples) else ""
        return f"row{'s' if self.count > 1 else ''} {', '.join(self._examples)}{more} (the first is row 0)"


class CellRules:
    """Gather what is wrong with the cells of a table, batch by batch.

    Args:
        names: Columns that name something: ids and labels. Their values are read as text, in which 1, "1" and true of
            different types would be equal or look equal.
        label: The column of labels.
        texts: Columns of text.
    """

    def __init__(self, names: Sequence[str], label: str, texts: Sequence[str]) -> None:
        self._label = label
        self._first: dict[str, dict[type, tuple[int, Cell]]] = {name: {} for name in names}
        columns = dict.fromkeys((*names, *texts))
        self._bytes = {name: Rows() for name in columns}
        self._binary = {name: Rows() for name in columns}
        self._nan = Rows()

    def add(self, first_row: int, columns: Mapping[str, Sequence[Cell]]) -> None:
        """Look at the next rows, as the table has them."""
        for name, first in self._first.items():
            cells = columns[name]
            if set(map(type, cells)) - first.keys() - {type(None)}:
                for row, cell in enumerate(cells, first_row):
                    if not is_missing(cell):
                        first.setdefault(type(cell), (row, cell))
        for name in self._bytes:
            self._add_texts(name, first_row, columns[name])
        for row, cell in enumerate(columns[self._label], first_row):
            if isinstance(cell, str) and len(cell) == 3 and cell.lower() == "nan":
                self._nan.add(row, repr(cell))

    def problems(self) -> Iterator[str]:
        """Yield a problem for each rule that cells break."""
        for name, first in self._first.items():
            if len(first) > 1 and bytes not in first:
                listed = ", ".join(
                    f"{_TYPES.get(kind, kind.__name__)} (row {row}: {cell!r})" for kind, (row, cell) in first.items()
                )
                yield (
                    f"`{name}` must hold values of one type, got {listed}; the first is row 0; write all of them as "
                    "texts, so that equal ones are meant to be equal"
                )
        for name in self._bytes:
            if self._bytes[name].count:
                yield f"`{name}` must hold text, got bytes in {self._bytes[name]}; convert the column to text"
            if self._binary[name].count:
                yield (
                    f"`{name}` must hold text, got binary data in {self._binary[name]}; remove the control characters, "
                    "or name another column"
                )
        if self._nan.count:
            yield (
                f"`{self._label}` must not be a missing value that was written as text: {self._nan}; label these rows "
                "or remove them, or give a class of that name another one"
            )

    def _add_texts(self, name: str, first_row: int, cells: Sequence[Cell]) -> None:
        if bytes in map(type, cells):
            for row, cell in enumerate(cells, first_row):
                if isinstance(cell, bytes):
                    self._bytes[name].add(row, repr(cell[:_N_SHOWN]))
            return
        if not _CONTROL.search("".join([cell for cell in cells if isinstance(cell, str)])):
            return
        most = 0.0 if name in self._first else _MOST_CONTROL
        for row, cell in enumerate(cells, first_row):
            if isinstance(cell, str) and ("\0" in cell or len(_CONTROL.findall(cell)) > most * len(cell)):
                self._binary[name].add(row, repr(cell[:_N_SHOWN]))


def is_missing(cell: object) -> bool:
    """Return whether a cell holds nothing: null, or not a number."""
    return cell is None or cell != cell
