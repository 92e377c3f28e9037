"""A run of the command while it works: closed to other users; and Ctrl-C: one sentence, exit code 130."""

import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from embedding_jobs.ray_folder import end_leftovers
from tests.study_tests.conftest import MakeStudy, copy_encoded
from tests.study_tests.execution.processes import ray_folder_of

# Prints the paths, of those on standard input, that the user may read, write, execute or enter.
OPEN_PATHS = 'while read -r path; do [ -r "$path" ] || [ -w "$path" ] || [ -x "$path" ] && echo "$path"; done; true'


@pytest.fixture
def in_reach(encoded: Path) -> Iterator[Path]:
    """A folder that every user of the machine can enter, with the embeddings of the small study."""
    with tempfile.TemporaryDirectory(dir="/tmp") as name:
        folder = Path(name)
        folder.chmod(0o755)
        copy_encoded(encoded, folder)  # with the modes that a run has given them
        yield folder


def test_a_running_study_is_closed_to_others_and_an_interrupt_is_one_sentence(
    make_study: MakeStudy, in_reach: Path
) -> None:
    make_study(training={"epochs": 2000}).rename(in_reach / "study.yaml")
    process = subprocess.Popen(
        [sys.executable, "-m", "study", "run"],
        cwd=in_reach,
        env={**os.environ, "TMPDIR": f"{in_reach}/{'too-long-for-sockets/' * 4}"},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    activity = in_reach / "out" / "running.json"
    while not (activity.exists() and json.loads(activity.read_text())["packs"]):  # until packs are in training
        assert process.poll() is None, process.communicate()
        time.sleep(0.1)
    ray_folder = ray_folder_of(process.pid)
    assert ray_folder is not None
    end_leftovers()  # as another run does: this one is alive
    assert ray_folder.parent == Path("/tmp")
    assert [oct(path.stat().st_mode & 0o777) for path in (in_reach / "out", ray_folder)] == ["0o700", "0o700"]
    if os.geteuid() == 0:
        paths = [one for folder in (in_reach / "out", ray_folder, Path("/dev/shm")) for one in folder.rglob("*")]
        assert {"plasma_store", "running.json", "mlflow.db"} <= {path.name for path in paths}
        asked = subprocess.run(
            ["/bin/sh", "-c", OPEN_PATHS],
            input="".join(f"{path}\n" for path in [in_reach, in_reach / "out", ray_folder, *paths]),
            user=65534,
            group=65534,
            extra_groups=[],
            capture_output=True,
            text=True,
            cwd="/",
            check=True,
        )
        assert asked.stdout == f"{in_reach}\n"
    process.send_signal(signal.SIGINT)
    time.sleep(0.5)
    process.send_signal(signal.SIGINT)  # an impatient user
    _, stderr = process.communicate(timeout=300)
    assert process.returncode == 130
    assert stderr.lstrip() == "Interrupted; stopping. Recorded trials are kept: the same command continues.\n"
    assert not ray_folder.exists()
