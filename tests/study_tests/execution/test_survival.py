"""Kills: of the driver, of workers, of Ray, of a node. What is left in the end is what a quiet run leaves."""

import os
import random
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pytest
import yaml

from tests.study_tests.conftest import settings, write_table
from tests.study_tests.execution.comparison import Facts, differences, everything_in
from tests.study_tests.execution.processes import (
    GCS,
    RAYLET,
    TRAINER,
    TRAINING,
    processes_named,
    ray_folder_of,
    start_run,
)

pytestmark = pytest.mark.slow

N_CANDIDATES, N_SPLITS = 13, 2

ALPHAS = [round(0.05 * (1 + index), 2) for index in range(N_CANDIDATES - 1)]


@pytest.fixture(scope="module")
def study_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A study of some twenty seconds of training; every test runs it anew, at the same place."""
    folder = tmp_path_factory.mktemp("survival")
    write_table(folder / "table.csv")
    raw = settings(
        training={"epochs": 1200, "evaluate_every_epochs": 200},
        splits={"n_splits": N_SPLITS},
        search={"methods": {"control": {}, "e_mixup": {"alpha": ALPHAS}}},
        resources={"max_failures": 50},
    )
    path = folder / "study.yaml"
    path.write_text(yaml.safe_dump(raw))
    return path


@pytest.fixture(scope="module")
def quiet(study_file: Path) -> Facts:
    """What an uninterrupted run leaves."""
    assert start_run(study_file).wait() == 0, study_file.with_suffix(".log").read_text()
    found = everything_in(study_file.parent / "out")
    assert len({fact[2] for fact in found if fact[0] == "record"}) == N_CANDIDATES * N_SPLITS
    assert len({fact[1] for fact in found if fact[0] == "run"}) == 1 + N_CANDIDATES + N_CANDIDATES * N_SPLITS
    return found


@pytest.fixture
def directory(study_file: Path, quiet: Facts) -> Path:
    """The study's directory, which is not there yet."""
    shutil.rmtree(study_file.parent / "out")
    study_file.with_suffix(".log").unlink(missing_ok=True)
    return study_file.parent / "out"


def test_the_driver_is_killed_twenty_times(study_file: Path, directory: Path, quiet: Facts) -> None:
    """Five times each: while it or its Ray starts, while a pack is trained, after a further pack is recorded."""
    rng = random.Random(0)

    def n_recorded() -> int:
        return len(list(directory.glob("records/[!.]*.parquet")))

    def reached(moment: int, driver: int, n_before: int) -> bool:
        if moment == 1:
            return ray_folder_of(driver) is not None
        if moment == 2:
            return bool(processes_named(driver, TRAINING))
        return moment == 0 or n_recorded() > n_before

    n_after = [0]
    for number in range(20):
        moment, process = number % 4, start_run(study_file)
        while not reached(moment, process.pid, n_after[-1]) and n_recorded() < N_CANDIDATES:
            assert process.poll() is None, study_file.with_suffix(".log").read_text()
            time.sleep(0.02)
        time.sleep(rng.uniform(0, 5 if moment < 2 else 0.5))
        process.kill()
        assert process.wait() == -signal.SIGKILL, "it had not ended"
        n_after.append(n_recorded())
    assert n_after[-1] >= 5, n_after
    assert start_run(study_file).wait() == 0, study_file.with_suffix(".log").read_text()
    assert differences(everything_in(directory), quiet) == []


def test_workers_are_killed_ten_times(study_file: Path, directory: Path, quiet: Facts) -> None:
    rng = random.Random(0)
    process = start_run(study_file)
    n_killed = 0
    while n_killed < 10 and process.poll() is None:
        time.sleep(rng.uniform(0.05, 0.3))
        if workers := processes_named(process.pid, TRAINER):
            os.kill(rng.choice(workers), signal.SIGKILL)
            n_killed += 1
    assert process.wait() == 0, study_file.with_suffix(".log").read_text()
    assert n_killed == 10
    assert differences(everything_in(directory), quiet) == []


@pytest.mark.parametrize("name", [RAYLET, GCS])
def test_rays_own_processes_are_killed_in_embedding_and_in_training(
    study_file: Path, directory: Path, quiet: Facts, name: str
) -> None:
    log = study_file.with_suffix(".log")
    for place in ("embeddings/.units/*/*", "records/*.parquet"):
        process = start_run(study_file)
        while not list(directory.glob(place)):
            assert process.poll() is None, log.read_text()
            time.sleep(0.02)
        (pid,) = processes_named(process.pid, name)
        os.kill(pid, signal.SIGKILL)
        assert process.wait(300) == 3
        (line,) = log.read_text().splitlines()
        assert re.fullmatch(r"Error: A process of Ray .* killed.*the same command continues\.", line)
        log.unlink()
    assert len(list(directory.glob("records/*.parquet"))) < N_CANDIDATES
    assert start_run(study_file).wait() == 0, log.read_text()
    assert differences(everything_in(directory), quiet) == []


def test_a_node_is_killed_in_the_middle(study_file: Path, directory: Path, quiet: Facts) -> None:
    # A cluster notes its address in Ray's folder, for others to join: not in the one that other tests use.
    with tempfile.TemporaryDirectory(prefix="ray-") as folder:
        done = subprocess.run(
            [sys.executable, "-m", "tests.study_tests.execution.two_nodes", str(study_file)],
            cwd=Path(__file__).parents[3],
            env={**os.environ, "RAY_TMPDIR": folder},
            capture_output=True,
            text=True,
            check=False,
            timeout=1800,
        )
    assert done.returncode == 0, done.stderr[-3000:]
    assert "killed" in done.stdout
    assert f"trained {N_CANDIDATES * N_SPLITS} failures 0" in done.stdout
    assert differences(everything_in(directory), quiet) == []
