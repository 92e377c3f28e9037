"""`study init`: files from presets, and files for tables that need no editing."""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import yaml
from PIL import Image

from study.config.load import check_spec, load_spec
from tests.study_tests.conftest import MODEL, Command

KINDS = ["shirt", "shoe", "watch", "bag", "belt", "sock", "scarf", "hat"]


def table(n: int, **columns: Any) -> pd.DataFrame:
    """Rows of ids, texts of several words and eight classes, with other columns in their place or besides."""
    rng = np.random.default_rng(0)
    kinds = rng.choice(KINDS, n)
    own = {"id": np.arange(n), "text": [f"a {kind} of number {row}" for row, kind in enumerate(kinds)], "label": kinds}
    return pd.DataFrame({name: value for name, value in {**own, **columns}.items() if value is not None})


def vectors(n: int, length: int = 4) -> list[list[float]]:
    return list(np.random.default_rng(1).normal(size=(n, length)).tolist())


def written(folder: Path, command: Command, rows: pd.DataFrame, *options: str, name: str = "things.csv") -> Any:
    """Write a table, make a study file for it, check that, and return the contents."""
    if name.endswith(".csv"):
        rows.to_csv(folder / name, index=False)
    else:
        rows.to_parquet(folder / name, index=False)
    file = folder / "study.yaml"
    code, out, err = command("init", "--table", str(folder / name), "-o", str(file), *options)
    assert (code, err) == (0, ""), err
    assert out.startswith(f"{file} written. {len(rows):,} rows, ")
    assert out.endswith(f" Next: study check -c {file}\n")
    code, said, err = command("check", "-c", str(file))
    assert (code, err) == (0, ""), err
    assert "cannot converge" not in said
    return yaml.safe_load(file.read_text())


@pytest.mark.parametrize(
    ("n", "splits", "training"),
    [
        (
            200,
            {"design": "reverse_folds", "train_fraction": 0.2, "n_splits": 5, "stratify": True},
            {"epochs": 192, "batch_size": 16},
        ),
        (
            3_000,
            {"design": "folds", "train_fraction": 0.8, "n_splits": 5, "stratify": True},
            {"epochs": 96, "batch_size": 128},
        ),
        (
            50_000,
            {"design": "reverse_folds", "train_fraction": 0.1, "n_splits": 5},
            {"epochs": 96, "batch_size": 128},
        ),
    ],
)
def test_the_protocol_suits_the_size_of_the_table(
    tmp_path: Path, command: Command, n: int, splits: Mapping[str, Any], training: Mapping[str, Any]
) -> None:
    found = written(tmp_path, command, table(n))
    assert found["data"] == {"table": str(tmp_path / "things.csv"), "id": "id", "label": "label", "text": ["text"]}
    assert found["encoders"] == {"text": {"model": MODEL}}
    assert found["splits"] == splits
    assert training.items() <= found["training"].items()
    assert (found["name"], found["directory"]) == ("things", "studies/things")


def test_small_classes_are_cross_validated(tmp_path: Path, command: Command) -> None:
    """A part of few rows would hold no item of many of them."""
    found = written(tmp_path, command, table(300, label=[f"class {row % 40}" for row in range(300)]))
    assert found["splits"]["design"] == "folds"


def test_an_official_split_is_used(tmp_path: Path, command: Command) -> None:
    parts = np.random.default_rng(2).choice(["Train", "dev", "test"], 3_000, p=[0.7, 0.1, 0.2])
    found = written(tmp_path, command, table(3_000, part=parts))
    assert found["data"]["split"] == "part"
    assert found["splits"] == {"design": "official", "n_splits": 5}


def test_pictures_are_used_with_texts(tmp_path: Path, command: Command) -> None:
    for shade in range(4):
        Image.new("RGB", (8, 8), (shade, 0, 0)).save(tmp_path / f"{shade}.png")
    files = [f"{row % 4}.png" for row in range(300)]
    found = written(tmp_path, command, table(300, photo=files))
    assert (found["data"]["image"], found["data"]["text"]) == ("photo", ["text"])
    assert found["encoders"].keys() == {"text", "image"}
    (tmp_path / "study.yaml").unlink()
    found = written(tmp_path, command, table(300, photo=["", *files[1:]]))
    assert "image" not in found["data"], "a row has none"
    assert "  # image: photo  " in (tmp_path / "study.yaml").read_text()


def test_vectors_take_the_place_of_texts(tmp_path: Path, command: Command) -> None:
    rows = table(300, id=None, embedding=vectors(300), tags=[["a"]] * 300)
    found = written(tmp_path, command, rows, name="things.parquet")
    assert found["data"] == {"table": str(tmp_path / "things.parquet"), "label": "label", "vectors": ["embedding"]}
    assert "encoders" not in found
    text = (tmp_path / "study.yaml").read_text()
    assert re.search(r"^  # text: \[text\] +# also an input; needs encoders.text$", text, re.M)


