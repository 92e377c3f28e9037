"""Files written whole, and locks."""

import errno
import os
import stat
import subprocess
import sys
from pathlib import Path
from uuid import uuid4

import pytest

from embedding_jobs.errors import StoreError, StudyError
from embedding_jobs.files import hold_lock, is_locked, remove_asides, whole_file, write_whole
from embedding_jobs.ray_folder import make_ray_folder
from embedding_jobs.store.shards import write_stored


def test_a_block_that_raises_leaves_the_file_as_it_was(tmp_path: Path) -> None:
    path = write_whole(tmp_path / "new" / "file", b"first")
    with pytest.raises(KeyboardInterrupt):
        _interrupted(path)
    assert path.read_bytes() == b"first"
    assert os.listdir(path.parent) == ["file"]
    assert write_whole(path, b"second").read_bytes() == b"second"
    assert os.listdir(path.parent) == ["file"]


def test_two_writers_of_one_file_do_not_meet(tmp_path: Path) -> None:
    path = tmp_path / "file"
    with whole_file(path) as first, whole_file(path) as second:
        first.write_bytes(b"first")
        second.write_bytes(b"second")
    assert path.read_bytes() == b"first", "the block that ended last"
    assert os.listdir(tmp_path) == ["file"]


def test_a_store_that_cannot_be_written_is_a_store_error(tmp_path: Path) -> None:
    (tmp_path / "column").touch()
    with pytest.raises(StoreError, match=r"column/part must be writable: File exists; free space"):
        write_stored(tmp_path / "column" / "part", b"")


def test_what_a_killed_writer_left_is_removed(tmp_path: Path) -> None:
    journal = f".store.db.{uuid4().hex}.tmp-journal"  # SQLite's, beside a database that was being made
    for name in (journal, f".part.{uuid4().hex}.tmp", f".other.{uuid4().hex}.tmp", "part", ".keep.tmp", ".keep"):
        (tmp_path / name).touch()
    remove_asides(tmp_path)
    assert sorted(os.listdir(tmp_path)) == [".keep", ".keep.tmp", "part"]
    left = tmp_path / f".part.{uuid4().hex}.tmp"
    left.touch()
    remove_asides(tmp_path, "other")
    assert left.exists()
    remove_asides(tmp_path, "part")
    assert not left.exists()


@pytest.mark.parametrize("number", [errno.ENOLCK, errno.ENOTSUP, errno.ENOSYS])
def test_a_file_system_without_locks_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int) -> None:
    def flock(descriptor: int, operation: int) -> None:
        raise OSError(number, os.strerror(number))

    (tmp_path / ".lock").touch()
    monkeypatch.setattr("fcntl.flock", flock)
    words = rf"The file system of {tmp_path} must have locks \(flock\), got: {os.strerror(number)}; "
    with pytest.raises(StudyError, match=f"{words}put the study"), hold_lock(tmp_path / ".lock", ValueError()):
        pass
    with pytest.raises(StudyError, match=f"{words}put the study"):
        is_locked(tmp_path / ".lock")
    monkeypatch.setattr("embedding_jobs.ray_folder._places", lambda: [tmp_path])
    monkeypatch.setattr("embedding_jobs.ray_folder._fits", lambda place: True)
    with pytest.raises(StudyError, match=f"{words}set TMPDIR"):
        make_ray_folder()
    assert os.listdir(tmp_path) == [".lock"], "nothing is left behind"


def test_one_process_holds_a_lock_until_it_ends(tmp_path: Path) -> None:
    path = tmp_path / ".lock"
    assert not is_locked(path)
    assert not path.exists(), "asking makes no file"
    code = (
        "import sys, pathlib\nfrom embedding_jobs.files import hold_lock\n"
        "with hold_lock(pathlib.Path(sys.argv[1]), ValueError()):\n    print('held', flush=True)\n    sys.stdin.read()"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", code, str(path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "held\n"
    assert is_locked(path)
    with pytest.raises(StoreError, match="held by a run"), hold_lock(path, StoreError("held by a run")):
        pass
    process.kill()
    process.communicate()
    assert not is_locked(path)
    with hold_lock(path, StoreError("held by a run")):
        assert is_locked(path)
        with pytest.raises(ValueError, match="held again"), hold_lock(path, ValueError("held again")):
            pass
        assert is_locked(path), "the refused one does not free it"
    assert not is_locked(path)
    assert not stat.S_IMODE(path.stat().st_mode) & ~(0o666 & ~_umask())


def _interrupted(path: Path) -> None:
    with whole_file(path) as temporary:
        temporary.write_bytes(b"half")
        assert path.read_bytes() == b"first"
        raise KeyboardInterrupt


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask
