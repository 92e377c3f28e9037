"""Check the cells of a table: ids, labels and groups of one type, texts that are text, roles that are known."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from embedding_jobs.sources.formats import Cell

_N_EXAMPLES = 5  # rows named in a message; the others are only counted

_N_SHOWN = 30  # characters of a cell in a message

# Control characters that no text has: all but tabs, line ends and form feeds.
_CONTROL = re.compile("[\x00-\x08\x0e-\x1f\x7f]")

# A text with more of them is taken for binary data; one of them alone is a slip in a catalogue.
_MOST_CONTROL = 0.1

# What an item is for, and how tables spell it. "eval" is left out: it means validation in some tables, test in others.
_ROLES = {
    "train": ("train", "training", "tr"),
    "validation": ("validation", "valid", "val", "dev"),
    "test": ("test", "testing"),
}

_ROLE_OF = {spelling: role for role, spellings in _ROLES.items() for spelling in spellings}

_TYPES = {bool: "true or false", int: "whole numbers", float: "numbers with a point", str: "texts"}


class Rows:
    """Count rows, and keep the first few for a message, in which the first row of data is row 1."""

    def __init__(self) -> None:
        self.count = 0
        self._examples: list[str] = []

    def add(self, row: int, name: str = "") -> None:
        """Count a row, given its number from 0; `name` is what it holds."""
        self.count += 1
        if len(self._examples) < _N_EXAMPLES:
            self._examples.append(f"{row + 1} ({name})" if name else str(row + 1))

    def __str__(self) -> str:
        more = f" and {self.count - len(self._examples)} more" if self.count > len(self._examples) else ""
        return f"row{'s' if self.count > 1 else ''} {', '.join(self._examples)}{more}"


class CellRules:
    """Gather what is wrong with the cells of a table, batch by batch.

    Args:
        ids: The column of ids, if there is one.
        classes: Columns whose equal values belong together: labels and groups. These and ids are read as text, in which
            1, "1" and true of different types would be equal or look equal.
        texts: Columns of text.
        roles: The column of roles, if there is one.
    """

    def __init__(self, ids: str | None, classes: Sequence[str], texts: Sequence[str], roles: str | None = None) -> None:
        self._first: dict[str, dict[type, tuple[int, Cell]]] = {
            name: {} for name in (ids, *classes) if name is not None
        }
        self._roles = roles
        columns = dict.fromkeys((*self._first, *texts))
        self._bytes = {name: Rows() for name in columns}
        self._binary = {name: Rows() for name in columns}
        self._nan = {name: Rows() for name in classes}
        self._no_role = Rows()

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
        for name, rows in self._nan.items():
            for row, cell in enumerate(columns[name], first_row):
                if isinstance(cell, str) and len(cell) == 3 and cell.lower() == "nan":
                    rows.add(row, repr(cell))
        for row, cell in enumerate(columns[self._roles] if self._roles is not None else (), first_row):
            if role_of(cell) is None:
                self._no_role.add(row, repr(cell[:_N_SHOWN] if isinstance(cell, str | bytes) else cell))

    def problems(self) -> Iterator[str]:
        """Yield a problem for each rule that cells break."""
        for name, first in self._first.items():
            if len(first) > 1 and bytes not in first:
                listed = ", ".join(
                    f"{_TYPES.get(kind, kind.__name__)} (row {row + 1}: {cell!r})"
                    for kind, (row, cell) in first.items()
                )
                yield (
                    f"`{name}` must hold values of one type, got {listed}; write all of them as "
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
        for name, rows in self._nan.items():
            if rows.count:
                yield (
                    f"`{name}` must not be a missing value that was written as text: {rows}; fill these cells or "
                    "remove the rows, or give a class or group of that name another one"
                )
        if self._no_role.count:
            allowed = ", ".join(f"{role} (or {', '.join(others)})" for role, (_, *others) in _ROLES.items())
            yield f"`{self._roles}` must say {allowed}, got {self._no_role}; correct these cells or remove the rows"

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


def role_of(cell: object) -> str | None:
    """Return what an item is for, "train", "validation" or "test", in whatever spelling; None if it is none of them."""
    return _ROLE_OF.get(cell.strip().lower()) if isinstance(cell, str) else None


def hash_inputs(values: Sequence[str], sizes: Sequence[int] | None = None) -> list[bytes]:
    """Hash each input to 16 bytes.

    Args:
        values: Texts, or names of images.
        sizes: Size of each image in bytes: a file that was replaced under the same name is another input.
    """
    if sizes is None:
        encoded = [value.encode() for value in values]
    else:
        encoded = [f"{value}\0{size}".encode() for value, size in zip(values, sizes, strict=True)]
    return [hashlib.blake2b(value, digest_size=16).digest() for value in encoded]


def is_missing(cell: object) -> bool:
    """Return whether a cell holds nothing: null, or not a number."""
    return cell is None or cell != cell
