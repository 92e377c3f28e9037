"""Read a labelled table (CSV, Parquet or JSON Lines; local or remote) as a stream of items.

At most one batch of rows is in memory. One pass before any computation gathers what later steps need to know about the
whole table (for example, whether every id is unique), and reports all problems in one error.
"""

from __future__ import annotations

import hashlib
import posixpath
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

from embedding_jobs.errors import SourceError
from embedding_jobs.sources import tables
from embedding_jobs.sources.cells import CellRules, Rows, is_missing

if TYPE_CHECKING:
    from numpy.typing import NDArray


_N_EXAMPLES = 5  # ids named in a message; the others are only counted

_RESERVED = ("id", "label")


@dataclass(frozen=True)
class Source:
    """A table, and the roles of its columns.

    Attributes:
        table: Path or URL of a CSV, Parquet or JSON Lines file, or of a directory of such files.
        id: Column that names each item. Ids are read as text.
        label: Column of the class. Labels are read as text.
        text: Columns of text; a null is read as "".
        image: Column of image paths relative to the table's folder, or of encoded image bytes (Parquet).
    """

    table: str
    id: str
    label: str
    text: tuple[str, ...] = ()
    image: str | None = None

    @property
    def inputs(self) -> tuple[str, ...]:
        """Return the columns that encoders can read, text first."""
        return (*self.text, *([] if self.image is None else [self.image]))

    def modality(self, column: str) -> str:
        """Return "text" or "image"."""
        return "image" if column == self.image else "text"


@dataclass(frozen=True)
class ItemBatch:
    """Consecutive items by column, as the store keeps them.

    Attributes:
        first_row: Row number of the first item, from 0.
        ids: Ids; None where the cell is empty.
        labels: Labels; None where the cell is empty.
        inputs: Values by input column. An image is its path, or "blake2b:<hex>" of its bytes; "" if null.
        sizes: Size in bytes of each image by image column; -1 where the file is missing, 0 where null.
    """

    first_row: int
    ids: list[str | None]
    labels: list[str | None]
    inputs: dict[str, list[str]]
    sizes: dict[str, list[int]] = field(default_factory=dict)


@dataclass(frozen=True)
class SourceFacts:
    """What one pass over a valid source found.

    Attributes:
        ids_digest: Hash of all ids in order.
        labels_digest: Hash of all labels in order.
        input_digests: Hash of all values in order by input column (of an image: its path and size, or its bytes).
        n_empty_texts: Number of items without text by text column.
        images_are_bytes: Whether the image column holds the images themselves.
    """

    n_items: int
    n_classes: int
    ids_digest: str
    labels_digest: str
    input_digests: dict[str, str]
    n_empty_texts: dict[str, int]
    images_are_bytes: bool


def size_column(image: str) -> str:
    """Return the name of the store's column with the size of each image in bytes."""
    return f"{image}.n_bytes"


def image_location(source: Source, path: str) -> str:
    """Return where an image lies: `path` itself if it is absolute or a URL, else relative to the table's folder."""
    if "://" in path:
        return path
    return posixpath.join(tables.folder(source.table), path)


def iter_items(source: Source, *, batch_rows: int = 4096, rules: CellRules | None = None) -> Iterator[ItemBatch]:
    """Stream the source's items in order; `rules` looks at the cells as the table has them.

    Raises:
        SourceError: The table cannot be read, or a column is missing.
    """
    needed = list(dict.fromkeys([source.id, source.label, *source.inputs]))
    for first_row, columns in tables.stream_rows(source.table, needed, batch_rows=batch_rows):
        if rules is not None:
            rules.add(first_row, columns)
        inputs: dict[str, list[str]] = {}
        sizes: dict[str, list[int]] = {}
        for name in source.text:
            inputs[name] = [_text(value) or "" for value in columns[name]]
        if source.image is not None:
            values = columns[source.image]
            if any(isinstance(value, bytes) for value in values):
                inputs[source.image] = [_bytes_name(value) for value in values]
                sizes[source.image] = [len(value) if isinstance(value, bytes) else 0 for value in values]
            else:
                paths = [_text(value) or "" for value in values]
                inputs[source.image] = paths
                sizes[source.image] = _file_sizes(source, paths)
        yield ItemBatch(
            first_row=first_row,
            ids=[_name(value) for value in columns[source.id]],
            labels=[_name(value) for value in columns[source.label]],
            inputs=inputs,
            sizes=sizes,
        )


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


