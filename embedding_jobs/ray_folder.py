"""A private folder for the files of a Ray on this machine, and the end of what killed runs have left in theirs.

Ray lets every user of the machine write to its folder, sockets and logs, whatever the umask. So its folder lies in one
that only its owner can enter. A lock in that one tells the next run whether the process that made it is still alive.
"""

from __future__ import annotations

import fcntl
import os
import shutil
import signal
import socket
import tempfile
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

from embedding_jobs.errors import StudyError
from embedding_jobs.files import is_locked, no_locks

_LOCK = "lock"

_MOST_BYTES = 107  # of a socket's path

_MOST_S = 10.0  # that killed processes take to end


def make_ray_folder() -> Path:
    """Make a folder of mode 0700 with a short path, and hold its lock until this process ends.

    It lies in the first of RAY_TMPDIR, TMPDIR and /tmp that is a writable folder with a path that is short enough.

    Raises:
        StudyError: None of them is, or its file system has no locks.
    """
    place = next((one for one in _places() if _fits(one)), None)
    if place is None:
        raise StudyError(
            f"Ray's sockets need a writable folder with a path of at most {_MOST_BYTES - _n_bytes_below()} bytes, got "
            f"{', '.join(map(str, _places()))}: set TMPDIR to such a folder"
        )
    # It gets its name, by which other runs look for it, when it is locked.
    aside = Path(tempfile.mkdtemp(prefix=".study-", dir=place))
    lock = os.open(aside / _LOCK, os.O_CREAT | os.O_RDWR, 0o600)  # left open: it is held as long as the process lives
    try:
        fcntl.flock(lock, fcntl.LOCK_EX)
    except OSError as error:
        os.close(lock)
        shutil.rmtree(aside, ignore_errors=True)
        raise no_locks(place, error, "set TMPDIR to a folder of another one") from error
    os.write(lock, _host())
    return aside.rename(place / f"{_prefix()}{aside.name.removeprefix('.study-')}")


def end_leftovers() -> None:
    """End the processes and remove the folders of this user's runs on this machine that were killed.

    Some of Ray's processes live on for a minute or more when a run is killed.
    """
    for place in filter(_fits, _places()):
        for folder in place.glob(f"{_prefix()}*"):
            with suppress(OSError, StudyError):  # another run has just removed it, or it is none of a run
                if folder.is_symlink() or folder.lstat().st_uid != os.getuid():
                    continue
                if (folder / _LOCK).read_bytes() == _host() and not is_locked(folder / _LOCK):
                    end_folder(folder)


def end_folder(folder: Path) -> None:
    """End the processes of a Ray that has stopped, or whose driver is dead, by their ids, and remove its folder."""
    deadline = time.monotonic() + _MOST_S
    while (pids := processes_of(folder)) and time.monotonic() < deadline:  # one may just have started another
        for pid in pids:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        time.sleep(0.05)
    shutil.rmtree(folder / "ray", ignore_errors=True)  # the lock last: without it, nobody would remove the rest
    shutil.rmtree(folder, ignore_errors=True)


def processes_of(folder: Path) -> list[int]:
    """Return the ids of this user's other processes that write to a file of a folder.

    Ray's processes change their names and command lines, but all of them write a log.
    """
    folder = folder.resolve()  # as /proc names it
    return [pid for pid in _own_processes() if pid != os.getpid() and _writes_to(pid, folder)]


def _places() -> list[Path]:
    named = [os.environ[name] for name in ("RAY_TMPDIR", "TMPDIR") if os.environ.get(name)]
    return [Path(one).absolute() for one in dict.fromkeys((*named, "/tmp"))]


def _fits(place: Path) -> bool:
    n_bytes = len(os.fsencode(place)) + _n_bytes_below()
    return n_bytes <= _MOST_BYTES and place.is_dir() and os.access(place, os.W_OK | os.X_OK)


def _n_bytes_below() -> int:
    """Return the length of the longest path of a socket that Ray makes, from the place of the folder on."""
    session = f"session_2026-01-01_00-00-00_000000_{os.getpid()}"
    return len(f"/{_prefix()}12345678/ray/{session}/sockets/plasma_store")


def _host() -> bytes:
    """Return what a lock file holds: a lock on shared storage may not be seen from another machine."""
    return socket.gethostname().encode()


def _prefix() -> str:
    return f"study-{os.getuid()}-"


def _own_processes() -> Iterator[int]:
    for process in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):  # it has ended
            if process.stat().st_uid == os.getuid():
                yield int(process.name)


def _writes_to(pid: int, folder: Path) -> bool:
    with suppress(OSError):  # it has ended
        for link in Path(f"/proc/{pid}/fd").iterdir():
            with suppress(OSError):  # it has closed this file
                opened_to_write = link.lstat().st_mode & 0o200
                if opened_to_write and os.readlink(link).startswith(f"{folder}/"):
                    return True
    return False
