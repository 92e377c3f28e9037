"""The demonstration catalogue: the same bytes each time, a long tail, and nothing half-made."""

import itertools
import subprocess
import sys
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from PIL import Image

from study.demo import catalogue as demo
from study.demo.catalogue import make_catalogue
from study.errors import RunError

N_SMALL = 200


def contents(directory: Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(directory)): path.read_bytes() for path in sorted(directory.rglob("*")) if path.is_file()
    }


def expected_names(n_products: int) -> list[str]:
    return sorted(["catalogue.json", "products.parquet", *(f"images/p{i:05d}.png" for i in range(n_products))])


@pytest.fixture(scope="module")
def full(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_catalogue(tmp_path_factory.mktemp("full") / "catalogue")


@pytest.fixture
def small(tmp_path: Path) -> Path:
    return make_catalogue(tmp_path / "catalogue", n_products=N_SMALL).parent


def test_the_same_arguments_give_the_same_bytes(small: Path, tmp_path: Path) -> None:
    again = make_catalogue(tmp_path / "again", n_products=N_SMALL)
    assert contents(again.parent) == contents(small)


def test_another_seed_gives_another_catalogue(small: Path, tmp_path: Path) -> None:
    other = contents(make_catalogue(tmp_path / "other", n_products=N_SMALL, seed=1).parent)
    same = contents(small)
    assert other.keys() == same.keys()
    assert other["products.parquet"] != same["products.parquet"]
    assert other["images/p00000.png"] != same["images/p00000.png"]


def test_every_product_is_whole(full: Path) -> None:
    rows = pq.read_table(full).to_pylist()
    assert len(rows) == 3200
    assert list(rows[0]) == ["id", "title", "description", "category", "image"]
    assert len({row["id"] for row in rows}) == len(rows)
    assert all(isinstance(value, str) and value.strip() for row in rows for value in row.values())
    assert sorted(contents(full.parent)) == expected_names(3200)
    for row in rows:
        with Image.open(full.parent / row["image"]) as picture:
            picture.load()
            assert (picture.mode, picture.size) == ("RGB", (64, 64))
    assert sum(map(len, contents(full.parent).values())) < 15e6


def test_classes_have_a_long_tail(full: Path) -> None:
    labels = np.array(pq.read_table(full)["category"].to_pylist())
    counts = np.sort(np.unique(labels, return_counts=True)[1])[::-1]
    assert counts.size == 50
    assert counts[0] > 5 * np.median(counts)
    rare = counts[counts <= 6]
    assert rare.size == 20
    assert rare.min() == 2
    for seed, fraction in itertools.product(range(5), (0.1, 0.2)):
        train = np.random.default_rng(seed).permutation(labels)[: int(fraction * labels.size)]
        assert np.unique(train).size <= counts.size - 3


def test_titles_often_leave_the_product_out_and_texts_vary(full: Path) -> None:
    columns = pq.read_table(full).to_pydict()
    nouns = {entry.name: entry.nouns for _, entries in demo._families() for entry in entries}
    titles = zip(columns["title"], columns["category"], strict=True)
    named = np.mean([any(noun.lower() in title.lower() for noun in nouns[category]) for title, category in titles])
    assert 0.5 < named < 0.8
    assert len(set(columns["description"])) > 0.99 * 3200


def test_the_vocabulary_is_well_formed() -> None:
    families = demo._families()
    names = [entry.name for _, entries in families for entry in entries]
    assert len(set(names)) == len(names)
    for shared, entries in families:
        assert len(entries) == len(demo._PARTS)
        assert shared.materials
        for entry in (shared, *entries):
            assert len(entry.nouns) >= 3
            assert len(entry.cues) >= 4
            assert all(words == words.strip() and words for words in entry.nouns + entry.cues)


def test_a_complete_catalogue_is_left_alone(small: Path) -> None:
    before = {path: path.stat().st_mtime_ns for path in small.rglob("*")}
    assert make_catalogue(small, n_products=N_SMALL) == small / "products.parquet"
    assert {path: path.stat().st_mtime_ns for path in small.rglob("*")} == before


@pytest.mark.parametrize("damage", ["products.parquet", "catalogue.json", "images/p00007.png"])
@pytest.mark.parametrize("how", ["missing", "cut"])
def test_an_incomplete_catalogue_is_remade(small: Path, damage: str, how: str) -> None:
    whole = contents(small)
    if how == "missing":
        (small / damage).unlink()
    else:
        (small / damage).write_bytes(whole[damage][:40])
    make_catalogue(small, n_products=N_SMALL)
    assert contents(small) == whole
    assert [path.name for path in small.parent.iterdir()] == [small.name]


def test_a_catalogue_of_other_arguments_is_replaced(small: Path) -> None:
    make_catalogue(small, n_products=N_SMALL - 20, seed=3)
    assert sorted(contents(small)) == expected_names(N_SMALL - 20)


def test_an_interruption_leaves_nothing_and_the_next_call_makes_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    draw, drawn = demo._draw, itertools.count()

    def interrupted(*arguments: object) -> object:
        if next(drawn) == 50:
            raise KeyboardInterrupt
        return draw(*arguments)  # type: ignore[arg-type]

    with monkeypatch.context() as patch:
        patch.setattr(demo, "_draw", interrupted)
        with pytest.raises(KeyboardInterrupt):
            make_catalogue(tmp_path / "catalogue", n_products=N_SMALL)
    assert list(tmp_path.iterdir()) == []
    make_catalogue(tmp_path / "catalogue", n_products=N_SMALL)
    assert sorted(contents(tmp_path / "catalogue")) == expected_names(N_SMALL)


def test_what_a_killed_process_left_aside_is_cleared(tmp_path: Path) -> None:
    left = tmp_path / ".catalogue.partial" / "images"
    left.mkdir(parents=True)
    (left / "p99999.png").write_bytes(b"half")
    make_catalogue(tmp_path / "catalogue", n_products=N_SMALL)
    assert [path.name for path in tmp_path.iterdir()] == ["catalogue"]
    assert sorted(contents(tmp_path / "catalogue")) == expected_names(N_SMALL)


def test_somebody_elses_files_are_never_replaced(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("mine")
    for place in (tmp_path, tmp_path / "notes.txt"):
        with pytest.raises(RunError, match="choose another directory"):
            make_catalogue(place, n_products=N_SMALL)
    assert contents(tmp_path) == {"notes.txt": b"mine"}


def test_arguments_out_of_range_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"`n_products` must be at least 140, got 139"):
        make_catalogue(tmp_path / "catalogue", n_products=139)
    with pytest.raises(ValueError, match=r"`seed` must be 0 or above, got -1"):
        make_catalogue(tmp_path / "catalogue", seed=-1)
    assert list(tmp_path.iterdir()) == []
    make_catalogue(tmp_path / "catalogue", n_products=140)


def test_importing_it_is_light() -> None:
    heavy = "{'torch', 'ray', 'optuna', 'mlflow', 'pyarrow', 'PIL', 'pandas'}"
    code = f"import sys, study.demo.catalogue; print(sorted({heavy} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