class SourceDigests:
    """The digests of a source's items, taken batch by batch.

    Attributes:
        ids: Two 64-bit hashes of each id, shape (items, 2), batch by batch.
    """

    def __init__(self, source: Source) -> None:
        self._inputs = source.inputs
        names = (*_RESERVED, *(f"={column}" for column in source.inputs))
        self._digests = {name: hashlib.blake2b(digest_size=16) for name in names}
        self.ids: list[NDArray[np.uint64]] = []

    def add(self, batch: ItemBatch) -> None:
        """Add the next items."""
        ids = b"".join(hash_inputs([value or "" for value in batch.ids]))
        self.ids.append(np.frombuffer(ids, dtype=np.uint64).reshape(-1, 2))
        self._digests["id"].update(ids)
        self._digests["label"].update(b"".join(hash_inputs([value or "" for value in batch.labels])))
        for name in self._inputs:
            self._digests[f"={name}"].update(b"".join(hash_inputs(batch.inputs[name], batch.sizes.get(name))))

    def as_facts(self) -> tuple[str, str, dict[str, str]]:
        """Return the digests of ids, labels and inputs, as `SourceFacts` has them."""
        digests = {name: digest.hexdigest() for name, digest in self._digests.items()}
        return digests["id"], digests["label"], {name: digests[f"={name}"] for name in self._inputs}


def check_source(source: Source, *, allow_missing_images: bool = False) -> SourceFacts:
    """Read the whole source once, and return what is in it or raise all its problems.

    Args:
        source: The table and its columns.
        allow_missing_images: Whether items may have no image.

    Raises:
        SourceError: Columns are missing; ids are null or repeated; labels are null; there are fewer than two classes;
            images are missing. The message lists all problems.
    """
    _check_columns(source)
    rules = CellRules((source.id, source.label), source.label, source.text)
    null_ids, null_labels, lost_images = Rows(), Rows(), Rows()
    labels: set[str] = set()
    digests = SourceDigests(source)
    n_empty = dict.fromkeys(source.text, 0)
    are_bytes = False
    n_items = 0
    for batch in iter_items(source, rules=rules):
        n_items += len(batch.ids)
        digests.add(batch)
        for rows, names in ((null_ids, batch.ids), (null_labels, batch.labels)):
            for row in [row for row, value in enumerate(names, batch.first_row) if value is None]:
                rows.add(row)
        labels.update(value for value in batch.labels if value is not None)
        for name in source.inputs:
            sizes = batch.sizes.get(name)
            if sizes is None:
                n_empty[name] += batch.inputs[name].count("")
            else:
                for row, (size, image) in enumerate(zip(sizes, batch.inputs[name], strict=True), batch.first_row):
                    if size <= 0:
                        lost_images.add(row, image or "null")
                are_bytes = are_bytes or any(value.startswith("blake2b:") for value in batch.inputs[name])

    problems = list(rules.problems())
    if n_items == 0:
        problems.append("the table must hold items, got 0 rows")
    if null_ids.count:
        problems.append(f"`{source.id}` must not be null, NaN or empty: {null_ids}; give every row an id")
    repeated = _repeated_ids(source, digests.ids, skip=null_ids.count > 0)
    if repeated:
        problems.append(f"`{source.id}` must be unique: {repeated}; remove the repeated rows")
    if null_labels.count:
        problems.append(
            f"`{source.label}` must not be null, NaN or empty: {null_labels}; label these rows or remove them"
        )
    if n_items and len(labels) < 2:
        problems.append(f"`{source.label}` must hold at least 2 classes, got {len(labels)}: {sorted(labels)}")
    for name in source.text:
        if n_items and n_empty[name] == n_items:
            problems.append(f"`{name}` must hold texts, all are empty; choose another column")
    if lost_images.count and not allow_missing_images:
        problems.append(
            f"`{source.image}` must name an image that exists: {lost_images}; "
            "add the files, remove these rows, or set on_error: skip"
        )
    if problems:
        raise SourceError(_message(source.table, problems))
    ids_digest, labels_digest, input_digests = digests.as_facts()
    return SourceFacts(
        n_items=n_items,
        n_classes=len(labels),
        ids_digest=ids_digest,
        labels_digest=labels_digest,
        input_digests=input_digests,
        n_empty_texts=n_empty,
        images_are_bytes=are_bytes,
    )


