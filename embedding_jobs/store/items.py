"""Write the store's items from the source, and update them without changing a vector."""

from __future__ import annotations

import shutil
from collections.abc import Collection, Iterator
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from embedding_jobs.encoders.config import GIVEN
from embedding_jobs.errors import SourceError, StoreError
from embedding_jobs.files import remove_asides
from embedding_jobs.sources.items import Source, SourceDigests, SourceFacts, check_source, iter_items, size_column
from embedding_jobs.sources.tables import table_columns
from embedding_jobs.store.manifests import MANIFEST, ColumnManifest, ItemsManifest, write_manifest
from embedding_jobs.store.shards import Shard, damaged, parquet_bytes, part_name, read_part, write_stored
from embedding_jobs.store.store import ITEMS, Store

if TYPE_CHECKING:
    import pyarrow as pa

# Folder of the store where new items are written before they replace the old ones.
_ITEMS_ASIDE = ".items"

_NAMED = ("label", "text", "image", "group", "split")  # columns of the table that a manifest names as its source does


def with_stored_columns(source: Source, store: Store, table_columns: list[str]) -> Source:
    """Add to `source` the input columns that the store already has, so that adding an encoder loses none.

    Raises:
        StoreError: The store has another label or image column, or the table misses an input column of the store.
    """
    columns = _columns(store).values()
    items = _items(store)
    if items is None or not columns:
        return source
    for key in ("label", "image"):
        mine, asked = getattr(items, key), getattr(source, key)
        if mine != asked and mine is not None and asked is not None:
            raise StoreError(
                f"`{key}` must be that of the store {store.directory}, which has {mine!r}, got {asked!r}; "
                "choose another store for this data"
            )
    lost = [one.column for one in columns if one.encoder != GIVEN and one.column not in table_columns]
    if lost:
        raise StoreError(
            f"the table {source.table} must have every column of the store {store.directory}, {lost[0]!r} is missing; "
            "choose another store for this data, or remove that column (`study embeddings rm`)"
        )
    kept = tuple(name for name in items.text if name not in source.text and name in table_columns)
    image = source.image or (items.image if items.image in table_columns else None)
    return replace(source, text=(*source.text, *kept), image=image)


def checked_source(
    source: Source, encoded: Collection[str], store: Store, on_error: Literal["fail", "skip"]
) -> tuple[Source, SourceFacts]:
    """Check the source, with all input columns that the store already has, if there is a store.

    Returns:
        The source with the added columns, and what is in it.

    Raises:
        SourceError: The table is not valid.
        StoreError: The store was made from another table.
    """
    source = with_stored_columns(source, store, table_columns(source.table))
    skips = on_error == "skip"
    facts = check_source(source, allow_missing_images=skips or source.image not in encoded, allow_missing_vectors=skips)
    refuse_other_source(store, facts, source.table)
    return source, facts


def refuse_other_source(store: Store, facts: SourceFacts, table: str) -> None:
    """Compare the source with every complete column of the store.

    Raises:
        StoreError: The vectors were made from other items or inputs.
    """
    for name, manifest in _columns(store).items():
        pairs = {"ids": (manifest.ids_digest, facts.ids_digest)}
        if manifest.encoder != GIVEN or manifest.column in facts.vectors:
            pairs[f"column `{manifest.column}`"] = manifest.input_digest, facts.digest_of(manifest.column) or ""
        for what, (mine, asked) in pairs.items():
            if mine != asked:
                raise StoreError(
                    f"the {what} of {table} must be what the store {store.directory} was made from; {name} has "
                    f"{manifest.n_items} items with digest {mine}, got {facts.n_items} with {asked}; choose another "
                    "store for the changed table (a study with records: another `directory`), or remove the column "
                    f"(`study embeddings rm {name}`) and embed it again"
                )


