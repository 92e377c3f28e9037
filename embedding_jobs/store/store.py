"""The embedding store: its file names, columns and manifests.

```
<store>/items/part-00000.parquet                  id, label; group, split if there are any; texts, image paths and sizes
<store>/items/manifest.json
<store>/<column>--<encoder>/part-00000.parquet    id, vector, note: the same rows under the same number
<store>/<column>--<encoder>/manifest.json         written last: what has one is complete
<store>/<column>--<encoder>/skipped.csv           rows without a vector, and why (only if there are any)
<store>/runs/<column>--<encoder>.json             what the last run measured; only this file differs from run to run
<store>/.units/<column>--<encoder>/<key>.arrow    encoded inputs not yet in a shard; removed when the column is complete
```

A file that exists is complete (see `embedding_jobs.files.whole_file`). A skipped row keeps its place: its vector is NaN
(Arrow cannot read back a null in a fixed-size list) and its `note` holds the reason.
"""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from embedding_jobs.encoders.config import GIVEN
from embedding_jobs.errors import StoreError
from embedding_jobs.files import read_json
from embedding_jobs.store.manifests import MANIFEST, ColumnManifest, ItemsManifest, comparable, read_manifest
from embedding_jobs.store.shards import AGAIN, damaged, part_name, read_part, vectors_of

if TYPE_CHECKING:
    import pyarrow as pa
    from numpy.typing import NDArray

ITEMS, SKIPPED = "items", "skipped.csv"

SKIP_NOTE = "skipped: "  # begins the note of a row without a vector


@dataclass(frozen=True)
class Embeddings:
    """The items that have a vector in every requested column: the data of a trial.

    Attributes:
        ids: Ids, object array of str, shape (items,).
        labels: Labels, object array of str, shape (items,).
        matrix: Concatenated vectors, float32, C-contiguous, shape (items, features).
        groups: Number of each item's group, counted from 0 in the order of their names, shape (items,); None without.
        roles: "train", "validation" or "test" of each item, shape (items,); None without a column that says so.
        columns: Names of the store's columns, in the order of the features.
        digest: Digest of everything that a result depends on: ids, labels, groups, roles, inputs, fingerprints,
            dimensions.
        provenance: Where the data come from, for a record; JSON values.
    """

    ids: NDArray[np.object_]
    labels: NDArray[np.object_]
    matrix: NDArray[np.float32]
    groups: NDArray[np.int64] | None
    roles: NDArray[np.str_] | None
    columns: tuple[str, ...]
    digest: str
    provenance: dict[str, Any]


@dataclass(frozen=True)
class ColumnFacts:
    """A column as `Store.describe` lists it. `problem` is None if the column is valid and complete."""

    name: str
    n_bytes: int
    manifest: ColumnManifest | None = None
    measured: dict[str, Any] = field(default_factory=dict)
    problem: str | None = None


@dataclass(frozen=True)
class Damage:
    """A problem that `Store.verify` found in a file."""

    column: str
    file: str
    reason: str


