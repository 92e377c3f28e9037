"""Vectors that exist: every form gives the same vectors; bad ones are one message before anything is written."""

from __future__ import annotations

import csv
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from safetensors.numpy import save_file

from embedding_jobs.encoders.config import GivenConfig
from embedding_jobs.errors import SourceError, StoreError
from embedding_jobs.pipeline.extract import extract
from embedding_jobs.pipeline.summary import ExtractionProgress
from embedding_jobs.sources.items import Source, check_source
from embedding_jobs.sources.vectors import VectorColumn, vector_length
from embedding_jobs.store.shards import read_part, vectors_of
from embedding_jobs.store.store import Store

IDS = [f"item {number}" for number in range(10)]
VECTORS = np.random.default_rng(0).normal(size=(10, 4)).astype(np.float32)
ORDER = np.random.default_rng(1).permutation(10)


def source(folder: Path, column: VectorColumn, **changes: object) -> Source:
    """Write a table of ten items, with their vectors as `own`, and return it with one column of vectors."""
    lists = [None if np.isnan(vector).any() else vector.tolist() for vector in VECTORS]
    table = {"id": IDS, "label": ["a", "b"] * 5, "own": lists, **changes}
    pq.write_table(pa.table(table), folder / "t.parquet")
    return Source(str(folder / "t.parquet"), "id", "label", vectors=(column,))


def write(folder: Path, form: str, vectors: np.ndarray = VECTORS, order: np.ndarray = ORDER) -> VectorColumn:
    """Write vectors in a form; those that end in -ids are in another order."""
    ids, shuffled = [IDS[row] for row in order], vectors[order]
    file = folder / f"v{form.partition('-')[0]}"
    if form == "column":
        return VectorColumn("own")
    if form == ".npy":
        np.save(file, vectors)
    elif form == ".safetensors":
        save_file({"emb": vectors}, file)
    elif form == ".npz":
        np.savez(file, emb=vectors)
    elif form == ".npz-ids":
        np.savez(file, emb=shuffled, ids=np.array(ids))
    elif form == ".parquet-ids":
        fixed = pa.FixedSizeListArray.from_arrays(pa.array(shuffled.ravel()), vectors.shape[1])
        pq.write_table(pa.table({"id": ids, "emb": fixed}), file)
    else:
        lines = [f'{{"id": "{name}", "emb": {vector.tolist()}}}\n' for name, vector in zip(ids, shuffled, strict=True)]
        file.write_text("".join(lines))
    return VectorColumn("emb", str(file))


FORMS = ["column", ".npy", ".safetensors", ".npz", ".npz-ids", ".parquet-ids", ".jsonl-ids"]


@pytest.mark.parametrize("form", FORMS)
def test_every_form_gives_the_same_vectors_in_the_order_of_the_table(tmp_path: Path, form: str) -> None:
    column = write(tmp_path, form)
    table = source(tmp_path, column)
    (summary,) = extract(table, {column.name: GivenConfig()}, tmp_path / "store", rows_per_shard=4)
    assert (summary.n_items, summary.n_shards_written, summary.n_skipped) == (10, 3, 0)
    found = Store(tmp_path / "store").load([f"{column.name}--given"])
    assert found.ids.tolist() == IDS
    np.testing.assert_array_equal(found.matrix, VECTORS)
    assert vector_length(column, table.table, "id") == 4
    facts = check_source(table).vectors[column.name]
    norms = np.linalg.norm(VECTORS, axis=1)
    assert (facts.dimension, facts.n_missing) == (4, 0)
    assert facts.norms == pytest.approx((norms.min(), np.median(norms), norms.max()))


def test_the_fingerprint_is_that_of_the_content(tmp_path: Path) -> None:
    digests = {form: check_source(source(tmp_path, write(tmp_path, form))).vectors for form in FORMS}
    assert len({facts.digest for found in digests.values() for facts in found.values()}) == 1
    other = VECTORS.copy()
    other[3, 2] += 1
    (changed,) = check_source(source(tmp_path, write(tmp_path, ".npy", other))).vectors.values()
    assert changed.digest not in {facts.digest for found in digests.values() for facts in found.values()}