def ensure_items(source: Source, facts: SourceFacts, store: Store, rows_per_shard: int) -> ItemsManifest:
    """Write the items, unless the store already has those of `source`; returns their manifest.

    A store keeps its shard size, since shards of one number have the same rows in all columns.

    Raises:
        SourceError: The source changed while it was read.
        StoreError: The disk is full.
    """
    present = _items(store)
    folder = store.path(ITEMS)
    shutil.rmtree(store.path(_ITEMS_ASIDE), ignore_errors=True)  # left by a killed run
    if present is not None:
        rows_per_shard = present.rows_per_shard
        same = (
            present.ids_digest == facts.ids_digest
            and present.metadata_digests == facts.metadata_digests
            and present.input_digests == facts.input_digests
            and all(getattr(present, key) == getattr(source, key) for key in _NAMED)
        )
        if same and not damaged(folder, present.shards):
            return present
    else:
        rows_per_shard = next((known.rows_per_shard for known in _columns(store).values()), rows_per_shard)
    # The old items stay until all new ones are written and found to be what was checked.
    aside = store.path(_ITEMS_ASIDE)
    digests, shards = SourceDigests(source), []
    try:
        for number, table in enumerate(_tables(source, rows_per_shard, digests)):
            shards.append(_write(aside, number, table))
        if digests.as_facts() != (facts.ids_digest, facts.metadata_digests, facts.input_digests):
            raise SourceError(f"{source.table} changed while it was read; run again when it no longer changes")
        folder.mkdir(parents=True, exist_ok=True)
        (folder / MANIFEST).unlink(
            missing_ok=True
        )  # until the new one is written, every reader reports incomplete items
        for shard in shards:
            (aside / shard.file).replace(folder / shard.file)
    finally:
        shutil.rmtree(aside, ignore_errors=True)
    for path in set(folder.glob("part-*.parquet")) - {folder / shard.file for shard in shards}:
        path.unlink()
    remove_asides(folder)
    manifest = ItemsManifest(
        table=source.table,
        id=source.id,
        **{key: getattr(source, key) for key in _NAMED},
        n_items=facts.n_items,
        n_classes=facts.n_classes,
        rows_per_shard=rows_per_shard,
        ids_digest=facts.ids_digest,
        metadata_digests=facts.metadata_digests,
        input_digests=facts.input_digests,
        n_empty_texts=facts.n_empty_texts,
        shards=tuple(shards),
    )
    write_manifest(folder, manifest)
    return manifest


def read_inputs(store: Store, column: str, rows: list[int], rows_per_shard: int) -> list[str]:
    """Read a column's values at ascending row numbers of the items, one shard at a time."""
    values: list[str] = []
    position = 0
    while position < len(rows):
        number = rows[position] // rows_per_shard
        stop = (number + 1) * rows_per_shard
        end = position
        while end < len(rows) and rows[end] < stop:
            end += 1
        part = read_part(store.path(ITEMS) / part_name(number), [column]).column(column)
        first = number * rows_per_shard
        values += part.take([row - first for row in rows[position:end]]).to_pylist()
        position = end
    return values


def _tables(source: Source, rows_per_shard: int, digests: SourceDigests) -> Iterator[pa.Table]:
    """Cut the stream of items into tables of `rows_per_shard` rows, and add each item to the digests."""
    import pyarrow as pa

    pending: list[pa.Table] = []
    n_pending = 0
    for batch in iter_items(source):
        digests.add(batch)
        named = {"id": batch.ids, "label": [""] * len(batch.ids), **batch.metadata}  # "" in a table without labels
        columns: dict[str, Any] = {key: pa.array(values, pa.string()) for key, values in named.items()}
        columns |= {name: pa.array(batch.inputs[name], pa.string()) for name in source.inputs}
        columns |= {size_column(name): pa.array(sizes, pa.int64()) for name, sizes in batch.sizes.items()}
        pending.append(pa.table(columns))
        n_pending += len(batch.ids)
        while n_pending >= rows_per_shard:
            joined = pa.concat_tables(pending)
            yield joined.slice(0, rows_per_shard)
            pending, n_pending = [joined.slice(rows_per_shard)], n_pending - rows_per_shard
    if n_pending:
        yield pa.concat_tables(pending)


def _write(folder: Path, number: int, table: pa.Table) -> Shard:
    data = parquet_bytes(table.combine_chunks(), compression="zstd")
    sha256 = write_stored(folder / part_name(number), data)
    return Shard(part_name(number), table.num_rows, len(data), sha256)


def _columns(store: Store) -> dict[str, ColumnManifest]:
    """Read the manifests of the complete columns; one that is unreadable is made again later."""
    return {facts.name: facts.manifest for facts in store.describe() if facts.manifest}


def _items(store: Store) -> ItemsManifest | None:
    try:
        return store.items()
    except StoreError:
        return None
