"""Write vectors that exist into the store, shard by shard, without an encoder and without Ray."""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from embedding_jobs.encoders.config import GivenConfig, column_name
from embedding_jobs.errors import SourceError
from embedding_jobs.files import remove_asides
from embedding_jobs.pipeline.column import existing_column, finish_shards
from embedding_jobs.pipeline.planning import valid_shard, write_shard
from embedding_jobs.pipeline.summary import ColumnSummary, ExtractionProgress, measured, summarise
from embedding_jobs.sources.cells import hash_inputs
from embedding_jobs.sources.items import Source
from embedding_jobs.sources.vectors import VectorColumn, VectorDigest, VectorFacts, stream_vectors
from embedding_jobs.store.manifests import MANIFEST, ColumnManifest, ItemsManifest, write_manifest
from embedding_jobs.store.shards import damaged, part_name, read_part
from embedding_jobs.store.store import ITEMS, SKIP_NOTE, Store

if TYPE_CHECKING:
    from numpy.typing import NDArray

_NO_VECTOR = f"{SKIP_NOTE}null, or a value that is not finite"


def write_given(
    source: Source,
    column: VectorColumn,
    facts: VectorFacts,
    store: Store,
    items: ItemsManifest,
    fingerprint: dict[str, Any],
    on_error: Literal["fail", "skip"],
    on_progress: Callable[[ExtractionProgress], None],
) -> ColumnSummary:
    """Write what the store does not have of a column of vectors; shards that are there are kept.

    Raises:
        SourceError: The vectors have changed since they were checked.
        StoreError: The disk is full, or the store has other vectors of this name.
    """
    began_s, config = time.time(), GivenConfig()
    name = column_name(column.name, config)
    folder = store.path(name)
    found = existing_column(store, name, fingerprint, on_error)
    if found is not None and not damaged(folder, found.shards):
        return summarise(found)
    folder.mkdir(parents=True, exist_ok=True)
    digest, n_written, n_done = VectorDigest(), 0, 0
    for number, vectors in enumerate(_shards(source, column, store, items, digest)):
        ids = read_part(store.path(ITEMS) / part_name(number), ["id"]).column("id")
        key = _key(fingerprint, items.ids_digest, number, vectors)
        if not valid_shard(folder / part_name(number), key):
            notes = [_NO_VECTOR if missing else None for missing in np.isnan(vectors[:, 0])]
            write_shard(folder / part_name(number), ids, vectors, notes, key)
            n_written += 1
        n_done += len(vectors)
        rate = n_done / max(time.time() - began_s, 1e-9)
        on_progress(ExtractionProgress(name, number + 1, len(items.shards), n_done, items.n_items, rate))
    if digest.hexdigest() != facts.digest:
        (folder / MANIFEST).unlink(missing_ok=True)
        raise SourceError(
            f"the vectors of `{column.name}` changed while they were read ({column.file or source.table}); run again "
            "when they no longer change"
        )
    finished = finish_shards(store, items, name, None)
    manifest = ColumnManifest(
        column=column.name,
        encoder=config.model,
        ids_digest=items.ids_digest,
        input_digest=facts.digest,
        fingerprint=fingerprint,
        settings={**asdict(config), "file": column.file},
        made_with=(),
        dimension=facts.dimension,
        dtype=config.vector_dtype,
        n_items=items.n_items,
        rows_per_shard=items.rows_per_shard,
        n_distinct=items.n_items,
        n_empty=0,
        n_truncated=0,
        n_skipped=finished.n_skipped,
        shards=finished.shards,
    )
    write_manifest(folder, manifest)
    remove_asides(folder)
    return measured(summarise(manifest), [], n_written, began_s)


def _shards(
    source: Source, column: VectorColumn, store: Store, items: ItemsManifest, digest: VectorDigest
) -> Iterator[NDArray[np.float32]]:
    """Cut the vectors into shards of `rows_per_shard` rows, and add each block to the digest."""
    ids = np.concatenate(
        [
            np.frombuffer(b"".join(hash_inputs(part.column("id").to_pylist())), dtype=np.uint64).reshape(-1, 2)
            for part in (read_part(store.path(ITEMS) / shard.file, ["id"]) for shard in items.shards)
        ]
    )
    pending: list[NDArray[np.float32]] = []
    n_pending, n_shard = 0, items.rows_per_shard
    for block in stream_vectors(column, source.table, source.id, ids):
        digest.add(block)
        pending.append(block)
        n_pending += len(block)
        while n_pending >= n_shard:
            joined = np.concatenate(pending)
            yield joined[:n_shard]
            pending, n_pending = [joined[n_shard:]], n_pending - n_shard
    if n_pending:
        yield np.concatenate(pending)


def _key(fingerprint: dict[str, Any], ids_digest: str, number: int, vectors: NDArray[np.float32]) -> str:
    """Return the hash of what a shard holds."""
    digest = hashlib.blake2b(json.dumps([fingerprint, ids_digest, number], sort_keys=True).encode(), digest_size=16)
    digest.update(np.ascontiguousarray(vectors).data)
    return digest.hexdigest()