def test_other_vectors_are_refused_by_a_store_that_has_some(tmp_path: Path) -> None:
    column = write(tmp_path, ".npy")
    extract(source(tmp_path, column), {"emb": GivenConfig()}, tmp_path / "store")
    write(tmp_path, ".npy", VECTORS + 1)
    with pytest.raises(StoreError, match=r"column `emb` .* must be what the store .* was made from"):
        extract(source(tmp_path, column), {"emb": GivenConfig()}, tmp_path / "store")


def test_a_run_that_was_stopped_goes_on(tmp_path: Path) -> None:
    column = write(tmp_path, ".npy")
    table = source(tmp_path, column)
    extract(table, {"emb": GivenConfig()}, tmp_path / "whole", rows_per_shard=4)

    def stop(progress: ExtractionProgress) -> None:
        if progress.n_shards_done == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        extract(table, {"emb": GivenConfig()}, tmp_path / "store", rows_per_shard=4, on_progress=stop)
    (summary,) = extract(table, {"emb": GivenConfig()}, tmp_path / "store", rows_per_shard=4)
    assert summary.n_shards_written == 1
    for file in sorted((tmp_path / "whole").rglob("*.*")):
        again = tmp_path / "store" / file.relative_to(tmp_path / "whole")
        assert again.read_bytes() == file.read_bytes()
    (summary,) = extract(table, {"emb": GivenConfig()}, tmp_path / "store")
    assert summary.n_shards_written == 0


def test_a_damaged_shard_is_written_again(tmp_path: Path) -> None:
    column = write(tmp_path, ".npz-ids")
    table = source(tmp_path, column)
    extract(table, {"emb": GivenConfig()}, tmp_path / "store", rows_per_shard=4)
    part = tmp_path / "store" / "emb--given" / "part-00001.parquet"
    content = part.read_bytes()
    part.write_bytes(content[:-20])
    (summary,) = extract(table, {"emb": GivenConfig()}, tmp_path / "store")
    assert (summary.n_shards_written, part.read_bytes()) == (1, content)


def test_a_table_without_ids_has_none_to_join_by(tmp_path: Path) -> None:
    table = replace(source(tmp_path, write(tmp_path, ".npz-ids")), id=None)
    with pytest.raises(SourceError, match="holds ids, and the table has none to join them by; name its column"):
        check_source(table)
    table = replace(table, vectors=(write(tmp_path, ".npy"),))
    assert extract(table, {"emb": GivenConfig()}, tmp_path / "store")[0].n_items == 10
    found = Store(tmp_path / "store").load(["emb--given"])
    assert found.ids.tolist() == [str(row) for row in range(1, 11)]
    np.testing.assert_array_equal(found.matrix, VECTORS)


def test_vectors_may_begin_late_and_be_null_in_between(tmp_path: Path) -> None:
    lists: list[list[float] | None] = [None] * 9000
    lists[5000] = [1.0, 2.0]
    table = {"id": range(9000), "label": ["a", "b"] * 4500, "own": lists}
    pq.write_table(pa.table(table), tmp_path / "t.parquet")
    late = Source(str(tmp_path / "t.parquet"), "id", "label", vectors=(VectorColumn("own"),))
    facts = check_source(late, allow_missing_vectors=True).vectors["own"]
    assert (facts.dimension, facts.n_missing) == (2, 8999)


@pytest.mark.parametrize("missing", ["not finite", "no row"])
def test_a_row_without_a_vector_is_refused_or_left_out(tmp_path: Path, missing: str) -> None:
    vectors = VECTORS.copy()
    if missing == "not finite":
        vectors[6, 1] = np.inf
        column = write(tmp_path, ".npy", vectors)
    else:
        column = write(tmp_path, ".npz-ids", vectors, ORDER[ORDER != 6])
    table = source(tmp_path, column)
    with pytest.raises(SourceError, match=r"`emb` must hold a vector .* missing in row 7; .* on_error: skip"):
        check_source(table)
    (summary,) = extract(table, {"emb": GivenConfig()}, tmp_path / "store", rows_per_shard=4, on_error="skip")
    assert summary.n_skipped == 1
    found = Store(tmp_path / "store").load(["emb--given"])
    assert found.ids.tolist() == [name for name in IDS if name != "item 6"]
    np.testing.assert_array_equal(found.matrix, np.delete(VECTORS, 6, axis=0))
    with (tmp_path / "store" / "emb--given" / "skipped.csv").open() as file:
        (row,) = csv.DictReader(file)
    assert (row["id"], row["row"]) == ("item 6", "6")


