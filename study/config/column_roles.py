"""Find out what the columns of a table are to a study: its ids, classes, texts, pictures, vectors and official split.

A column that the user names is taken. Another is guessed where its name or its contents leave no doubt.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import islice
from typing import Any

from analysis.format import plural
from embedding_jobs.errors import SourceError
from embedding_jobs.sources.cells import is_missing, role_of
from embedding_jobs.sources.tables import stream_rows, table_columns
from embedding_jobs.sources.vectors import VectorColumn, vector_length
from study.config.schema import Data
from study.config.table_rules import table_problems
from study.errors import SpecError

_ID = re.compile(r"_?(id|uid|uuid|guid|sku|key|idx|index)|.+[_ -](id|uid|uuid|key)|.+[a-z]I[dD]")

_LABELS = {"label", "labels", "class", "category", "intent", "target", "topic", "kind", "genre", "sentiment"}

_TEXTS = {
    "text", "texts", "title", "description", "sentence", "utterance", "question", "query", "body", "content", "review",
    "comment", "message", "headline", "abstract", "summary", "document", "tweet", "prompt",
}  # fmt: skip

_IMAGE_FILE = re.compile(r".+\.(jpe?g|png|webp|gif|bmp|tiff?)", re.IGNORECASE)

# A column of ids that is not called so is of no use as a text or a class, nor one of prose as a class.
_FEW_WORDS, _MANY_WORDS = 4, 3

_MOST_DISTINCT = 100_000  # values of a column that are kept, except of one that may hold ids

_N_SAMPLED = 1_000  # distinct values that a column's kind is judged by


@dataclass
class _Column:
    """What a pass over the table found in a column.

    Attributes:
        name: Its name.
        kind: "text", "number", "image", "vectors", or "other" for what no study can use.
        n_rows: Number of its cells; 0 where only the first were read.
        n_empty: Number of cells without a value.
        distinct: Its values in the order of the table; at most `_MOST_DISTINCT`, except of ids.
        length: Of vectors.
    """

    name: str
    kind: str = "other"
    n_rows: int = 0
    n_empty: int = 0
    distinct: dict[object, None] = field(default_factory=dict)
    length: int = 0

    def add(self, cells: Sequence[object]) -> None:
        self.n_rows += len(cells)
        self.n_empty += sum(is_missing(cell) or (isinstance(cell, str) and not cell.strip()) for cell in cells)
        if len(self.distinct) < _MOST_DISTINCT or _ID.fullmatch(self.name):
            self.distinct.update(dict.fromkeys(cell for cell in cells if not is_missing(cell)))

    @property
    def sample(self) -> list[str]:
        return [text for text in map(str, islice(self.distinct, _N_SAMPLED)) if text.strip()]

    @property
    def n_words(self) -> float:
        sample = self.sample
        return sum(len(text.split()) for text in sample) / max(1, len(sample))

    @property
    def is_id(self) -> bool:
        """Whether it is called an id, and names each row by another value."""
        return bool(_ID.fullmatch(self.name)) and not self.n_empty and 0 < self.n_rows == len(self.distinct)

    @property
    def is_split(self) -> bool:
        """Whether every cell says what its row is for, some training and some test."""
        roles = {role_of(value) for value in self.distinct} if len(self.distinct) < _N_SAMPLED else {None}
        return not self.n_empty and {"train", "test"} <= roles and None not in roles

    @property
    def repeats(self) -> bool:
        """Whether it has at least two values, each on two rows on average."""
        return self.kind in ("text", "number") and not self.n_empty and 2 <= len(self.distinct) <= self.n_rows / 2

    def __str__(self) -> str:
        if self.kind == "vectors":
            return f"`{self.name}` (vectors of {self.length:,})"
        more = "more than " if len(self.distinct) >= _MOST_DISTINCT and self.n_rows > len(self.distinct) else ""
        values = f", {more}{plural(len(self.distinct), 'value')}" if self.kind in ("text", "number") else ""
        return f"`{self.name}` ({self.kind}{values}{f', {self.n_empty:,} empty' if self.n_empty else ''})"


def data_of(table: str, given: Mapping[str, Any]) -> tuple[Data, dict[str, Any]]:
    """Return a study's data: the columns that the user names, and guesses of the others.

    Args:
        table: The table, as `data.table` names it.
        given: Values of `Data` by key; those that are empty are guessed.

    Returns:
        The data, and the inputs that are not used, by key of `Data`: those beside vectors, and pictures of some rows.

    Raises:
        SourceError: The table is not readable.
        SpecError: A named column does not exist, or a role is not clear. The message lists the columns.
    """
    named = {key: value for key, value in given.items() if value}
    present = table_columns(table)
    if problems := list(table_problems(Data(table=table, **{"label": next(iter(present), ""), **named}))):
        raise SpecError(table, problems)
    columns = _read(table, present)
    if not any(column.n_rows or column.kind in ("image", "vectors") for column in columns):
        raise SpecError(table, ["it must hold items, it has no rows"])
    found, spare = dict(named), dict[str, Any]()
    taken = {name for value in named.values() for name in ([value] if isinstance(value, str) else value)}
    free = [column for column in columns if column.name not in taken]

    def take(key: str, fits: Callable[[_Column], bool]) -> None:
        if key not in found and (one := next(filter(fits, free), None)) is not None:
            found[key] = one.name
            free.remove(one)

    take("split", lambda column: column.is_split)
    take("id", lambda column: column.is_id)
    if "label" not in found:
        try:
            label = _label(free)
            found["label"] = label.name
            free.remove(label)
        except ValueError as error:
            problems.append(str(error))
    if not named.keys() & {"text", "image", "vectors"}:
        try:
            inputs, spare = _inputs(free)
            found |= inputs
        except ValueError as error:
            problems.append(str(error))
    if problems:
        raise SpecError(table, [*problems[:-1], f"{problems[-1]}; the columns are {', '.join(map(str, columns))}"])
    return Data(table=table, **found), spare


def _read(table: str, names: Sequence[str]) -> list[_Column]:
    """Return what is in each column; values are read once, and of pictures in the table only some."""
    columns, plain, errors = [], [], []
    for name in dict.fromkeys(names):
        column = _Column(name)
        columns.append(column)
        try:
            _, first = next(stream_rows(table, [name], batch_rows=16), (0, {name: []}))
        except SourceError as error:
            errors.append(error)
            column.kind, column.length = _vectors(table, name)
            continue
        if any(isinstance(cell, bytes) for cell in first[name]):
            column.kind = "image"
        else:
            plain.append(column)
    if errors and len(errors) == len(columns) and not any(column.length for column in columns):
        raise errors[0]  # of the table, not of a column
    for _, cells in stream_rows(table, [column.name for column in plain]) if plain else ():
        for column in plain:
            column.add(cells[column.name])
    for column in plain:
        sample = column.sample
        is_image = bool(sample) and all(map(_IMAGE_FILE.fullmatch, sample))
        column.kind = "image" if is_image else "number" if sample and all(map(_is_number, sample)) else "text"
    return columns


def _vectors(table: str, name: str) -> tuple[str, int]:
    try:
        length = vector_length(VectorColumn(name), table, None)
    except SourceError:
        return "other", 0
    return ("vectors", length) if length > 1 else ("other", 0)


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


def _label(free: Sequence[_Column]) -> _Column:
    called = [column for column in free if column.name.lower() in _LABELS]
    if len(called) == 1:
        return called[0]
    fitting = [column for column in called or free if column.repeats and column.n_words <= _FEW_WORDS]
    return _only("--label", "of the classes", fitting)


def _inputs(free: Sequence[_Column]) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return the columns of inputs by key of `Data`, and those that are not used."""
    vectors = [column for column in free if column.kind == "vectors"]
    images = [column for column in free if column.kind == "image"]
    prose = [column for column in free if column.kind == "text" and not column.is_id and len(column.distinct) > 1]
    texts = [column for column in prose if column.name.lower() in _TEXTS]
    if not texts and not vectors:
        wordy = [column for column in prose if column.n_words >= _MANY_WORDS]
        texts = [_only("--text (or --image, --vectors)", "of the texts", wordy)] if wordy or not images else []
    found: dict[str, Any] = {"text": tuple(column.name for column in texts)} if texts else {}
    whole = [column for column in images if not column.n_empty]
    if images:
        found["image"] = (
            (whole or images)[0].name if vectors else _only("--image", "of the pictures", whole or images).name
        )
    if vectors:
        return {"vectors": (_only("--vectors", "of the vectors", vectors).name,)}, found
    return found, {"image": found.pop("image")} if texts and images and not whole else {}


def _only(option: str, role: str, fitting: Sequence[_Column]) -> _Column:
    if len(fitting) == 1:
        return fitting[0]
    if fitting:
        listed = ", ".join(f"`{column.name}`" for column in fitting)
        raise ValueError(f"{option} must name the column {role}, which may be {listed}; name the right one")
    raise ValueError(f"{option} must name the column {role}, and none is clearly it; name it")
