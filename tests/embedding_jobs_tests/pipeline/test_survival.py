"""Jobs that are killed, and disks that fill: real processes, and the exact files they leave."""

import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from embedding_jobs.store.store import Store
from tests.study_tests.execution.processes import ENCODER

HERE = Path(__file__).parent
PLUGIN = HERE.parent / "plugin"

ROOT = HERE.parents[2]

Contents = Callable[[Path], dict[str, bytes]]


class Job:
    """An extraction in a process group of its own."""

    def __init__(self, table: Path, store: Path, pause_s: float = 0.0, **extra: str) -> None:
        environment = {**os.environ, "PYTHONPATH": f"{ROOT}:{PLUGIN}", "RAY_BACKEND_LOG_LEVEL": "fatal"}
        environment |= {"HASHING_PAUSE_S": str(pause_s), **extra}
        self.process = subprocess.Popen(
            [sys.executable, str(HERE / "embed_job.py"), str(table), str(store)],
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )

    def lines(self) -> Iterator[str]:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            yield line.strip()

    def finish(self) -> tuple[int, list[str]]:
        lines = list(self.lines())
        assert self.process.stderr is not None
        errors = self.process.stderr.read()
        code = self.process.wait(timeout=600)
        if code not in (0, 2):
            raise AssertionError(errors)
        return code, lines

    def encoder_pids(self) -> list[int]:
        """Processes of this job's session that prepare inputs or encode."""
        found = []
        for entry in Path("/proc").iterdir():
            if not entry.name.isdigit():
                continue
            try:
                is_encoder = ENCODER.encode() in (entry / "cmdline").read_bytes()
                session = int((entry / "stat").read_text().rpartition(")")[2].split()[3])
            except OSError:  # it has ended meanwhile
                continue
            if is_encoder and session == self.process.pid:
                found.append(int(entry.name))
        return found


@pytest.fixture(scope="module")
def table(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Six hundred titles, a third of them repeated: eight units, six shards."""
    titles = [f"title {i % 400} of {'many ' * (i % 400 % 9)}words" for i in range(600)]
    columns = {"id": list(range(600)), "label": [str(i % 3) for i in range(600)], "title": titles}
    path = tmp_path_factory.mktemp("survival") / "table.parquet"
    pq.write_table(pa.table(columns), path)
    return path


@pytest.fixture(scope="module")
def whole_store(table: Path) -> Path:
    """A store that was made without interruption."""
    store = table.parent / "whole"
    code, lines = Job(table, store).finish()
    assert (code, lines[-1]) == (0, "done 400")
    return store


@pytest.fixture
def whole(whole_store: Path, contents: Contents) -> dict[str, bytes]:
    """The files of that store."""
    return contents(whole_store)


def test_killed_driver_leaves_a_store_that_the_next_run_completes(
    table: Path, tmp_path: Path, whole: dict[str, bytes], contents: Contents
) -> None:
    store = tmp_path / "store"
    killed = Job(table, store, KILL_AT_INPUTS="150").process  # three units
    assert killed.wait() == -signal.SIGKILL
    assert not (store / "title--words" / "manifest.json").exists()
    code, lines = Job(table, store).finish()
    assert code == 0
    assert int(lines[-1].split()[1]) <= 250, "what was encoded is not encoded again"
    assert contents(store) == whole
    assert Store(store).verify() == []


@pytest.mark.slow
def test_twenty_kills_of_the_driver(table: Path, tmp_path: Path, whole: dict[str, bytes], contents: Contents) -> None:
    """Four of each store: while Ray starts, while an encoder is there, and twice after a further unit."""
    draw = random.Random(0)

    def n_units(store: Path) -> int:
        return len(list(store.glob(".units/*/[!.]*")))

    for number in range(5):
        store = tmp_path / f"store-{number}"
        for moment in range(4):
            n_before, job = n_units(store), Job(table, store, pause_s=1.0)
            while (moment == 1 and not job.encoder_pids()) or (moment > 1 and n_units(store) == n_before):
                assert job.process.poll() is None
                time.sleep(0.01)
            time.sleep(draw.uniform(0, 0.2 if moment else 5))
            job.process.kill()
            assert job.process.wait() == -signal.SIGKILL, "it had not ended"
        assert n_units(store) >= 2
        code, _ = Job(table, store).finish()
        assert code == 0
        assert contents(store) == whole


@pytest.mark.slow
def test_twenty_kills_of_the_encoder(table: Path, tmp_path: Path, whole: dict[str, bytes], contents: Contents) -> None:
    draw = random.Random(1)
    n_killed = 0
    for number in range(20):  # a job that ends before its encoder is found costs a round, not the test
        if n_killed >= 20:
            break
        store = tmp_path / f"store-{number}"
        job = Job(table, store, pause_s=0.3)
        for _ in range(2):
            time.sleep(draw.uniform(0.2, 1.0))
            while not (pids := job.encoder_pids()) and job.process.poll() is None:
                time.sleep(0.05)
            for pid in pids[:1]:
                os.kill(pid, signal.SIGKILL)
                n_killed += 1
        code, _ = job.finish()
        assert code == 0
        assert contents(store) == whole
    assert n_killed >= 20


@pytest.mark.slow
def test_an_encoder_that_always_crashes_is_given_up(table: Path, tmp_path: Path) -> None:
    code, lines = Job(table, tmp_path / "store", HASHING_CRASH="1").finish()
    assert code == 2
    assert any("died 4 times on one unit" in line for line in lines)


@pytest.mark.slow
@pytest.mark.skipif(os.geteuid() != 0, reason="mounting a small file system needs root")
def test_full_disk_is_one_clear_error_and_the_run_goes_on_when_there_is_room(
    table: Path, tmp_path: Path, whole: dict[str, bytes], contents: Contents
) -> None:
    disk = tmp_path / "disk"
    disk.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=300k", "tmpfs", str(disk)], check=False).returncode:
        pytest.skip("this machine does not let a small file system be mounted")
    try:
        code, lines = Job(table, disk / "store").finish()
        assert code == 2
        assert lines[-1].startswith("StoreError: ")
        assert "No space left on device; free space" in lines[-1]
        assert not [path for path in disk.rglob("*.tmp")]
        subprocess.run(["mount", "-o", "remount,size=20m", str(disk)], check=True)
        code, _ = Job(table, disk / "store").finish()
        assert code == 0
        assert contents(disk / "store") == whole
    finally:
        subprocess.run(["umount", "-l", str(disk)], check=True)


def test_vectors_of_a_third_party_follow_the_table(table: Path, whole_store: Path) -> None:
    loaded = Store(whole_store).load(["title"])
    titles = pq.read_table(table).column("title").to_pylist()
    np.testing.assert_array_equal(loaded.matrix.sum(axis=1), [len(title.split()) for title in titles])
    np.testing.assert_array_equal(loaded.matrix[:200], loaded.matrix[400:])
