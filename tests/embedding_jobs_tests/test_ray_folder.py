"""The private folder of a Ray: where it lies, and whose leftovers are ended."""

import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from embedding_jobs.ray_folder import end_leftovers, make_ray_folder

MAKE = "import os; from embedding_jobs.ray_folder import make_ray_folder; print(make_ray_folder(), flush=True)"

# A process that writes a file in a folder, and one that reads it.
WRITE = "import sys, time; kept = open(sys.argv[1] + '/log', 'a'); print('ready', flush=True); time.sleep(999)"
READ = WRITE.replace("'a'", "'r'")


@pytest.fixture
def place(monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """An empty folder with a short path, for the folders of Rays."""
    with tempfile.TemporaryDirectory(prefix="r", dir="/tmp") as name:
        monkeypatch.setenv("RAY_TMPDIR", name)
        yield Path(name)


def start(code: str, *arguments: str) -> subprocess.Popen[str]:
    process = subprocess.Popen([sys.executable, "-c", code, *arguments], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stdout.readline()
    return process


def test_the_folder_is_private_and_short(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    old = os.umask(0)
    try:
        folder = make_ray_folder()
    finally:
        os.umask(old)
    assert folder.parent == place
    assert folder.stat().st_mode & 0o777 == 0o700
    assert (folder / "lock").stat().st_mode & 0o777 == 0o600
    monkeypatch.setenv("RAY_TMPDIR", str(place / ("long" * 20)))
    monkeypatch.setenv("TMPDIR", str(place))
    assert make_ray_folder().parent == place, "the next place, when sockets would not fit"


def test_only_what_dead_runs_of_this_user_have_left_is_ended(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (place / "link").symlink_to(place)
    monkeypatch.setenv("RAY_TMPDIR", str(place / "link"))
    alive = make_ray_folder()
    done = subprocess.run([sys.executable, "-c", MAKE], capture_output=True, text=True, check=True)
    left = Path(done.stdout.strip())
    assert left.parent == place / "link"
    (left / "log").touch()
    others = [place / f"study-{os.getuid()}-other00{n}" for n in range(4)] + [place / "study-x"]
    (place / "elsewhere").mkdir()
    others[0].symlink_to(place / "elsewhere")
    for other in others[1:]:
        other.mkdir()
    others.append(place / f"study-{os.getuid()}-file")
    others[-1].touch()
    (others[2] / "lock").write_text("another machine")
    if os.geteuid() == 0:
        shutil.copy(left / "lock", others[3])
        os.chown(others[3], 65534, 65534)
    writer, reader = start(WRITE, str(left)), start(READ, str(left))
    end_leftovers()
    assert writer.wait(60) < 0
    assert reader.poll() is None, "a user who reads a log"
    reader.kill()
    reader.wait()
    assert not left.exists()
    assert all(one.exists() for one in (alive, *others))
    assert (place / "elsewhere").exists()
