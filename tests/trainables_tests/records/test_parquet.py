"""Record files: whole or absent, exact, and refused when damaged."""

from collections.abc import Callable
from dataclasses import fields, replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from trainables.records.parquet import (
    read_packs,
    read_records,
    record_files,
    record_name,
    set_aside_damaged,
    write_records,
)
from trainables.records.types import (
    AUTO,
    TEST,
    Candidate,
    Curves,
    DamagedRecordError,
    ItemResults,
    RecordError,
    SplitId,
    TrialConfig,
    TrialRecord,
)


def record(split: int = 0, method: str = "e_mixup", n: int = 5, **params: float) -> TrialRecord:
    rng = np.random.default_rng(split)
    points = {field.name: rng.random(4).astype(np.float32) for field in fields(Curves)}
    points["epoch_accuracy_none"][1] = np.nan
    points["epoch_cka"] = rng.random((4, 3)).astype(np.float32)
    points["epoch_cka"][2:] = np.nan
    items = ItemResults(
        item=np.arange(n, dtype=np.int32),
        label=rng.integers(0, 3, n).astype(np.int32),
        known=rng.random(n) < 0.5,
        predicted=rng.integers(0, 3, n).astype(np.int32),
        logit=rng.normal(size=n).astype(np.float32),
        correct=rng.random(n) < 0.5,
        auc_influence=rng.random(n).astype(np.float32),
        nll=rng.random(n).astype(np.float32),
        joint_energy=rng.integers(0, 9, n).astype(np.int32),
    )
    return TrialRecord(
        config=TrialConfig(TEST, Candidate.of(method, params), SplitId(split)),
        metrics={"auc_weighted": 0.1 + split, "accuracy_none": float("nan")},
        curves=Curves(**points),
        items=items,
        started_at_s=1.5e9,
        duration_s=0.25,
        provenance={"torch": "2"},
    )


def test_round_trip(tmp_path: Path) -> None:
    written = [record(0, alpha=0.1), record(1, alpha=0.1)]
    write_records(tmp_path, written)
    for before, after in zip(written, read_records(tmp_path, with_items=True), strict=True):
        assert after.config == before.config
        assert after.metrics["auc_weighted"] == before.metrics["auc_weighted"]
        assert np.isnan(after.metrics["accuracy_none"])
        assert after.provenance == before.provenance
        assert (after.started_at_s, after.duration_s) == (before.started_at_s, before.duration_s)
        for kind in ("curves", "items"):
            for field in fields(getattr(before, kind)):
                expected, got = getattr(getattr(before, kind), field.name), getattr(getattr(after, kind), field.name)
                np.testing.assert_array_equal(got, expected)
                assert got.dtype == expected.dtype
    assert read_records(tmp_path)[0].items is None


def test_hyperparameters_survive_exactly(tmp_path: Path) -> None:
    alpha = 0.1 + 0.2
    write_records(tmp_path, [record(alpha=alpha)])
    assert read_records(tmp_path)[0].config.candidate == Candidate.of("e_mixup", {"alpha": alpha})


def test_names_are_readable_and_unique() -> None:
    names = {
        record_name([TrialConfig(TEST, Candidate.of("e_mixup", {"alpha": alpha}), SplitId(split))])
        for alpha in (0.3, 0.1 + 0.2)
        for split in (0, 1)
    }
    assert len(names) == 4
    assert all(name.startswith("test-e_mixup-alpha=0.3-") for name in names)


def test_the_objective_is_part_of_the_name() -> None:
    plain, contrastive = Candidate("deep_pca"), Candidate("contrastive_deep_pca")
    assert (plain.objective, plain.augmentation) == ("supervised", "deep_pca")
    assert (contrastive.objective, contrastive.augmentation) == ("contrastive", "deep_pca")


def test_nothing_is_left_when_writing_fails(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*args: object, **kwargs: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "write_bytes", full)
    with pytest.raises(OSError, match="No space left"):
        write_records(tmp_path, [record()])
    assert list(tmp_path.iterdir()) == []