class Store:
    """An embedding store in a directory. Making the object reads nothing."""

    def __init__(self, directory: str | Path) -> None:
        self.directory = Path(directory).expanduser()

    def path(self, column: str) -> Path:
        """Return the folder of a column (`<column>--<encoder>`), or of the items."""
        return self.directory / column

    def units(self, column: str) -> Path:
        """Return the folder of a column's encoded inputs that are not in a shard yet."""
        return self.directory / ".units" / column

    def column_names(self) -> list[str]:
        """Return the names (`<column>--<encoder>`) of all columns, complete or not."""
        if not self.directory.is_dir():
            return []
        return sorted(path.name for path in self.directory.iterdir() if path.is_dir() and "--" in path.name)

    def items(self) -> ItemsManifest:
        """Read the items' manifest.

        Raises:
            StoreError: The manifest is missing or unreadable.
        """
        return read_manifest(self.path(ITEMS) / MANIFEST, ItemsManifest)

    def column(self, name: str) -> ColumnManifest:
        """Read the manifest of `<column>--<encoder>`.

        Raises:
            StoreError: The manifest is missing or unreadable.
        """
        return read_manifest(self.path(name) / MANIFEST, ColumnManifest)

    def find(self, column: str) -> str:
        """Return the name (`<column>--<encoder>`) that a data column, or the name itself, stands for.

        Raises:
            StoreError: There is no such column, or several.
        """
        names = self.column_names()
        if column in names:
            return column
        found = [name for name in names if name.rpartition("--")[0] == column]
        if not found:
            there = ", ".join(names) or "none"
            raise StoreError(
                f"the store must have the column `{column}`, {self.directory} has {there}; run `study embed`"
            )
        if len(found) > 1:
            raise StoreError(f"`{column}` must name one column of {self.directory}, it fits {' and '.join(found)}")
        return found[0]

    def load(self, columns: Sequence[str]) -> Embeddings:
        """Read columns of vectors into one matrix, side by side.

        Args:
            columns: The data's columns ("title"), or store columns ("title--minilm"), in the order of the features.

        Raises:
            StoreError: A column is missing, incomplete, damaged, or made from other items.
        """
        if not columns:
            raise StoreError("`columns` must name at least one column, got none")
        items = self.items()
        names = [self.find(column) for column in columns]
        manifests = [self.column(name) for name in names]
        for name, manifest in zip(names, manifests, strict=True):
            self._check_same_items(name, manifest, items)
        keep = np.ones(items.n_items, dtype=bool)
        for name, manifest in zip(names, manifests, strict=True):
            if manifest.n_skipped:
                keep[self.skipped_rows(name)] = False
        if not keep.any():
            raise StoreError(
                f"at least one item must have a vector in all of {', '.join(names)}, got none: all items were skipped"
            )
        widths = [manifest.dimension for manifest in manifests]
        matrix = np.empty((int(keep.sum()), sum(widths)), dtype=np.float32)
        cells: dict[str, list[str]] = {name: [] for name in ("id", "label", *items.metadata_digests)}
        filled = 0
        for number, shard in enumerate(items.shards):
            start = number * items.rows_per_shard
            kept = keep[start : start + shard.n_rows]
            part = read_part(self.path(ITEMS) / shard.file, list(cells))
            part_ids = part.column("id").combine_chunks()
            for name, values in cells.items():
                values += np.asarray(part.column(name).to_pylist(), dtype=object)[kept].tolist()
            stop, left = filled + int(kept.sum()), 0
            for name, width in zip(names, widths, strict=True):
                vectors = self.vectors(name, number, part_ids, width)
                matrix[filled:stop, left : left + width] = vectors if kept.all() else vectors[kept]
                left += width
            filled = stop
        facts = [asdict(manifest) for manifest in manifests]
        return Embeddings(
            ids=np.asarray(cells["id"], dtype=object),
            labels=np.asarray(cells["label"], dtype=object),
            matrix=matrix,
            groups=_numbered(cells["group"]) if "group" in cells else None,
            roles=np.asarray(cells["split"]) if "split" in cells else None,
            columns=tuple(names),
            digest=_embeddings_digest(items, facts),
            provenance={
                "store": str(self.directory),
                "table": items.table,
                "label": items.label,
                "n_items": items.n_items,
                "n_items_left_out": int((~keep).sum()),
                "columns": {name: _provenance(manifest) for name, manifest in zip(names, manifests, strict=True)},
            },
        )

    def vectors(self, name: str, number: int, ids: pa.Array, dimension: int) -> NDArray[Any]:
        """Read one shard's vectors, shape (rows, dimension), and check that its rows are those of `ids`.

        Raises:
            StoreError: The shard is damaged or has other rows.
        """
        path = self.path(name) / part_name(number)
        part = read_part(path, ["id", "vector"])
        if not part.column("id").combine_chunks().equals(ids):
            raise StoreError(f"the rows of {path} must be those of the items, they differ; {AGAIN}")
        return vectors_of(part, dimension, path)

    def skipped_rows(self, name: str) -> NDArray[np.int64]:
        """Read the numbers of the rows of a column that have no vector."""
        from pyarrow import csv

        path = self.path(name) / SKIPPED
        if not path.is_file():
            raise StoreError(f"the table of skipped rows must exist, found nothing at {path}; {AGAIN}")
        try:
            rows = np.asarray(csv.read_csv(path).column("row"), dtype=np.int64)
        except (ValueError, KeyError, OSError) as error:  # Arrow's errors are ValueErrors
            raise StoreError(f"the table of skipped rows {path} must be readable: {error}; {AGAIN}") from error
        n_skipped, n_items = self.column(name).n_skipped, self.column(name).n_items
        if len(rows) != n_skipped or np.any((rows < 0) | (rows >= n_items)):
            raise StoreError(f"{path} must list the {n_skipped} rows that were skipped, it does not; {AGAIN}")
        return rows

    def describe(self) -> list[ColumnFacts]:
        """Describe each column, complete or not."""
        found = []
        for name in self.column_names():
            n_bytes = sum(path.stat().st_size for path in self.path(name).iterdir() if path.is_file())
            try:
                found.append(ColumnFacts(name, n_bytes, self.column(name), self.measured(name)))
            except StoreError as error:
                found.append(ColumnFacts(name, n_bytes, problem=str(error)))
        return found

    def measured(self, name: str) -> dict[str, Any]:
        """Read what the last run that encoded a column measured; empty if unknown."""
        try:
            found = read_json(self.directory / "runs" / f"{name}.json")
        except (OSError, ValueError):
            return {}
        return found if isinstance(found, dict) else {}

    def verify(self, columns: Sequence[str] | None = None) -> list[Damage]:
        """Recompute every checksum and compare the rows of each shard with the items.

        Args:
            columns: Columns to check; None for all.

        Returns:
            The problems, file by file; empty if the store is valid.
        """
        try:
            items = self.items()
        except StoreError as error:
            return [Damage(ITEMS, MANIFEST, str(error))]
        found = [Damage(ITEMS, file, reason) for file, reason in damaged(self.path(ITEMS), items.shards).items()]
        unusable = {damage.file for damage in found}
        for name in self.column_names() if columns is None else [self.find(column) for column in columns]:
            try:
                manifest = self.column(name)
                self._check_same_items(name, manifest, items)
                if manifest.n_skipped:
                    self.skipped_rows(name)
            except StoreError as error:
                found.append(Damage(name, MANIFEST, str(error)))
                continue
            wrong = damaged(self.path(name), manifest.shards)
            found += [Damage(name, file, reason) for file, reason in wrong.items()]
            for number, shard in enumerate(manifest.shards):
                if shard.file in wrong or shard.file in unusable:
                    continue
                ids = read_part(self.path(ITEMS) / shard.file, ["id"]).column("id").combine_chunks()
                try:
                    self.vectors(name, number, ids, manifest.dimension)
                except StoreError as error:
                    found.append(Damage(name, shard.file, str(error)))
        return found

    def remove(self, column: str) -> str:
        """Delete a column, complete or not; returns its name in the store.

        Raises:
            StoreError: There is no such column.
        """
        name = self.find(column)
        # Without its manifest a column is incomplete: an interrupted removal leaves no column that looks complete.
        (self.path(name) / MANIFEST).unlink(missing_ok=True)
        for folder in (self.path(name), self.units(name)):
            if folder.exists():
                shutil.rmtree(folder)
        (self.directory / "runs" / f"{name}.json").unlink(missing_ok=True)
        return name

    def _check_same_items(self, name: str, manifest: ColumnManifest, items: ItemsManifest) -> None:
        pairs = {
            "n_items": (manifest.n_items, items.n_items),
            "rows_per_shard": (manifest.rows_per_shard, items.rows_per_shard),
            "ids_digest": (manifest.ids_digest, items.ids_digest),
        }
        if manifest.encoder != GIVEN:  # the items have no values of vectors that exist
            pairs["input_digest"] = manifest.input_digest, items.input_digests.get(manifest.column)
        for key, (mine, theirs) in pairs.items():
            if mine != theirs:
                raise StoreError(
                    f"`{key}` of {self.path(name)} must be that of the store's items, got {mine} and {theirs}; "
                    f"remove the column (`study embeddings rm {name}`) and run `study embed`"
                )


def _numbered(names: list[str]) -> NDArray[np.int64]:
    return np.unique(np.asarray(names, dtype=object), return_inverse=True)[1].astype(np.int64)


def _embeddings_digest(items: ItemsManifest, columns: Sequence[Mapping[str, Any]]) -> str:
    """Return the digest of everything that a result depends on; `columns` are the fields of each column's manifest."""
    parts = ("column", "input_digest", "dimension", "n_skipped")
    facts = [{"fingerprint": comparable(one["fingerprint"]), **{key: one[key] for key in parts}} for one in columns]
    identity = json.dumps([items.ids_digest, items.metadata_digests, *facts], sort_keys=True)
    return hashlib.blake2b(identity.encode(), digest_size=16).hexdigest()


def _provenance(manifest: ColumnManifest) -> dict[str, Any]:
    facts = asdict(manifest)
    del facts["shards"]
    return facts
