"""Data sets as Hugging Face `datasets` saves them: Arrow streams in a folder, with class names and images."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from embedding_jobs.errors import SourceError
from embedding_jobs.sources.items import Source, check_source, iter_items, read_image_bytes
from embedding_jobs.sources.tables import count_rows, table_columns
from embedding_jobs.sources.vectors import VectorColumn, stream_vectors

N_ROWS = 100


def data_set() -> pa.Table:
    """Return a table as `datasets` 5.2.0 makes it: classes are numbers, images bytes and path."""
    features = {
        "label": {"names": ["hat", "shoe"], "_type": "ClassLabel"},
        "text": {"dtype": "string", "_type": "Value"},
        "image": {"_type": "Image"},
        "emb": {"feature": {"dtype": "float32", "_type": "Value"}, "length": 3, "_type": "List"},
    }
    images = [{"bytes": b"image %d" % row, "path": None} for row in range(N_ROWS)]
    vectors = pa.FixedSizeListArray.from_arrays(pa.array(np.arange(3 * N_ROWS, dtype=np.float32)), 3)
    table = pa.table(
        {
            "label": pa.array([row % 2 for row in range(N_ROWS)], pa.int64()),
            "text": [f"text {row}" for row in range(N_ROWS)],
            "image": pa.array(images, pa.struct([("bytes", pa.binary()), ("path", pa.string())])),
            "emb": vectors,
        }
    )
    return table.replace_schema_metadata({"huggingface": json.dumps({"info": {"features": features}})})


def save(folder: Path, table: pa.Table) -> str:
    """Write a table as `save_to_disk` does, in two shards of batches of 30 rows."""
    folder.mkdir(parents=True)
    for number, part in enumerate((table.slice(0, 70), table.slice(70))):
        with pa.ipc.new_stream(folder / f"data-{number:05d}-of-00002.arrow", table.schema) as writer:
            writer.write_table(part, max_chunksize=30)
    (folder / "state.json").write_text("{}")
    (folder / "dataset_info.json").write_text("{}")
    return str(folder)


def test_a_saved_data_set_is_a_table_and_so_is_its_parquet_file(tmp_path: Path) -> None:
    place, file = save(tmp_path / "saved", data_set()), tmp_path / "t.parquet"
    pq.write_table(data_set(), file, row_group_size=40)
    assert table_columns(place) == ["label", "text", "image", "emb"]
    assert count_rows(place) == N_ROWS
    facts = []
    for table in (place, str(file)):
        source = Source(table, None, "label", ("text",), "image", vectors=(VectorColumn("emb"),))
        facts.append(check_source(source))
        batches = list(iter_items(source, batch_rows=7))
        assert [name for batch in batches for name in batch.metadata["label"]] == ["hat", "shoe"] * (N_ROWS // 2)
        rows = [0, 29, 30, 69, 70, 99]
        assert list(read_image_bytes(source, rows)) == [b"image %d" % row for row in rows]
        blocks = list(stream_vectors(VectorColumn("emb"), table, None, np.zeros((N_ROWS, 2), np.uint64)))
        assert np.concatenate(blocks).ravel().tolist() == list(range(3 * N_ROWS))
    assert facts[0] == facts[1]
    assert facts[0].images_are_bytes


def test_an_item_without_a_class_is_refused(tmp_path: Path) -> None:
    table = data_set()
    labels = [-1, *table.column("label").to_pylist()[1:]]
    spoilt = table.set_column(0, "label", pa.array(labels, pa.int64()))
    with pytest.raises(SourceError, match="`label` must not be null, NaN or empty: row 1;"):
        check_source(Source(save(tmp_path / "saved", spoilt), None, "label", ("text",)))


def test_several_data_sets_in_one_folder_are_refused(tmp_path: Path) -> None:
    for part in ("train", "test"):
        save(tmp_path / part, data_set())
    (tmp_path / "dataset_dict.json").write_text('{"splits": ["train", "test"]}')
    with pytest.raises(SourceError, match=r"must be one data set, .* has test, train; name the folder of one"):
        check_source(Source(str(tmp_path), None, "label", ("text",)))


def test_a_storage_that_is_not_reached_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    class AwayError(Exception):
        """What a storage raises is its own."""

    def away(_: str) -> None:
        raise AwayError("name or service not known")

    monkeypatch.setattr("embedding_jobs.sources.tables.open_place", away)
    with pytest.raises(
        SourceError, match=r"must be reachable: name or service not known \(hf://datasets/a/b/t.parquet\)"
    ):
        check_source(Source("hf://datasets/a/b/t.parquet", None, "label", ("text",)))
