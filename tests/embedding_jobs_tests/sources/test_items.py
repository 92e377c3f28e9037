"""Sources: what is read, what is refused, and that one answer does not depend on the format."""

import json
from collections.abc import Sequence
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


@pytest.mark.parametrize("suffix", [".csv", ".jsonl", ".parquet"])
def test_without_a_column_of_ids_they_are_the_rows_numbers(tmp_path: Path, suffix: str) -> None:
    numbered = [{**row, "sku": str(number)} for number, row in enumerate(ROWS, 1)]
    expected = check_source(Source(write_table(tmp_path / f"n{suffix}", numbered), "sku", "kind", ("title",)))
    table = write_table(tmp_path / f"t{suffix}", ROWS)
    assert check_source(Source(table, None, "kind", ("title",))) == expected
    apart = iter_items(Source(table, None, None, ("title",)), batch_rows=1)
    assert [name for batch in apart for name in batch.ids] == ["1", "2", "3"]
    assert check_source(Source(table, None, None)).ids_digest == expected.ids_digest


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
    assert "3 problems (row 1 is the first row of data):" in message
    assert "'1' in rows 1 and 2" in message
    assert "`kind` must not be null, NaN or empty: row 1" in message
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
    with pytest.raises(SourceError, match=r"rows 2 \(b.jpg\), 3 \(null\)"):
        check_source(source)
    facts = check_source(source, allow_missing_images=True)
    (tmp_path / "a.jpg").write_bytes(b"xy")
    assert check_source(source, allow_missing_images=True) != facts, "a replaced image is another input"


def grouped(path: Path, brands: Sequence[object], folds: Sequence[object]) -> Source:
    """A table of two kinds in turn, of these groups and roles."""
    rows: list[dict[str, object]] = [
        {"sku": str(i), "kind": "ab"[i % 2], "brand": brand, "fold": fold}
        for i, (brand, fold) in enumerate(zip(brands, folds, strict=True))
    ]
    return Source(write_table(path, rows), "sku", "kind", group="brand", split="fold")


@pytest.mark.parametrize("suffix", [".csv", ".jsonl", ".parquet"])
def test_groups_and_roles_in_every_format_and_spelling(tmp_path: Path, suffix: str) -> None:
    folds = ["Train", " TRAINING", "tr", "val", "dev", "Testing"]
    source = grouped(tmp_path / f"t{suffix}", [30, 30, 4, 5, 5, 6], folds)
    (batch,) = iter_items(source)
    assert batch.metadata["group"] == ["30", "30", "4", "5", "5", "6"]
    assert batch.metadata["split"] == ["train", "train", "train", "validation", "validation", "test"]
    facts = check_source(source)
    assert (facts.n_groups, facts.n_largest_group) == (4, 2)
    assert facts.n_by_role == {"train": 3, "validation": 2, "test": 1}
    plain = ["train", "train", "train", "validation", "valid", "test"]
    assert check_source(grouped(tmp_path / "same.csv", ["30", "30", "4", "5", "5", "6"], plain)) == facts
    for changed, (brands, roles) in {
        "group": (["30", "30", "30", "5", "5", "6"], plain),
        "split": (["30", "30", "4", "5", "5", "6"], [*plain[:3], "test", "test", "test"]),
    }.items():
        other = check_source(grouped(tmp_path / "other.csv", brands, roles)).metadata_digests
        assert {key for key, digest in other.items() if digest != facts.metadata_digests[key]} == {changed}


@pytest.mark.parametrize(
    ("brands", "folds", "words"),
    [
        (
            ["a", None, " ", "b"],
            ["train", "train", "test", "test"],
            r"`brand` must not be .* empty: rows 2, 3; give",
        ),
        (
            ["a", "b", "nan", "c"],
            ["train", "train", "test", "test"],
            r"`brand` must not be .* as text: row 3 \('nan'\)",
        ),
        (["a"] * 4, ["train"] * 4, r"`brand` must hold at least 2 groups, got 1: \['a'\]"),
        (
            list("abcd"),
            ["train", "eval", "test", None],
            r"`fold` must say train \(or training, tr\), validation \(or valid, val, dev\), test \(or testing\), "
            r"got rows 2 \('eval'\), 4 \(None\); correct these cells or remove the rows",
        ),
        (list("abcd"), [0, 1, 1, 2], r"`fold` must say train .* got rows 1 \(0\), 2 \(1\)"),
        (
            list("abcd"),
            ["train", "val", "val", "val"],
            r"`fold` must have items for train and for test, got 1 for train, 3",
        ),
        (list("abcd"), ["test"] * 4, r"`fold` must have items for train and for test, got 4 for test; correct"),
        (
            list("abab"),
            ["train", "test", "train", "validation"],
            r"  - `fold` must be the same for all items of a group, `brand`: "
            r"row 4 \('b' is for validation, in row 2 for test\)",
        ),
    ],
)
def test_groups_and_roles_that_are_none(tmp_path: Path, brands: list[object], folds: list[object], words: str) -> None:
    with pytest.raises(SourceError, match=words):
        check_source(grouped(tmp_path / "t.jsonl", brands, folds))


def test_columns_of_groups_and_roles_are_looked_for(tmp_path: Path) -> None:
    table = write_table(tmp_path / "t.parquet", [{**row, "group": "x"} for row in ROWS])
    with pytest.raises(SourceError) as caught:
        check_source(Source(table, "sku", "kind", ("group",), group="brand", split="fold"))
    for words in (
        "group column `brand` is missing",
        "split column `fold` is missing",
        "column `group` must not be called",
    ):
        assert words in str(caught.value)


ONE_OF_EACH = [1, "1", True, 1.0, "x"]


