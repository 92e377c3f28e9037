"""A run of the command as a process, and the processes of the Ray that it has started."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from embedding_jobs.ray_folder import processes_of

# What the names of processes of a run's Ray hold; an encoder's is that of the preparation of inputs, too.
TRAINER, ENCODER, RAYLET, GCS = "Trainable", "_StageOfRows", "raylet", "gcs_server"
TRAINING = "Trainable.train"  # a trainer in the middle of a pack


def start_run(path: Path) -> subprocess.Popen[bytes]:
    """Start `study run` for a study file, in a session of its own; what it says is added to a file beside it."""
    with path.with_suffix(".log").open("ab") as log:
        return subprocess.Popen(
            [sys.executable, "-m", "study", "run", "--quiet", "-c", str(path)],
            stdout=log,
            stderr=log,
            start_new_session=True,
        )


def ray_folder_of(command: int) -> Path | None:
    """The private folder that a run has made for its Ray, whose lock its child holds; None where it has none."""
    try:
        (driver,) = Path(f"/proc/{command}/task/{command}/children").read_text().split()
        opened = [Path(os.readlink(link)) for link in Path(f"/proc/{driver}/fd").iterdir()]
    except (OSError, ValueError):  # it has ended
        return None
    return next((path.parent for path in opened if path.parent.name.startswith(f"study-{os.getuid()}-")), None)


def processes_named(command: int, name: str) -> list[int]:
    """The processes with a name, one of those above, of the Ray that a run has started."""
    folder = ray_folder_of(command)
    return [pid for pid in processes_of(folder) if name in _name_of(pid)] if folder is not None else []


def children_named(parent: int, name: str) -> list[int]:
    """The processes with a name that a process has started; the workers of a node are those of its raylet."""
    pids = [int(entry.name) for entry in Path("/proc").glob("[0-9]*")]
    return [pid for pid in pids if name in _name_of(pid) and _parent_of(pid) == parent]


def _parent_of(pid: int) -> int | None:
    try:
        return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])
    except OSError:  # it has ended
        return None


def _name_of(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")[0].decode(errors="replace")
    except OSError:  # it has ended
        return ""
