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
from embedding_jobs.sources.cells import CellRules, Rows, hash_inputs, is_missing, role_of
from embedding_jobs.sources.metadata import MetadataCounts
from embedding_jobs.sources.places import file_sizes
from embedding_jobs.sources.vectors import VectorColumn, VectorFacts, check_vectors

if TYPE_CHECKING:
    from numpy.typing import NDArray


_N_EXAMPLES = 5  # ids named in a message; the others are only counted


@dataclass(frozen=True)
class Source:
    """A table, and the roles of its columns.

    Attributes:
        table: Path or URL of a CSV, Parquet or JSON Lines file, or of a directory of such files.
        id: Column that names each item. Ids are read as text. None: an item's id is the number of its row, from 1.
        label: Column of the class. Labels are read as text. None: a table without labels.
        text: Columns of text; a null is read as "".
        image: Column of image paths relative to the table's folder, or of encoded image bytes (Parquet).
        group: Column of what no split may divide, such as a customer. Groups are read as text; an input may serve.
        split: Column that says of each item whether it is for training, validation or test.
        vectors: Vectors that exist, in columns of lists or in files.
    """

    table: str
    id: str | None
    label: str | None
    text: tuple[str, ...] = ()
    image: str | None = None
    group: str | None = None
    split: str | None = None
    vectors: tuple[VectorColumn, ...] = ()

    @property
    def metadata(self) -> dict[str, str]:
        """Return the columns besides ids and inputs, by what they are: label, group and split, if there are any."""
        named = {"label": self.label, "group": self.group, "split": self.split}
        return {key: column for key, column in named.items() if column is not None}

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
        metadata: Values by key of `Source.metadata`; None where the cell is empty. A split is "train", "validation" or
            "test"; None where it is none of them.
        inputs: Values by input column. An image is its path, or "blake2b:<hex>" of its bytes; "" if null.
        sizes: Size in bytes of each image by image column; -1 where the file is missing, 0 where null.
    """

    first_row: int
    ids: list[str | None]
    metadata: dict[str, list[str | None]]
    inputs: dict[str, list[str]]
    sizes: dict[str, list[int]] = field(default_factory=dict)


@dataclass(frozen=True)
class SourceFacts:
    """What one pass over a valid source found.

    Attributes:
        n_groups: Number of groups; 0 without a column of groups, as `n_largest_group`.
        n_largest_group: Number of items of the largest group.
        n_by_role: Number of items for "train", "validation" and "test"; empty without a column that says so.
        ids_digest: Hash of all ids in order.
        metadata_digests: Hash of all values in order by key of `Source.metadata`.
        input_digests: Hash of all values in order by input column (of an image: its path and size, or its bytes).
        n_empty_texts: Number of items without text by text column.
        images_are_bytes: Whether the image column holds the images themselves.
        vectors: What is in the vectors that exist, by name.
    """

    n_items: int
    n_classes: int
    n_groups: int
    n_largest_group: int
    n_by_role: dict[str, int]
    ids_digest: str
    metadata_digests: dict[str, str]
    input_digests: dict[str, str]
    n_empty_texts: dict[str, int]
    images_are_bytes: bool
    vectors: dict[str, VectorFacts] = field(default_factory=dict)

    def digest_of(self, column: str) -> str | None:
        """Return the hash of all values of an input column or of vectors; None if the source has no such column."""
        vectors = self.vectors.get(column)
        return self.input_digests.get(column) if vectors is None else vectors.digest


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
    named = (source.id, *source.metadata.values(), *source.inputs)
    needed = [name for name in dict.fromkeys(named) if name is not None]
    if not needed:  # nothing of the table is used but the number of its rows
        n_rows = tables.count_rows(source.table)
        for first_row in range(0, n_rows, batch_rows):
            yield ItemBatch(first_row, _numbers(first_row, min(batch_rows, n_rows - first_row)), {}, {})
        return
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
            ids=_numbers(first_row, len(columns[needed[0]]))
            if source.id is None
            else [_name(value) for value in columns[source.id]],
            metadata={
                key: list(map(role_of if key == "split" else _name, columns[name]))
                for key, name in source.metadata.items()
            },
            inputs=inputs,
            sizes=sizes,
        )


class SourceDigests:
    """The digests of a source's items, taken batch by batch.

    Attributes:
        ids: Two 64-bit hashes of each id, shape (items, 2), batch by batch.
    """

    def __init__(self, source: Source) -> None:
        self._metadata, self._inputs = tuple(source.metadata), source.inputs
        names = ("id", *self._metadata, *(f"={column}" for column in source.inputs))
        self._digests = {name: hashlib.blake2b(digest_size=16) for name in names}
        self.ids: list[NDArray[np.uint64]] = []

    def add(self, batch: ItemBatch) -> None:
        """Add the next items."""
        ids = b"".join(hash_inputs([value or "" for value in batch.ids]))
        self.ids.append(np.frombuffer(ids, dtype=np.uint64).reshape(-1, 2))
        self._digests["id"].update(ids)
        for key, values in batch.metadata.items():
            self._digests[key].update(b"".join(hash_inputs([value or "" for value in values])))
        for name in self._inputs:
            self._digests[f"={name}"].update(b"".join(hash_inputs(batch.inputs[name], batch.sizes.get(name))))

    def as_facts(self) -> tuple[str, dict[str, str], dict[str, str]]:
        """Return the digests of ids, metadata and inputs, as `SourceFacts` has them."""
        found = {name: digest.hexdigest() for name, digest in self._digests.items()}
        return (
            found["id"],
            {key: found[key] for key in self._metadata},
            {name: found[f"={name}"] for name in self._inputs},
        )


def check_source(
    source: Source, *, allow_missing_images: bool = False, allow_missing_vectors: bool = False
) -> SourceFacts:
    """Read the whole source once, and return what is in it or raise all its problems.

    Args:
        source: The table and its columns.
        allow_missing_images: Whether items may have no image.
        allow_missing_vectors: Whether items may have no vector, where vectors exist.

    Raises:
        SourceError: Columns are missing; ids are null or repeated; labels or groups are null; there are fewer than two
            classes or groups; roles are none, or the same group's differ; no item is for training, or none for test;
            images are missing; vectors are missing or not of one length. The message lists all problems.
    """
    _check_columns(source)
    classes = [column for key, column in source.metadata.items() if key != "split"]
    rules = CellRules(source.id, classes, source.text, source.split)
    metadata, null_ids, lost_images = MetadataCounts(source.metadata), Rows(), Rows()
    digests = SourceDigests(source)
    n_empty = dict.fromkeys(source.text, 0)
    are_bytes = False
    n_items = 0
    for batch in iter_items(source, rules=rules):
        n_items += len(batch.ids)
        digests.add(batch)
        metadata.add(batch.first_row, batch.metadata)
        for row in [row for row, value in enumerate(batch.ids, batch.first_row) if value is None]:
            null_ids.add(row)
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
    if n_items:
        problems += metadata.problems()
    for name in source.text:
        if n_items and n_empty[name] == n_items:
            problems.append(f"`{name}` must hold texts, all are empty; choose another column")
    if lost_images.count and not allow_missing_images:
        problems.append(
            f"`{source.image}` must name an image that exists: {lost_images}; "
            "add the files, remove these rows, or set on_error: skip"
        )
    found: dict[str, VectorFacts] = {}
    if n_items and not null_ids.count and not repeated:
        for column in source.vectors:
            try:
                found[column.name], wrong = check_vectors(
                    column, source.table, source.id, np.concatenate(digests.ids), allow_missing=allow_missing_vectors
                )
                problems += wrong
            except SourceError as error:
                problems.append(str(error))
    if problems:
        raise SourceError(_message(source.table, problems))
    ids_digest, metadata_digests, input_digests = digests.as_facts()
    return SourceFacts(
        n_items=n_items,
        n_classes=len(metadata.counts["label"]),
        n_groups=len(metadata.counts["group"]),
        n_largest_group=max(metadata.counts["group"].values(), default=0),
        n_by_role=dict(metadata.counts["split"]),
        ids_digest=ids_digest,
        metadata_digests=metadata_digests,
        input_digests=input_digests,
        n_empty_texts=n_empty,
        images_are_bytes=are_bytes,
        vectors=found,
    )


def read_image_bytes(source: Source, rows: Sequence[int]) -> Iterator[bytes | None]:
    """Yield the images at `rows` (ascending) of a column of image bytes."""
    assert source.image is not None
    return tables.read_cells(source.table, source.image, rows)


def _check_columns(source: Source) -> None:
    names = tables.table_columns(source.table)
    problems = []
    named = {"id": source.id, "label": source.label, **source.metadata}
    columns = [("vectors", column.name) for column in source.vectors if column.file is None]
    for role, name in (*named.items(), *(("text", column) for column in source.text), *columns):
        if name is not None and name not in names:
            problems.append(f"{role} column `{name}` is missing")
    if source.image is not None and source.image not in names:
        problems.append(f"image column `{source.image}` is missing")
    if problems:
        problems.append(f"the table has {', '.join(f'`{name}`' for name in names)}")
    inputs = (*source.inputs, *(column.name for column in source.vectors))
    for name in inputs:
        # The store has columns of these names.
        if name in named and name != named[name]:
            problems.append(
                f"input column `{name}` must not be called {', '.join(f'`{key}`' for key in named)}: rename it"
            )
    if len(set(inputs)) < len(inputs):
        problems.append(f"input columns must differ, got {', '.join(inputs)}")
    if problems:
        raise SourceError(_message(source.table, problems))


def _message(table: str, problems: list[str]) -> str:
    count = f"{len(problems)} problem{'s' if len(problems) > 1 else ''}"
    listed = "\n".join(f"  - {problem}" for problem in problems)
    return f"{table} has {count} (row 1 is the first row of data):\n{listed}"


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
    for batch in iter_items(Source(source.table, source.id, None)):
        for row in wanted & set(range(batch.first_row, batch.first_row + len(batch.ids))):
            names[row] = str(batch.ids[row - batch.first_row])
    listed = ", ".join(f"{names[a]!r} in rows {a + 1} and {b + 1}" for a, b in sorted(pairs))
    n_more = int(same.sum()) - len(pairs)
    return listed + (f" and {n_more} more" if n_more > 0 else "")


def _numbers(first_row: int, n_rows: int) -> list[str | None]:
    """Return the ids of rows without any: their numbers, from 1."""
    return [str(row) for row in range(first_row + 1, first_row + 1 + n_rows)]


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
    sizes = file_sizes([image_location(source, path) for path in paths if path])
    following = iter(sizes)
    return [next(following) if path else 0 for path in paths]
