"""Kills: of the driver, of workers, of a node. What is recorded and tracked in the end is that of a quiet run."""

import os
import random
import re
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import mlflow
import pandas as pd
import pytest
import yaml

from analysis.results.mlflow_schema import KEY_TAG
from tests.study_tests.conftest import settings, write_table
from trainables.records.parquet import read_records

pytestmark = pytest.mark.slow

N_CANDIDATES, N_SPLITS = 13, 2

ALPHAS = [round(0.05 * (1 + index), 2) for index in range(N_CANDIDATES - 1)]


def write_study(folder: Path, directory: str) -> Path:
    """A study of some twenty seconds of training, whose results do not depend on its directory."""
    path = folder / f"{directory}.yaml"
    raw = settings(
        directory=directory,
        training={"epochs": 1200, "evaluate_every_epochs": 200},
        splits={"n_splits": N_SPLITS},
        search={"methods": {"control": {}, "e_mixup": {"alpha": ALPHAS}}},
        resources={"max_failures": 50},
    )
    path.write_text(yaml.safe_dump(raw))
    return path


def start(path: Path) -> subprocess.Popen[bytes]:
    with path.with_suffix(".log").open("ab") as log:
        return subprocess.Popen(
            [sys.executable, "-m", "study", "run", "--quiet", "-c", str(path)],
            stdout=log,
            stderr=log,
            start_new_session=True,
        )


def values(directory: Path) -> dict[str, tuple[float, bytes]]:
    return {
        record.config.key: (record.metrics["auc_weighted"], record.items.logit.tobytes())
        for record in read_records(directory / "records", with_items=True)
        if record.items is not None
    }


def tracked(directory: Path) -> dict[str, tuple[str, float]]:
    """Status and figure of every run by key; fails where a key stands twice."""
    mlflow.set_tracking_uri(f"sqlite:///{directory}/mlflow.db")
    frame = mlflow.search_runs(experiment_names=["small"])
    assert isinstance(frame, pd.DataFrame)
    assert frame[f"tags.{KEY_TAG}"].is_unique
    figures = frame["metrics.auc_weighted"].fillna(-1)
    return dict(zip(frame[f"tags.{KEY_TAG}"], zip(frame["status"], figures, strict=True), strict=True))


@pytest.fixture(scope="module")
def quiet(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The directory of an uninterrupted run; the other studies stand beside it and read the same table."""
    folder = tmp_path_factory.mktemp("survival")
    write_table(folder / "table.csv")
    assert start(write_study(folder, "quiet")).wait() == 0, (folder / "quiet.log").read_text()
    return folder / "quiet"


def assert_as_if_nothing_had_happened(directory: Path, quiet: Path) -> None:
    assert len(values(quiet)) == N_CANDIDATES * N_SPLITS
    assert values(directory) == values(quiet)
    assert tracked(directory) == tracked(quiet)
    assert len(tracked(quiet)) == 1 + N_CANDIDATES + N_CANDIDATES * N_SPLITS
    names = sorted(path.name for path in (directory / "records").iterdir() if not path.name.startswith("."))
    assert names == sorted(path.name for path in (quiet / "records").iterdir())


def test_the_driver_is_killed_twenty_times(quiet: Path) -> None:
    path = write_study(quiet.parent, "driver")
    directory = quiet.parent / "driver"
    rng = random.Random(0)
    n_recorded = []
    for _ in range(20):
        process = start(path)
        time.sleep(rng.uniform(0, 20))
        process.kill()
        process.wait()
        n_recorded.append(len(list((directory / "records").glob("*.parquet"))))
    print("packs recorded after each kill:", n_recorded)
    assert start(path).wait() == 0, path.with_suffix(".log").read_text()
    assert_as_if_nothing_had_happened(directory, quiet)


def workers_of(driver: int) -> list[int]:
    """Processes that train packs for a driver: Tune names them after the wrapper that gives a trial its resources."""
    parents: dict[int, int] = {}
    training = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                parents[int(entry.name)] = int((entry / "stat").read_text().rsplit(")", 1)[1].split()[1])
                if b"Trainable" in (entry / "cmdline").read_bytes():
                    training.append(int(entry.name))
            except (FileNotFoundError, ProcessLookupError):
                continue

    def descends(pid: int) -> bool:
        while pid > 1 and pid != driver:
            pid = parents.get(pid, 0)
        return pid == driver

    return [pid for pid in training if descends(pid)]


def test_workers_are_killed_ten_times(quiet: Path) -> None:
    path = write_study(quiet.parent, "workers")
    rng = random.Random(0)
    process = start(path)
    n_killed = 0
    while n_killed < 10 and process.poll() is None:
        time.sleep(rng.uniform(0.05, 0.3))
        if workers := workers_of(process.pid):
            os.kill(rng.choice(workers), signal.SIGKILL)
            n_killed += 1
    assert process.wait() == 0, path.with_suffix(".log").read_text()
    assert n_killed == 10
    assert_as_if_nothing_had_happened(quiet.parent / "workers", quiet)


def process_of_ray(driver: int, name: str) -> int | None:
    """The process of Ray with a name that a driver has started."""
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            parent = int((entry / "stat").read_text().rsplit(")", 1)[1].split()[1])
            if parent == driver and (entry / "cmdline").read_bytes().split(b"\0")[0].endswith(name.encode()):
                return int(entry.name)
        except (FileNotFoundError, ProcessLookupError):
            continue
    return None


@pytest.mark.parametrize("name", ["raylet", "gcs_server"])
def test_rays_own_processes_are_killed_in_embedding_and_in_training(quiet: Path, name: str) -> None:
    path = write_study(quiet.parent, name)
    directory = quiet.parent / name
    for place in ("embeddings/.units/*/*", "records/*.parquet"):
        process = start(path)
        while not list(directory.glob(place)):
            assert process.poll() is None, path.with_suffix(".log").read_text()
            time.sleep(0.02)
        pid = process_of_ray(process.pid, name)
        assert pid is not None
        os.kill(pid, signal.SIGKILL)
        assert process.wait(300) == 3
        (line,) = path.with_suffix(".log").read_text().splitlines()
        assert re.fullmatch(r"Error: A process of Ray .* killed.*the same command continues\.", line)
        path.with_suffix(".log").unlink()
    assert len(values(directory)) < N_CANDIDATES * N_SPLITS
    assert start(path).wait() == 0, path.with_suffix(".log").read_text()
    assert_as_if_nothing_had_happened(directory, quiet)


def test_a_node_is_killed_in_the_middle(quiet: Path) -> None:
    path = write_study(quiet.parent, "node")
    script = Path(__file__).with_name("two_nodes.py")
    # A cluster notes its address in Ray's folder, for others to join: not in the one that other tests use.
    with tempfile.TemporaryDirectory(prefix="ray-") as folder:
        done = subprocess.run(
            [sys.executable, str(script), str(path)],
            env={**os.environ, "RAY_TMPDIR": folder},
            capture_output=True,
            text=True,
            check=False,
            timeout=1800,
        )
    assert done.returncode == 0, done.stderr[-3000:]
    assert "killed" in done.stdout
    assert f"trained {N_CANDIDATES * N_SPLITS} failures 0" in done.stdout
    assert_as_if_nothing_had_happened(quiet.parent / "node", quiet)
