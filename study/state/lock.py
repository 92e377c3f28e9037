"""One run at a time in a study's directory, and what that run is doing now."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated

from pydantic import Field, TypeAdapter

from embedding_jobs.files import hold_lock, is_locked, read_json, remove_asides, write_whole
from study.errors import RunError

_LOCK, _ACTIVITY = ".lock", "running.json"


@dataclass(frozen=True)
class Activity:
    """What a run is doing; written anew with every pack.

    Attributes:
        doing: A phase of the study, or `embedding` or `starting` before the first one.
        since_s: Start of that, seconds since 1970.
        n_trained: Trials trained since then.
        packs: Packs in training, in words.
    """

    doing: str
    since_s: Annotated[float, Field(allow_inf_nan=False)]
    n_trained: int = 0
    packs: tuple[str, ...] = ()


_FROM_JSON = TypeAdapter(Activity)


def write_activity(directory: Path, activity: Activity) -> None:
    """Write what the run in a directory is doing, for `study status` to read."""
    write_whole(directory / _ACTIVITY, json.dumps(asdict(activity)).encode())


def read_activity(directory: Path) -> Activity | None:
    """Return what the run in a directory is doing; None when there is no run."""
    if not is_locked(directory / _LOCK):
        return None
    try:
        return _FROM_JSON.validate_python(read_json(directory / _ACTIVITY))
    except (FileNotFoundError, ValueError):  # the run has only just begun, or another version writes it
        return Activity("starting", time.time())


@contextmanager
def only_run(directory: Path) -> Iterator[None]:
    """Hold the directory's lock. The system releases it when the process ends, however it ends.

    Raises:
        RunError: Another run holds the lock.
    """
    held = RunError(f"Another `study run` works in {directory}. Wait for its end, or stop it.")
    with hold_lock(directory / _LOCK, held):
        remove_asides(directory, _ACTIVITY)
        try:
            yield
        finally:
            (directory / _ACTIVITY).unlink(missing_ok=True)