def test_half_written_files_are_not_seen(tmp_path: Path) -> None:
    path = write_records(tmp_path, [record()])
    (tmp_path / f".{path.name}.123.tmp").write_bytes(path.read_bytes()[:100])
    assert len(read_records(tmp_path)) == 1


@pytest.mark.parametrize("kept", [0, 100, -10])
def test_a_damaged_file_is_named(tmp_path: Path, kept: int) -> None:
    path = write_records(tmp_path, [record()])
    path.write_bytes(path.read_bytes()[:kept])
    with pytest.raises(DamagedRecordError, match=f"{path.name} is damaged.*`study run` sets it aside"):
        read_records(tmp_path)


@pytest.mark.parametrize("read", [read_records, read_packs])
def test_every_flipped_bit_is_an_error(tmp_path: Path, read: Callable[[Path], object]) -> None:
    path = write_records(tmp_path, [record(split, n=300, alpha=0.3) for split in range(3)])
    content = path.read_bytes()
    for position in np.random.default_rng(0).choice(8 * len(content), 600, replace=False):
        flipped = bytearray(content)
        flipped[position // 8] ^= 1 << position % 8
        path.write_bytes(flipped)
        with pytest.raises(DamagedRecordError, match=path.name):
            read(tmp_path)


def test_a_damaged_file_is_set_aside_and_kept(tmp_path: Path) -> None:
    sound, path = write_records(tmp_path, [record(0)]), write_records(tmp_path, [record(1)])
    for suffix in (".damaged", ".damaged-2"):
        write_records(tmp_path, [record(1)])
        content = path.read_bytes()[:-1] + b"x"
        path.write_bytes(content)
        (said,) = set_aside_damaged(tmp_path)
        assert f"{path} is damaged" in said
        assert f"set aside as {path.name}{suffix}, " in said
        assert (tmp_path / f"{path.name}{suffix}").read_bytes() == content
        assert record_files(tmp_path) == [sound]
        assert [one.config.split for one in read_records(tmp_path)] == [SplitId(0)]


def test_other_programs_find_checksums_of_the_pages(tmp_path: Path) -> None:
    path = write_records(tmp_path, [record(0, n=300)])
    table = pq.read_table(path, page_checksum_verification=True)
    assert table.num_rows == 1
    content = bytearray(path.read_bytes())
    content[len(content) // 4] ^= 1
    with pytest.raises(OSError, match="CRC checksum verification failed"):
        pq.read_table(pa.BufferReader(bytes(content)), page_checksum_verification=True)


def test_a_foreign_parquet_file_is_refused(tmp_path: Path) -> None:
    pq.write_table(pa.table({"x": [1]}), tmp_path / "other.parquet")
    with pytest.raises(RecordError, match=r"other\.parquet is damaged, or no record file"):
        read_records(tmp_path)


def test_a_record_of_another_version_is_refused_and_left_where_it_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("trainables.records.parquet._FORMAT", 99)
    path = write_records(tmp_path, [record()])
    monkeypatch.undo()
    with pytest.raises(RecordError, match=r"not a record file of format \d+ \(found 99\)"):
        read_records(tmp_path)
    assert set_aside_damaged(tmp_path) == []
    assert path.exists()


def test_the_layer_auto_is_written_as_the_study_file_says_it() -> None:
    candidate = Candidate.of("deep_pca", {"components": 32, "layer": AUTO})
    assert str(candidate) == "deep_pca(components=32, layer=auto)"
    assert record_name([TrialConfig(TEST, candidate, SplitId(0))]).startswith("test-deep_pca-components=32-layer=auto-")


def test_a_trial_recorded_twice_is_an_error(tmp_path: Path) -> None:
    write_records(tmp_path, [record(0), record(1)])
    write_records(tmp_path, [replace(record(1))])
    with pytest.raises(RecordError, match="e_mixup on test split 1 is recorded twice"):
        read_records(tmp_path)