@pytest.mark.parametrize("suffix", [".jsonl", ".parquet"])
def test_labels_of_several_types_are_named(tmp_path: Path, suffix: str) -> None:
    if suffix == ".jsonl":
        rows = [{"sku": str(i), "kind": kind} for i, kind in enumerate(ONE_OF_EACH)]
        table = write_table(tmp_path / "t.jsonl", rows)
    else:  # a column of a Parquet file has one type; a directory may hold several files
        table = str(tmp_path)
        for i, kind in enumerate(ONE_OF_EACH):
            write_table(tmp_path / f"{i}.parquet", [{"sku": str(i), "kind": kind}])
    with pytest.raises(SourceError) as caught:
        check_source(Source(table, "sku", "kind"))
    for words in ("`kind` must hold values of one type", "(row 1: 1)", "(row 2: '1')", "(row 3: True)", "(row 4: 1.0)"):
        assert words in str(caught.value)


@pytest.mark.parametrize("suffix", [".csv", ".jsonl", ".parquet"])
def test_a_missing_label_is_no_class(tmp_path: Path, suffix: str) -> None:
    missing = [None, " ", "nan", "NaN", *([float("nan")] if suffix == ".jsonl" else [])]
    rows: list[dict[str, object]] = [{"sku": str(i), "kind": kind} for i, kind in enumerate(["a", "b", *missing])]
    with pytest.raises(SourceError) as caught:
        check_source(Source(write_table(tmp_path / f"t{suffix}", rows), "sku", "kind"))
    assert "null, NaN or empty: rows 3, 4" in str(caught.value)
    assert "written as text: rows 5 ('nan'), 6 ('NaN')" in str(caught.value)
    frame = pa.table({"sku": [1, 2, 3], "kind": [1.0, 2.0, float("nan")]})
    pq.write_table(frame, tmp_path / "n.parquet")
    with pytest.raises(
        SourceError, match=r"has 1 problem \(row 1 .*\n  - `kind` must not be null, NaN or empty: row 3;"
    ):
        check_source(Source(str(tmp_path / "n.parquet"), "sku", "kind"))


@pytest.mark.parametrize("suffix", [".csv", ".jsonl", ".parquet"])
def test_binary_text_is_named(tmp_path: Path, suffix: str) -> None:
    titles = ["plain", "PK\0\3", "\1\2\3 mostly", "one slip \2 in a long title", "tab\tand\nline"]
    rows: list[dict[str, object]] = [
        {"sku": str(i), "title": title, "kind": "ab"[i % 2] + "\1" * (i == 3)} for i, title in enumerate(titles)
    ]
    with pytest.raises(SourceError) as caught:
        check_source(Source(write_table(tmp_path / f"t{suffix}", rows), "sku", "kind", ("title",)))
    assert "`title` must hold text, got binary data in rows 2 ('PK\\x00\\x03'), 3 (" in str(caught.value)
    assert "`kind` must hold text, got binary data in row 4 ('b\\x01')" in str(caught.value)


def test_bytes_are_no_text(tmp_path: Path) -> None:
    pq.write_table(pa.table({"sku": ["1", "2"], "kind": [b"a", b"b"]}), tmp_path / "t.parquet")
    with pytest.raises(SourceError, match=r"`kind` must hold text, got bytes in rows 1 \(b'a'\), 2 .*convert"):
        check_source(Source(str(tmp_path / "t.parquet"), "sku", "kind"))


CSV = "sku,title,kind\n1,one,a\n2,café,b\n"

JSONL = '{"sku": 1, "title": "one", "kind": "a"}\n{"sku": 2, "title": "café", "kind": "b"}\n'


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        (
            "t.csv",
            CSV.encode("latin-1"),
            r"must be UTF-8, got b'caf\\xe9' in line 3 of `title`.*save the table as UTF-8",
        ),
        ("t.csv", b"sku,title,kind\n1,one,a\n2,two\n", r"parse error: row 2 of the data: Expected 3 columns, got 2"),
        ("t.csv", CSV.encode("utf-16"), r"in line 1, which looks like UTF-16"),
        ("t.csv", CSV.encode("utf-16-le"), r"UTF-16"),
        ("t.jsonl", JSONL.encode("latin-1"), r"must be UTF-8, got .*xe9.* in line 2 "),
        ("t.jsonl", JSONL.encode("utf-16"), r"in line 1, which looks like UTF-16"),
        ("t.jsonl", JSONL.replace("café", "\\ud800x").encode(), r"`title` must hold text, got half .* in line 2"),
        ("t.jsonl", JSONL.replace('"café"', "[" * 100_000).encode(), r"nested too deeply in line 2"),
        ("t.jsonl", JSONL.replace('"café"', "9" * 5000).encode(), r"a number of too many digits in line 2"),
        ("t.jsonl", JSONL.replace('"title"', '"\\udc00"').encode(), r"a key must hold text, got half .* in line 1"),
    ],
)
def test_what_is_no_text_in_utf_8_is_named(tmp_path: Path, name: str, content: bytes, words: str) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(SourceError, match=words):
        check_source(Source(str(tmp_path / name), "sku", "kind", ("title",)))


def test_undecodable_text_in_parquet_is_named(tmp_path: Path) -> None:
    titles = pa.array([b"a", b"caf\xe9"]).view(pa.string())
    pq.write_table(pa.table({"sku": ["1", "2"], "kind": ["a", "b"], "title": titles}), tmp_path / "t.parquet")
    with pytest.raises(SourceError, match=r"`title` must hold text in UTF-8, got b'caf\\xe9' in row 2 of the data"):
        check_source(Source(str(tmp_path / "t.parquet"), "sku", "kind", ("title",)))
