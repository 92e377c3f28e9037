"""Plan what is left to encode, and gather encoded inputs into shards.

Equal inputs are encoded once. The distinct inputs of a column, in the order in which they first appear, are cut into
units. A unit is encoded as a whole and written to a file whose name is the hash of what it depends on. Shards are then
gathered from units. Units and shards depend only on the table and the encoder, not on earlier runs: the finished store
is the same, byte for byte, however often it was interrupted.

A shard that is lost later is gathered from other shards as far as they hold the same inputs. Only the units of inputs
that no valid shard holds are encoded again.
"""

from __future__ import annotations

import hashlib
import json
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from embedding_jobs.errors import StoreError
from embedding_jobs.sources.cells import hash_inputs
from embedding_jobs.sources.items import size_column
from embedding_jobs.store.manifests import ItemsManifest
from embedding_jobs.store.shards import Shard, parquet_bytes, part_name, read_part, vectors_of, write_stored
from embedding_jobs.store.store import ITEMS, Store

if TYPE_CHECKING:
    import pyarrow as pa
    from numpy.typing import NDArray

_KEY = "key"

_N_OPEN_PARTS = 4


@dataclass(frozen=True)
class Plan:
    """A column cut into units and shards.

    Attributes:
        name: `<column>--<encoder>`.
        inverse: Number of the distinct input of each row, shape (rows,).
        first_rows: First row of each distinct input, ascending, shape (inputs,).
        items_per_unit: Number of distinct inputs in a unit.
        unit_keys: Hash of what the vectors of each unit depend on.
        shard_keys: The same for each shard, including its ids.
        rows_per_shard: Number of rows in every shard but the last.
    """

    name: str
    inverse: NDArray[np.int64]
    first_rows: NDArray[np.int64]
    items_per_unit: int
    unit_keys: tuple[str, ...]
    shard_keys: tuple[str, ...]
    rows_per_shard: int

    def shard_inputs(self, number: int) -> NDArray[np.int64]:
        """Return the distinct inputs of a shard's rows, in the order of the rows."""
        return self.inverse[number * self.rows_per_shard : (number + 1) * self.rows_per_shard]

    def unit_rows(self, unit: int) -> NDArray[np.int64]:
        """Return the rows whose inputs a unit encodes, ascending."""
        return self.first_rows[unit * self.items_per_unit : (unit + 1) * self.items_per_unit]


def make_plan(store: Store, items: ItemsManifest, name: str, column: str, made_of: dict[str, Any], n_unit: int) -> Plan:
    """Read a column's inputs once, keep 16 bytes of each, and cut them into units and shards.

    The store's items are complete. `made_of` is everything that a vector depends on, besides its input; `n_unit` is the
    number of distinct inputs in a unit.
    """
    salt = json.dumps(made_of, sort_keys=True).encode()
    hashes = np.empty((items.n_items, 2), dtype=np.uint64)
    shard_keys = []
    start = 0
    for shard in items.shards:
        columns = ["id", column, *([size_column(column)] if column == items.image else [])]
        part = read_part(store.path(ITEMS) / shard.file, columns).to_pydict()
        digests = b"".join(hash_inputs(part[column], part.get(size_column(column))))
        hashes[start : start + shard.n_rows] = np.frombuffer(digests, dtype=np.uint64).reshape(-1, 2)
        shard_keys.append(_key(salt, digests, b"".join(hash_inputs(part["id"]))))
        start += shard.n_rows
    first_rows, inverse = distinct(hashes)
    starts = range(0, len(first_rows), n_unit)
    unit_keys = [_key(salt, hashes[first_rows[start : start + n_unit]].tobytes()) for start in starts]
    return Plan(name, inverse, first_rows, n_unit, tuple(unit_keys), tuple(shard_keys), items.rows_per_shard)


