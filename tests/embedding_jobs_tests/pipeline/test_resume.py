"""Stores that were left half done, damaged, or whose table has changed: repaired or refused, never silently wrong."""

from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import ray

from embedding_jobs.encoders.config import CustomEncoderConfig
from embedding_jobs.errors import EncoderError, SourceError, StoreError
from embedding_jobs.pipeline import extract as extract_module
from embedding_jobs.pipeline.extract import check_extraction, extract, run_extraction
from embedding_jobs.pipeline.pool import EncoderPool
from embedding_jobs.pipeline.summary import ExtractionProgress
from embedding_jobs.pipeline.workers import Job, Unit, WrittenUnit
from embedding_jobs.sources.items import Source
from embedding_jobs.store.store import Store

pytestmark = pytest.mark.usefixtures("ray_session")

Contents = Callable[[Path], dict[str, bytes]]


class Stopped(Exception):
    pass


def write_table(path: Path, titles: list[str]) -> Source:
    columns = {
        "id": [f"item-{i}" for i in range(len(titles))],
        "label": [str(i % 2) for i in range(len(titles))],
        "title": titles,
        "text": [title[::-1] for title in titles],
    }
    pq.write_table(pa.table(columns), path)
    return Source(str(path), "id", "label", ("title",))


@pytest.fixture
def source(tmp_path: Path) -> Source:
    """Ninety titles, thirty of them repeated."""
    return write_table(tmp_path / "table.parquet", [f"word{i % 60} and {i % 60 % 7}" for i in range(90)])


def stop_after(n_units: int) -> Callable[[ExtractionProgress], None]:
    def stop(progress: ExtractionProgress) -> None:
        if progress.n_inputs_done >= 10 * n_units:
            raise Stopped

    return stop


def test_interrupted_run_is_continued_past_damage_and_changes(
    source: Source, tmp_path: Path, word_config: CustomEncoderConfig, contents: Contents
) -> None:
    store = tmp_path / "store"
    with pytest.raises(Stopped):
        extract(source, {"title": word_config}, store, rows_per_shard=20, on_progress=stop_after(4))
    with pytest.raises(StoreError, match=r"must have .*manifest.json"):
        Store(store).load(["title"])
    assert Store(store).describe()[0].problem
    units = sorted((store / ".units" / "title--words").glob("*.arrow"))
    assert len(units) >= 4
    units[0].write_bytes(units[0].read_bytes()[:100])
    (store / ".units" / "title--words" / f".x.arrow.{'0' * 32}.tmp").write_bytes(b"half")
    (store / "title--words" / f".part-00000.parquet.{'0' * 32}.tmp").write_bytes(b"half")
    # The table changes while the column is unfinished: what depends on it is made again, and nothing else is.
    titles = pq.read_table(source.table).column("title").to_pylist()
    changed = write_table(Path(source.table), [*titles[:40], "another title", *titles[41:]])
    extract(changed, {"title": word_config}, store, rows_per_shard=20)
    extract(changed, {"title": word_config}, tmp_path / "fresh", rows_per_shard=20)
    assert contents(store) == contents(tmp_path / "fresh")


