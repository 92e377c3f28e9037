"""The order in which to label, and the page that shows it."""

import io
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from embedding_jobs.sources.items import Source
from study.labelling.items import RankedItem, label_csv
from study.labelling.page import label_page
from study.labelling.ranking import rank


def logit(confidence: np.ndarray) -> np.ndarray:
    return np.asarray(np.log(confidence / (1 - confidence)))


def reference(confidence: np.ndarray, embeddings: np.ndarray, n_top: int) -> list[int]:
    """Doubt times distance, one item at a time, by definition."""
    unit = embeddings / np.linalg.norm(embeddings, axis=1, keepdims=True)
    taken: list[int] = []
    for _ in range(n_top):
        best, best_value = -1, -np.inf
        for item in np.argsort(confidence, kind="stable").tolist():
            distance = min((1 - float(unit[item] @ unit[other]) for other in taken), default=1.0)
            if item not in taken and (1 - confidence[item]) * max(distance, 0.0) > best_value:
                best, best_value = item, (1 - confidence[item]) * max(distance, 0.0)
        taken.append(best)
    return taken


def test_the_top_is_that_of_the_definition() -> None:
    rng = np.random.default_rng(0)
    confidence, embeddings = rng.random(40), rng.normal(size=(40, 6)).astype(np.float32)
    order = rank(logit(confidence), np.zeros(40, bool), embeddings, 8)
    assert order[:8].tolist() == reference(confidence, embeddings, 8)
    assert sorted(order.tolist()) == list(range(40))
    assert (np.diff(confidence[order[8:]]) >= 0).all()


@pytest.mark.parametrize("n_top", [1, 5, 20, 60, 100])
def test_none_comes_first_and_every_item_has_its_place(n_top: int) -> None:
    rng = np.random.default_rng(1)
    confidence, embeddings = rng.random(60), rng.normal(size=(60, 4)).astype(np.float32)
    is_none = confidence < 0.3
    order = rank(logit(confidence), is_none, embeddings, n_top)
    assert sorted(order.tolist()) == list(range(60))
    assert is_none[order[: is_none.sum()]].all()


def test_near_duplicates_do_not_fill_the_top() -> None:
    rng = np.random.default_rng(2)
    embeddings = rng.normal(size=(30, 8)).astype(np.float32)
    embeddings[:20] = embeddings[0] + 1e-4 * rng.normal(size=(20, 8))
    confidence = np.concatenate([np.full(20, 0.1), np.full(10, 0.5)])  # the like ones are the least certain
    top = rank(logit(confidence), np.zeros(30, bool), embeddings, 10)[:10]
    assert (top < 20).sum() <= 1 + 10 - 9


def test_confidences_that_round_to_one_are_still_ranked() -> None:
    logits = np.random.default_rng(3).permutation(np.linspace(40, 60, 30)).astype(np.float32)
    order = rank(logits, np.zeros(30, bool), np.eye(30, dtype=np.float32), 5)
    assert order.tolist() == np.argsort(logits).tolist()


def item(place: int, **changes: object) -> RankedItem:
    facts = {"row": place, "id": f"i{place}", "texts": {}, "image": None} | changes
    return RankedItem(rank=place + 1, predicted="none", confidence=0.25, most_probable="shoe", **facts)  # type: ignore[arg-type]


def test_the_list_holds_no_formula() -> None:
    listed = label_csv([item(0, id="=1+1", texts={"title": "@SUM(A1)"}), item(1, texts={"title": "plain, text"})])
    assert listed.splitlines() == [
        "rank,id,predicted,confidence,most_probable,title,image",
        "1,'=1+1,none,0.250000,shoe,'@SUM(A1),",
        '2,i1,none,0.250000,shoe,"plain, text",',
    ]


def test_the_page_shows_texts_and_pictures_escaped(tmp_path: Path) -> None:
    Image.new("RGBA", (500, 300), "red").save(tmp_path / "valid.png")
    (tmp_path / "broken.png").write_bytes(b"no picture")
    source = Source(str(tmp_path / "table.csv"), "id", "id", ("title",), "image")
    evil = "<script>alert(1)</script>"
    items = [
        item(0, texts={"title": evil}, image="valid.png"),
        item(1, id=evil, texts={"title": ""}, image="broken.png"),
        item(2, texts={"title": "x"}, image="missing.png"),
    ]
    page = label_page(items, 1234, source, evil, "control")
    assert evil not in page
    assert page.count("<img ") == page.count("data:image/jpeg;base64,") == 1
    assert "The first 3 of 1,234 items" in page


def test_pictures_that_lie_in_the_table_are_shown(tmp_path: Path) -> None:
    stream = io.BytesIO()
    Image.new("RGB", (30, 30), "blue").save(stream, "PNG")
    table = tmp_path / "table.parquet"
    pd.DataFrame({"id": ["a", "b"], "image": [None, stream.getvalue()]}).to_parquet(table)
    source = Source(str(table), "id", "id", (), "image")
    assert label_page([item(1), item(0)], 2, source, "s", "m").count("<img ") == 1
