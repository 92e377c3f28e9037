"""One run at a time, and what that run is doing now."""

from __future__ import annotations

import fcntl
import json
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

from embedding_jobs.files import write_whole
from study.errors import RunError

_LOCK, _ACTIVITY = ".lock", "running.json"


@dataclass(frozen=True)
class Activity:
    """What a run is at; written anew with every pack.

    Attributes:
        doing: A phase of the study, or what comes before.
        since_s: When it began that, seconds since 1970.
        n_trained: Trials that it trained since.
        packs: Packs in training, in words.
    """

    doing: str
    since_s: float
    n_trained: int = 0
    packs: tuple[str, ...] = ()


def write_activity(directory: Path, activity: Activity) -> None:
    """Says what a run is at, for others to read."""
    write_whole(directory / _ACTIVITY, json.dumps(asdict(activity)).encode())


def read_activity(directory: Path) -> Activity | None:
    """What the run that works in a directory is at; None when none works there."""
    try:
        with (directory / _LOCK).open() as file:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
        return None
    except (FileNotFoundError, NotADirectoryError):
        return None
    except BlockingIOError:
        pass
    try:
        fields = json.loads((directory / _ACTIVITY).read_text())
    except FileNotFoundError:  # it has only just begun
        return Activity("starting", time.time())
    return Activity(**{**fields, "packs": tuple(fields["packs"])})


@contextmanager
def only_run(directory: Path) -> Iterator[None]:
    """Holds the directory's lock, which the system lets go when the process ends, however it ends.

    Raises:
        RunError: Another run holds it.
    """
    with (directory / _LOCK).open("a") as file:
        for last in (False, True):
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if last:
                    raise RunError(f"Another `study run` works in {directory}. Wait for it, or stop it.") from None
                time.sleep(0.2)  # whoever reads the status holds it for a moment
        try:
            yield
        finally:
            (directory / _ACTIVITY).unlink(missing_ok=True)
