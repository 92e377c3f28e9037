"""Sources: what is read, what is refused, and that one answer does not depend on the format."""

import json
from pathlib import Path

import pyarrow as pa
import pyarrow.csv as pa_csv
import pyarrow.parquet as pq
import pytest

from embedding_jobs.errors import SourceError
from embedding_jobs.sources.items import Source, check_source, iter_items
from embedding_jobs.sources.tables import count_rows, table_columns

ROWS = [
    {"sku": "007", "title": 'a "red"\nshirt, long', "kind": "shirt"},
    {"sku": "008", "title": "", "kind": "shoe"},
    {"sku": "009", "title": "ünïcode 靴", "kind": "shoe"},
]


def write_table(path: Path, rows: list[dict[str, object]]) -> str:
    if path.suffix == ".jsonl":
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    elif path.suffix == ".csv":
        pa_csv.write_csv(pa.Table.from_pylist(rows), path)
    else:
        pq.write_table(pa.Table.from_pylist(rows), path, row_group_size=2)
    return str(path)


@pytest.mark.parametrize("suffix", [".csv", ".jsonl", ".parquet"])
def test_formats_give_the_same_items_and_digests(tmp_path: Path, suffix: str) -> None:
    table = write_table(tmp_path / f"t{suffix}", ROWS)
    source = Source(table, "sku", "kind", ("title",))
    assert table_columns(table) == ["sku", "title", "kind"]
    assert count_rows(table) == 3
    (batch,) = iter_items(source)
    assert batch.ids == ["007", "008", "009"]
    assert batch.inputs["title"] == [row["title"] for row in ROWS]
    facts = check_source(source)
    expected = check_source(Source(write_table(tmp_path / "other.parquet", ROWS), "sku", "kind", ("title",)))
    assert facts == expected
    assert facts.n_empty_texts == {"title": 1}


def test_directory_of_files_is_one_table_in_order_of_names(tmp_path: Path) -> None:
    folder = tmp_path / "table"
    folder.mkdir()
    write_table(folder / "b.parquet", ROWS[2:])
    write_table(folder / "a.parquet", ROWS[:2])
    (folder / "_SUCCESS").write_text("")
    source = Source(str(folder), "sku", "kind", ("title",))
    assert [name for batch in iter_items(source) for name in batch.ids] == ["007", "008", "009"]
    assert count_rows(f"file://{folder}") == 3
    write_table(folder / "c.csv", ROWS)
    with pytest.raises(SourceError, match="one format"):
        check_source(source)


def test_digest_does_not_depend_on_how_rows_are_batched(tmp_path: Path) -> None:
    source = Source(write_table(tmp_path / "t.parquet", ROWS), "sku", "kind", ("title",))
    apart = [batch for batch in iter_items(source, batch_rows=1)]
    assert [batch.first_row for batch in apart] == [0, 1, 2]
    assert check_source(source) == check_source(source)


def test_every_problem_is_reported_at_once(tmp_path: Path) -> None:
    rows = [{"sku": "1", "kind": None}, {"sku": "1", "kind": "x"}, {"sku": "2", "kind": "x"}]
    with pytest.raises(SourceError) as caught:
        check_source(Source(write_table(tmp_path / "t.parquet", rows), "sku", "kind"))
    message = str(caught.value)
    assert "3 problems" in message
    assert "'1' in rows 0 and 1" in message
    assert "`kind` must not be null: row 0" in message
    assert "at least 2 classes, got 1: ['x']" in message
    assert str(tmp_path) in message


@pytest.mark.parametrize(
    ("source", "words"),
    [
        (Source("{t}", "nope", "kind"), ["id column `nope`", "`sku`"]),
        (Source("{t}", "sku", "kind", ("titel",), "photo"), ["text column `titel`", "image column `photo`"]),
        (Source("{d}/none.csv", "sku", "kind"), ["no table at", "none.csv"]),
        (Source("{d}/t.xlsx", "sku", "kind"), [".parquet", "t.xlsx"]),
        (Source("{d}/broken.parquet", "sku", "kind"), ["must be readable", "broken.parquet"]),
        (Source("{d}/broken.jsonl", "sku", "kind"), ["line 2", "broken.jsonl"]),
        (Source("{d}/empty.jsonl", "sku", "kind"), ["id column `sku`"]),
        (Source("{d}/nested.parquet", "sku", "kind", ("title",)), ["`title`", "list"]),
        (Source("{d}/twice.csv", "sku", "kind"), ["one column `kind`", "has 2", "twice.csv"]),
    ],
)
def test_unusable_tables_are_named(tmp_path: Path, source: Source, words: list[str]) -> None:
    write_table(tmp_path / "t.parquet", ROWS)
    (tmp_path / "t.xlsx").write_text("x")
    (tmp_path / "broken.parquet").write_bytes(b"PAR1 not really")
    (tmp_path / "broken.jsonl").write_text('{"sku": 1, "kind": "a"}\n{"sku": \n')
    (tmp_path / "empty.jsonl").write_text("")
    (tmp_path / "twice.csv").write_text("sku,kind,kind\n1,a,b\n")
    pq.write_table(pa.table({"sku": ["1"], "kind": ["a"], "title": [["x"]]}), tmp_path / "nested.parquet")
    table = source.table.format(t=tmp_path / "t.parquet", d=tmp_path)
    with pytest.raises(SourceError) as caught:
        check_source(Source(table, source.id, source.label, source.text, source.image))
    for word in words:
        assert word in str(caught.value)


def test_columns_without_a_name_are_no_obstacle(tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_text("sku,kind,,\n007,a,,\n008,b,,\n")
    assert check_source(Source(str(tmp_path / "t.csv"), "sku", "kind")).n_items == 2


def test_missing_images_are_found_before_any_compute(tmp_path: Path) -> None:
    (tmp_path / "a.jpg").write_bytes(b"x")
    rows = [{"id": str(i), "k": str(i % 2), "photo": path} for i, path in enumerate(["a.jpg", "b.jpg", None])]
    source = Source(write_table(tmp_path / "t.parquet", rows), "id", "k", (), "photo")
    with pytest.raises(SourceError, match=r"rows 1 \(b.jpg\), 2 \(null\)"):
        check_source(source)
    facts = check_source(source, allow_missing_images=True)
    (tmp_path / "a.jpg").write_bytes(b"xy")
    assert check_source(source, allow_missing_images=True) != facts, "a replaced image is another input"