@pytest.mark.slow
def test_encoding_goes_on_without_a_node_that_has_gone(
    source: Source,
    tmp_path: Path,
    word_config: CustomEncoderConfig,
    contents: Contents,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Ray gives up a unit whose encoder cannot be reached before it knows that the node is gone."""
    whole = extract_module._pipeline
    given: list[list[int]] = []

    def cut_off(units: list[Unit], job: Job, pool: EncoderPool) -> Iterator[WrittenUnit]:
        given.append([unit.index for unit in units])
        for n_taken, unit in enumerate(whole(units, job, pool), start=1):
            yield unit
            if n_taken == len(given) < 3:
                raise ray.exceptions.ActorUnavailableError("gone", None)

    monkeypatch.setattr(extract_module, "_NODE_LOST_WAIT_S", 0.0)
    monkeypatch.setattr(extract_module, "_pipeline", cut_off)
    extract(source, {"title": word_config}, tmp_path / "cut", rows_per_shard=20)
    assert [len(units) for units in given] == [6, 5, 3]
    monkeypatch.setattr(extract_module, "_pipeline", whole)
    extract(source, {"title": word_config}, tmp_path / "fresh", rows_per_shard=20)
    assert contents(tmp_path / "cut") == contents(tmp_path / "fresh")

    alive = [{"a", "b"}]
    monkeypatch.setattr(extract_module, "_alive_nodes", lambda: alive[0])
    monkeypatch.setattr(extract_module, "_WATCH_EVERY_S", 0.01)

    def lose_a_node(progress: ExtractionProgress) -> None:
        if progress.n_inputs_done:
            alive[0] = {"a"}

    extract(source, {"title": word_config}, tmp_path / "less", rows_per_shard=20, on_progress=lose_a_node)
    assert contents(tmp_path / "less") == contents(tmp_path / "fresh")

    def gone(units: list[Unit], job: Job, pool: EncoderPool) -> Iterator[WrittenUnit]:
        raise ray.exceptions.ActorUnavailableError("gone", None)
        yield

    monkeypatch.setattr(extract_module, "_pipeline", gone)
    with pytest.raises(EncoderError, match=r"died 4 times on one unit: .*check that the cluster's nodes stay up"):
        extract(source, {"title": word_config}, tmp_path / "gone", rows_per_shard=20)


def test_columns_share_an_encoder_and_are_added_beside_what_is_there(
    source: Source, tmp_path: Path, word_config: CustomEncoderConfig, contents: Contents
) -> None:
    store = tmp_path / "store"
    both = replace(source, text=("title", "text"))
    extract(source, {"title": word_config}, store, rows_per_shard=20)
    alone = contents(store)
    summary = extract(both, {"title": word_config, "text": word_config}, store)
    assert [column.n_inputs_encoded for column in summary] == [0, 60]
    now = contents(store)
    assert all(now[name] == data for name, data in alone.items() if name.startswith("title--words/"))
    extract(both, {"title": word_config, "text": word_config}, tmp_path / "fresh", rows_per_shard=20)
    assert contents(tmp_path / "fresh") == now
    first, second = Store(store).load(["title", "text"]), Store(store).load(["text", "title"])
    np.testing.assert_array_equal(first.matrix[:, :64], second.matrix[:, 64:])
    assert first.digest != second.digest
    # A run that names fewer columns keeps the others' inputs.
    extract(source, {"title": word_config}, store)
    assert contents(store) == now

    # A second encoder of one column: the data's name alone is then not enough.
    extract(source, {"title": replace(word_config, model="narrow", options={"dimension": 32})}, store)
    with pytest.raises(StoreError, match="it fits title--narrow and title--words"):
        Store(store).load(["title"])
    assert Store(store).load(["title--narrow"]).matrix.shape == (90, 32)
    assert Store(store).remove("title--narrow") == "title--narrow"
    assert contents(store) == now


def test_unreadable_items_are_written_again_and_other_rows_refused(
    source: Source, tmp_path: Path, word_config: CustomEncoderConfig, contents: Contents
) -> None:
    store = tmp_path / "store"
    extract(source, {"title": word_config}, store, rows_per_shard=20)
    whole = contents(store)
    for damage in ("manifest.json", "part-00001.parquet"):
        (store / "items" / damage).write_bytes(b"{]")
        with pytest.raises(StoreError, match=f"{damage} must be readable"):
            Store(store).load(["title"])
        assert [entry.file for entry in Store(store).verify()] == [damage]
        assert extract(source, {"title": word_config}, store)[0].n_inputs_encoded == 0
        assert contents(store) == whole
    rows = pq.read_table(source.table)
    pq.write_table(rows.take([*range(1, 90), 0]), source.table)
    with pytest.raises(StoreError, match=r"the ids of .* must be what the store .* was made from"):
        extract(source, {"title": word_config}, store)
    assert contents(store) == whole


def test_one_run_at_a_time(source: Source, tmp_path: Path, word_config: CustomEncoderConfig) -> None:
    store = tmp_path / "store"

    def second(_: ExtractionProgress) -> None:
        extract(source, {"title": word_config}, store)

    with pytest.raises(StoreError, match="Another run writes to"):
        extract(source, {"title": word_config}, store, on_progress=second)


def test_a_table_that_changes_while_it_is_read_leaves_the_items(
    source: Source, tmp_path: Path, word_config: CustomEncoderConfig, contents: Contents
) -> None:
    store = tmp_path / "store"
    extract(source, {"title": word_config}, store, rows_per_shard=20)
    before = contents(store)
    rows = pq.read_table(source.table)
    relabelled = rows.set_column(1, "label", pa.array([str(i % 3) for i in range(90)]))
    pq.write_table(relabelled, source.table)
    checked = check_extraction(source, {"title": word_config}, store)
    pq.write_table(rows.set_column(1, "label", pa.array([str(i % 4) for i in range(90)])), source.table)
    with pytest.raises(SourceError, match="changed while it was read"):
        run_extraction(checked)
    assert contents(store) == before
    pq.write_table(relabelled, source.table)
    run_extraction(checked)
    assert Store(store).load(["title"]).labels.tolist() == [str(i % 3) for i in range(90)]