def test_columns_encoder_and_files_are_those_that_are_named(
    tmp_path: Path, command: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = table(300, key="x", customer=np.arange(300) % 60, colour=["red", "blue"] * 150)
    rows["other: text"] = rows["text\nof two lines"] = rows["text"] + " again"
    np.save(tmp_path / "own.npy", np.array(vectors(300)))
    (tmp_path / "model").mkdir()
    monkeypatch.chdir(tmp_path)
    rows.to_csv("things.csv", index=False)
    options = ["--label", "colour", "--group", "customer", "--text", "text", "--text", "other: text"]
    options += ["--text", "text\nof two lines"]
    options += ["--vectors", "own=own.npy", "--encoder", "model", "-o", "new/folder/study.yaml"]
    assert command("init", "--table", "things.csv", *options)[0] == 0
    found = yaml.safe_load(Path("new/folder/study.yaml").read_text())
    assert found["data"] == {
        "table": "../../things.csv",
        "id": "id",
        "label": "colour",
        "text": ["text", "other: text", "text\nof two lines"],
        "vectors": {"own": "../../own.npy"},
        "group": "customer",
    }
    assert found["encoders"]["text"] == {"model": "../../model"}


def test_every_choice_in_a_comment_is_valid(tmp_path: Path, command: Command) -> None:
    """Each line is tried alone, in place of the line of its key."""
    written(tmp_path, command, table(3_000, id=None, other=np.arange(3_000)))
    lines = (tmp_path / "study.yaml").read_text().split("\n")
    choices = [index for index, line in enumerate(lines) if re.match(r" *# [a-z_]+: ", line)]
    assert len(choices) == 10
    for index in choices:
        kept = lines[: index - 1] if "# in its place" in lines[index] else lines[:index]
        choice = lines[index].replace("# ", "", 1).replace("COLUMN", "other")
        check_spec(
            yaml.safe_load("\n".join([*kept, choice, *lines[index + 1 :]])), tmp_path / "study.yaml", encodes=False
        )


def test_the_directory_of_another_study_is_left_alone(tmp_path: Path, command: Command) -> None:
    (tmp_path / "studies" / "things").mkdir(parents=True)
    assert written(tmp_path, command, table(200))["directory"] == "studies/things-2"


@pytest.mark.parametrize(
    ("rows", "options", "expected"),
    [
        (table(200, label=None, gender=["m", "f"] * 100, season=["s", "w"] * 100), (), "may be `gender`, `season`;"),
        (table(200, label=None), (), r"--label must name the column of the classes, and none is clearly it; name it; "),
        (
            table(200, text=None),
            (),
            r"--text \(or --image, --vectors\) must name .*; the columns are `id` \(number, 200",
        ),
        (table(200), ("--label", "labl"), r"--label names the column `labl`, .* \(did you mean `label`\?\); its"),
        (table(200), ("--text", "txt"), r"--text names the column `txt`, which .* \(did you mean `text`\?\); its"),
        (table(200), ("--split", "label", "--label", "id"), r"`label` must say train \(or training, tr\), "),
        (table(200), ("--vectors", "text"), r"`text` must hold lists of numbers, which CSV has not"),
        (table(200, label=["a", ""] * 100), (), r"`label` must not be null, NaN or empty: rows 2, 4"),
        (table(0), (), r"it must hold items, it has no rows"),
        (
            table(20),
            (),
            r"must have a batch of 16 rows to train on, .*; give about \d+ rows of this kind: 20 are",
        ),
        (
            table(200),
            ("--encoder", "package://no_package/x"),
            r"--encoder names the Python package `no_package`, which",
        ),
        (table(200, text=None, pic="a.png"), ("--encoder", "x/y"), r"`pic` must name an image that exists"),
        (table(200, **{"a\x01b": "x"}), ("--text", "a\x01b"), r"its columns must have names of plain text: .*; rename"),
        (table(200), ("nested",), r"Give a PRESET or a --table, not both\."),
    ],
)
def test_what_is_not_clear_is_one_message(
    tmp_path: Path, command: Command, rows: pd.DataFrame, options: tuple[str, ...], expected: str
) -> None:
    rows.to_csv(tmp_path / "things.csv", index=False)
    file = tmp_path / "study.yaml"
    code, out, said = command("init", "--table", str(tmp_path / "things.csv"), "-o", str(file), *options)
    assert (code, out) == (2, "")
    assert re.search(expected, said), said
    assert said.count("Error: ") == 1
    assert not file.exists()


def test_no_table_and_a_file_that_exists(tmp_path: Path, command: Command) -> None:
    file = tmp_path / "study.yaml"
    code, _, said = command("init", "--table", str(tmp_path / "none.csv"), "-o", str(file))
    assert (code, "there is no table at" in said) == (2, True)
    assert "need --table" in command("init", "--label", "x", "-o", str(file))[2]
    assert command("init", "paper", "-o", str(file))[0] == 0
    assert load_spec(file, encodes=False).name == "paper"
    assert f"{file} exists" in command("init", "--table", "none.csv", "-o", str(file))[2]