def distinct(hashes: NDArray[np.uint64]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Number the distinct rows in the order in which they first appear.

    Args:
        hashes: Shape (rows, 2).

    Returns:
        The first row of each distinct value, shape (values,), and the number of each row's value, shape (rows,).
    """
    order = np.lexsort((hashes[:, 1], hashes[:, 0]))  # stable: equal rows stay in ascending order
    ordered = hashes[order]
    is_first = np.ones(len(order), dtype=bool)
    is_first[1:] = np.any(ordered[1:] != ordered[:-1], axis=1)
    first_rows = order[is_first]
    by_appearance = np.argsort(first_rows)
    rank = np.empty_like(by_appearance)
    rank[by_appearance] = np.arange(len(rank))
    inverse = np.empty(len(order), dtype=np.int64)
    inverse[order] = rank[np.cumsum(is_first) - 1]
    return first_rows[by_appearance], inverse


def valid_shard(path: Path, key: str) -> bool:
    """Return whether a shard exists, is undamaged, and was made from what `key` is the hash of."""
    import pyarrow.parquet as pq

    try:
        part = read_part(path, ["id", "vector", "note"])
        found = (pq.read_schema(path).metadata or {}).get(_KEY.encode(), b"").decode()
        return bool(found == key and part.num_rows > 0)
    except StoreError:
        return False


def write_shard(
    path: Path, ids: pa.ChunkedArray, vectors: NDArray[Any], notes: Sequence[str | None] | NDArray[np.object_], key: str
) -> Shard:
    """Write a shard of a column; `key` is the hash of what it was made from.

    Raises:
        StoreError: The disk is full.
    """
    import pyarrow as pa

    table = pa.table({"id": ids, "vector": _vectors(vectors), "note": pa.array(notes, pa.string())})
    data = parquet_bytes(table, compression="none", metadata={_KEY: key})
    return Shard(path.name, len(vectors), len(data), write_stored(path, data))


class Gatherer:
    """Gather missing shards from units and from valid shards.

    Attributes:
        missing: Numbers of the shards to write.
        units: Units that are needed, ascending.
    """

    def __init__(self, store: Store, plan: Plan, missing: Sequence[int]) -> None:
        """Find where each input of the missing shards comes from."""
        self._store = store
        self._plan = plan
        self.missing = tuple(missing)
        n_shards = len(plan.shard_keys)
        # A row of a valid shard that holds the distinct input, or -1.
        self._holder = np.full(len(plan.first_rows), -1, dtype=np.int64)
        for number in set(range(n_shards)) - set(missing):
            inputs = plan.shard_inputs(number)
            self._holder[inputs] = number * plan.rows_per_shard + np.arange(len(inputs))
        needed: set[int] = set()
        self._last_unit: dict[int, int] = {}
        for number in missing:
            inputs = plan.shard_inputs(number)
            units = np.unique(inputs[self._holder[inputs] < 0] // plan.items_per_unit)
            needed.update(units.tolist())
            self._last_unit[number] = int(units.max(initial=-1))
        self.units = tuple(sorted(needed))
        self._parts: OrderedDict[int, tuple[NDArray[Any], list[str | None]]] = OrderedDict()

    def ready(self, number: int, n_done: int) -> bool:
        """Return whether a shard can be written when the first `n_done` of `units` exist."""
        last = self._last_unit[number]
        return last < 0 or (n_done > 0 and self.units[n_done - 1] >= last)

    def write(self, number: int, dimension: int, dtype: str) -> Shard:
        """Gather one shard and write it.

        Raises:
            StoreError: The disk is full, or a unit or shard to read is damaged.
        """
        inputs = self._plan.shard_inputs(number)
        vectors = np.empty((len(inputs), dimension), dtype=dtype)
        notes = np.empty(len(inputs), dtype=object)
        held = self._holder[inputs]
        n_rows, n_unit = self._plan.rows_per_shard, self._plan.items_per_unit
        # Units are numbered 0, 1, ...; shards that are copied from -1, -2, ...
        place = np.where(held >= 0, -1 - held // n_rows, inputs // n_unit)
        offset = np.where(held >= 0, held % n_rows, inputs % n_unit)
        for where in np.unique(place):
            rows = np.flatnonzero(place == where)
            if where >= 0:
                found, found_notes = read_unit(unit_path(self._store, self._plan, int(where)), dimension)
            else:
                found, found_notes = self._part(int(-1 - where), dimension)
            vectors[rows] = found[offset[rows]]
            notes[rows] = [found_notes[i] for i in offset[rows]]
        file = part_name(number)
        ids = read_part(self._store.path(ITEMS) / file, ["id"]).column("id")
        return write_shard(self._store.path(self._plan.name) / file, ids, vectors, notes, self._plan.shard_keys[number])

    def _part(self, number: int, dimension: int) -> tuple[NDArray[Any], list[str | None]]:
        if number not in self._parts:
            path = self._store.path(self._plan.name) / part_name(number)
            part = read_part(path, ["vector", "note"])
            self._parts[number] = vectors_of(part, dimension, path), part.column("note").to_pylist()
        self._parts.move_to_end(number)
        if len(self._parts) > _N_OPEN_PARTS:
            self._parts.popitem(last=False)
        return self._parts[number]


def unit_path(store: Store, plan: Plan, unit: int) -> Path:
    """Return the path of an encoded unit."""
    return store.units(plan.name) / f"{plan.unit_keys[unit]}.arrow"


def write_unit(path: Path, vectors: NDArray[Any], notes: Sequence[str | None]) -> None:
    """Write a unit's vectors, shape (inputs, dimension), and the note of each input."""
    import pyarrow as pa

    table = pa.table({"vector": _vectors(vectors), "note": pa.array(notes, pa.string())})
    sink = pa.BufferOutputStream()
    with pa.ipc.new_file(sink, table.schema) as writer:
        writer.write_table(table)
    write_stored(path, memoryview(sink.getvalue()))


def read_unit(path: Path, dimension: int | None = None) -> tuple[NDArray[Any], list[str | None]]:
    """Read a unit's vectors and notes through a memory map, which is released with the array.

    Raises:
        StoreError: The file is missing or damaged.
    """
    import pyarrow as pa

    try:
        file = pa.ipc.open_file(pa.memory_map(str(path)))
        # A note of another type may be a pickled object, and reading one would run code from the file.
        if file.schema.names != ["vector", "note"] or file.schema.field("note").type != pa.string():
            raise StoreError(f"the unit {path} must hold vectors and texts, got {file.schema}; delete it and run again")
        table = file.read_all()
        width = int(table.column("vector").type.list_size)
        if dimension is not None and width != dimension:
            raise StoreError(
                f"the unit {path} must hold vectors of length {dimension}, got {width}; delete it and run again"
            )
        return vectors_of(table, width, path), table.column("note").to_pylist()
    except (pa.ArrowException, AttributeError, OSError) as error:
        raise StoreError(f"the unit {path} must be readable: {error}; delete it and run again") from error


def _vectors(vectors: NDArray[Any]) -> pa.FixedSizeListArray:
    import pyarrow as pa

    return pa.FixedSizeListArray.from_arrays(pa.array(vectors.ravel()), vectors.shape[1])


def _key(*parts: bytes) -> str:
    digest = hashlib.blake2b(digest_size=16)
    for part in parts:
        digest.update(len(part).to_bytes(8, "little"))
        digest.update(part)
    return digest.hexdigest()