def read_image_bytes(source: Source, rows: Sequence[int]) -> Iterator[bytes | None]:
    """Yield the images at `rows` (ascending) of a column of image bytes."""
    assert source.image is not None
    return tables.read_cells(source.table, source.image, rows)


def _check_columns(source: Source) -> None:
    names = tables.table_columns(source.table)
    problems = []
    for role, name in (("id", source.id), ("label", source.label), *(("text", t) for t in source.text)):
        if name not in names:
            problems.append(f"{role} column `{name}` is missing")
    if source.image is not None and source.image not in names:
        problems.append(f"image column `{source.image}` is missing")
    if problems:
        problems.append(f"the table has {', '.join(f'`{name}`' for name in names)}")
    for name in source.inputs:
        # The store has columns of these names.
        if name in _RESERVED and name != getattr(source, name):
            problems.append(f"input column `{name}` must not be called `id` or `label`: rename it")
    if len(set(source.inputs)) < len(source.inputs):
        problems.append(f"input columns must differ, got {', '.join(source.inputs)}")
    if problems:
        raise SourceError(_message(source.table, problems))


def _message(table: str, problems: list[str]) -> str:
    if len(problems) == 1:
        return f"{problems[0]} ({table})"
    return f"{table} has {len(problems)} problems:\n" + "\n".join(f"  - {problem}" for problem in problems)


def _repeated_ids(source: Source, hashes: list[NDArray[np.uint64]], *, skip: bool) -> str:
    """Describe ids that occur more than once ("" if none). `skip` if ids are null, which would all be listed."""
    if skip or not hashes:
        return ""
    table = np.concatenate(hashes)
    order = np.lexsort((table[:, 1], table[:, 0]))
    same = np.all(table[order[1:]] == table[order[:-1]], axis=1)
    if not same.any():
        return ""
    pairs = [(int(order[i]), int(order[i + 1])) for i in np.flatnonzero(same)[:_N_EXAMPLES]]
    wanted = {row for pair in pairs for row in pair}
    names: dict[int, str] = {}
    for batch in iter_items(Source(source.table, source.id, source.label)):
        for row in wanted & set(range(batch.first_row, batch.first_row + len(batch.ids))):
            names[row] = str(batch.ids[row - batch.first_row])
    listed = ", ".join(f"{names[a]!r} in rows {a} and {b}" for a, b in sorted(pairs))
    n_more = int(same.sum()) - len(pairs)
    return listed + (f" and {n_more} more" if n_more > 0 else "") + " (the first is row 0)"


def _text(value: object) -> str | None:
    if is_missing(value):
        return None
    return value if isinstance(value, str) else str(value)


def _name(value: object) -> str | None:
    """Return an id or a label; None where the cell is null, not a number, or blank."""
    text = _text(value)
    return text if text is not None and text.strip() else None


def _bytes_name(value: object) -> str:
    if not value:
        return ""
    assert isinstance(value, bytes)
    return "blake2b:" + hashlib.blake2b(value, digest_size=16).hexdigest()


def _file_sizes(source: Source, paths: list[str]) -> list[int]:
    sizes = tables.file_sizes([image_location(source, path) for path in paths if path])
    following = iter(sizes)
    return [next(following) if path else 0 for path in paths]
