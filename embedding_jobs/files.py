"""Write files that are complete as soon as they exist, and hold locks that end with their process."""

from __future__ import annotations

import errno
import fcntl
import hashlib
import json
import os
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from embedding_jobs.errors import StudyError


@contextmanager
def whole_file(path: Path) -> Iterator[Path]:
    """Yield the path of a file to write aside; then flush it to the disk and rename it to `path`.

    A reader sees the old file or the new one, never a part. If writing fails, nothing is left behind.
    """
    aside = path.with_name(f".{path.name}.{uuid.uuid4().hex}.tmp")
    try:
        yield aside
        with aside.open("rb") as written:
            os.fsync(written.fileno())
        aside.replace(path)
    finally:
        aside.unlink(missing_ok=True)


def private_folder(path: Path) -> Path:
    """Make a folder that only its owner can enter, if it is missing; the mode of one that exists is its owner's choice.

    Returns:
        The path of the folder.

    Raises:
        StudyError: It cannot be made.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.mkdir(mode=0o700, exist_ok=True)
    except OSError as error:
        raise StudyError(f"{path} must be a folder, or a place to make one: {error.strerror}; give another") from error
    return path


def write_whole(path: Path, content: bytes | memoryview) -> Path:
    """Write a file as a whole, and create its folder if it is missing.

    Returns:
        The path of the file.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with whole_file(path) as aside:
        aside.write_bytes(content)
    return path


def replaceable(folder: Path, own: str, what: str) -> Path:
    """Return a folder to write to: missing, empty, or one with an earlier output, known by its file `own`.

    Raises:
        StudyError: It holds something other than `what`.
    """
    if folder.is_dir() and any(folder.iterdir()) and not (folder / own).exists():
        raise StudyError(f"{folder} must be empty, or {what} to replace; give another --output.")
    return folder


def read_json(path: Path) -> Any:
    """Read a JSON file.

    Raises:
        OSError: It cannot be read.
        ValueError: It is not JSON.
    """
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except RecursionError:
        raise ValueError("it is nested too deeply") from None


def remove_asides(folder: Path, name: str = "*") -> None:
    """Remove the unfinished files that killed writers left in a folder, of one file or of all.

    Only the process that may write these files now may call this: it also removes the file of a living writer.
    """
    for path in folder.glob(f".{name}.{'[0-9a-f]' * 32}.tmp*"):  # and SQLite's journal of one
        path.unlink(missing_ok=True)


def sha256_file(path: Path) -> str:
    """Return the SHA-256 of a file, read in pieces."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


@contextmanager
def hold_lock(path: Path, held: Exception) -> Iterator[None]:
    """Hold a lock file. The system releases it when the process ends, however it ends.

    Raises `held` if another process still holds the lock after half a second.

    Raises:
        StudyError: The file system has no locks.
    """
    # `is_locked` may hold the lock for a moment. A soft lock, for file systems without locks, outlives its process.
    lock = FileLock(path, timeout=0.5, thread_local=False, fallback_to_soft=False)
    try:
        lock.acquire()
    except Timeout:
        raise held from None
    except OSError as error:
        raise no_locks(path.parent, error, "put the study on another file system") from error
    try:
        yield
    finally:
        lock.release()


def is_locked(path: Path) -> bool:
    """Return whether a process holds a lock file. Needs no permission to write.

    Raises:
        StudyError: The file system has no locks.
    """
    try:
        with path.open() as file:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except (FileNotFoundError, NotADirectoryError):
        return False
    except BlockingIOError:
        return True
    except OSError as error:
        raise no_locks(path.parent, error, "put the study on another file system") from error
    return False


def no_locks(folder: Path, error: OSError, remedy: str) -> Exception:
    """Return the error to raise for one of a lock: a sentence where the file system of its folder has no locks."""
    if error.errno not in (errno.ENOLCK, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS):
        return error
    return StudyError(f"The file system of {folder} must have locks (flock), got: {error.strerror}; {remedy}")