def test_the_numbers_of_a_store_are_float32(tmp_path: Path) -> None:
    np.save(tmp_path / "v.npy", (VECTORS * 100).astype(">i2"))
    column = VectorColumn("emb", str(tmp_path / "v.npy"))
    extract(source(tmp_path, column), {"emb": GivenConfig()}, tmp_path / "store")
    path = tmp_path / "store" / "emb--given" / "part-00000.parquet"
    found = vectors_of(read_part(path, ["vector"]), 4, path)
    assert found.dtype == np.float32
    np.testing.assert_array_equal(found, (VECTORS * 100).astype(np.int16))


def _spoil(folder: Path, what: str) -> Source:
    """Return a source with bad vectors."""
    file = folder / "v.npy"
    column = VectorColumn("emb", str(file))
    arrays = {
        "too short": VECTORS[:8],
        "one dimension": VECTORS[0],
        "by columns": np.asfortranarray(VECTORS),
        "texts": np.array([["a", "b"]] * 10),
    }
    if what in arrays:
        np.save(file, arrays[what])
    elif what == "cut off":
        np.save(file, VECTORS)
        file.write_bytes(file.read_bytes()[:-8])
    elif what == "objects":
        np.save(file, np.array([VECTORS[0], None], dtype=object), allow_pickle=True)
    elif what == "pickled npz":
        np.savez(folder / "v.npz", emb=np.array([VECTORS[0], None] * 5, dtype=object))
        column = VectorColumn("emb", str(folder / "v.npz"))
    elif what == "repeated ids":
        column = write(folder, ".npz-ids", order=np.array([0, 0, 1]))
    elif what == "other ids":
        np.savez(folder / "v.npz", emb=VECTORS, ids=np.arange(10))
        column = VectorColumn("emb", str(folder / "v.npz"))
    elif what == "mixed widths":
        return source(folder, VectorColumn("own"), own=[[1.0, 2.0]] * 9 + [[1.0]])
    elif what == "no lists":
        return source(folder, VectorColumn("own"), own=[1.0] * 10)
    elif what == "all null":
        return source(folder, VectorColumn("own"), own=pa.array([None] * 10, pa.list_(pa.float32())))
    elif what == "no column":
        return source(folder, VectorColumn("nope"))
    elif what == "CSV":
        (folder / "v.csv").write_text("id,emb\n" + "".join(f"{name},1\n" for name in IDS))
        column = VectorColumn("emb", str(folder / "v.csv"))
    return source(folder, column)


@pytest.mark.parametrize(
    ("what", "said"),
    [
        ("nothing", "v.npy must be readable: it does not exist; repair or replace the file"),
        ("too short", "`emb` must have a vector for each of the table's 10 rows, got 8"),
        ("one dimension", "shape (rows, features), one row after the other, got float32 (4,)"),
        ("by columns", "by columns; save it again"),
        ("texts", "got <U1 (10, 2)"),
        ("cut off", "must hold 10 rows, it ends before row 10"),
        ("objects", "got object (2,)"),
        ("pickled npz", "must be readable"),
        ("repeated ids", "must be unique, got 1 repeated"),
        ("other ids", "must be those of the table, none of them is: the first is '0'"),
        ("mixed widths", "must be of one length, got 2 in row 1, and 1 in row 10"),
        ("no lists", "`own` must hold lists of numbers, got double"),
        ("all null", "`own` must hold vectors, no row has one"),
        ("no column", "vectors column `nope` is missing"),
        ("CSV", "which CSV has not"),
    ],
)
def test_bad_vectors_are_one_message_and_nothing_is_written(tmp_path: Path, what: str, said: str) -> None:
    table = _spoil(tmp_path, what)
    (column,) = table.vectors
    with pytest.raises(SourceError) as error:
        extract(table, {column.name: GivenConfig()}, tmp_path / "store")
    assert said in str(error.value)
    assert not (tmp_path / "store").exists()
