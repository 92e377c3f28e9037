"""Kills of a study's processes with SIGKILL: what is left in the end is compared, fact by fact, with a quiet run.

Run: `python tests/benchmarks/bench_survival.py [--kind driver gcs ...] [--times 20] [--kills 1]`. Each round makes the
same small study anew at the same place, kills processes of its runs at seeded moments, and repeats the command until it
has nothing left to do. Compared are every column of every record, every row of MLflow's tables, the search's
journal, the embeddings, the description, the report's results and the list of files; all but times.
"""

from __future__ import annotations

import argparse
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import yaml

from embedding_jobs.ray_folder import processes_of
from tests.study_tests.conftest import settings, write_table
from tests.study_tests.execution.comparison import Facts, differences, everything_in
from tests.study_tests.execution.processes import (
    ENCODER,
    GCS,
    RAYLET,
    TRAINER,
    processes_named,
    ray_folder_of,
    start_run,
)
from tests.study_tests.tracking.test_mlflow import Server

PLUGIN = Path(__file__).resolve().parents[1] / "embedding_jobs_tests" / "plugin"

N_ITEMS, N_UNITS, N_PACKS, MOST_RUNS = 900, 4, 27, 4

ANYTHING = r"(?s).*"

LOST = r"Error: A process of Ray on this machine was killed, .* the same command continues\.\n"


@dataclass(frozen=True)
class Kind:
    """A kind of kill.

    Attributes:
        victims: Returns the processes of which one is killed, given the driver.
        exit_code: Exit code of the run that loses it.
        says: What that run says: a pattern.
        in_embedding: Whether the process lives only while the study embeds.
        ends_late: Whether it may be killed when everything is recorded.
    """

    victims: Callable[[int], list[int]]
    exit_code: int
    says: str = ""
    in_embedding: bool = False
    ends_late: bool = False


KINDS = {
    "driver": Kind(lambda driver: [driver], -signal.SIGKILL, ends_late=True),
    "trainer": Kind(lambda driver: processes_named(driver, TRAINER), 0, ANYTHING),
    "encoder": Kind(lambda driver: processes_named(driver, ENCODER), 0, ANYTHING, in_embedding=True),
    "gcs": Kind(lambda driver: processes_named(driver, GCS), 3, LOST),
    "raylet": Kind(lambda driver: processes_named(driver, RAYLET), 3, LOST),
    "server": Kind(lambda driver: [], 0, ANYTHING, ends_late=True),
}


@dataclass
class Round:
    """What has happened in one round.

    Attributes:
        kills: When processes were killed; in brackets, how many packs were recorded then.
        exit_codes: Of all runs, in their order.
        wrong: What is not as it must be.
    """

    kills: list[str] = field(default_factory=list)
    exit_codes: list[int] = field(default_factory=list)
    wrong: list[str] = field(default_factory=list)


class Place:
    """Where every round makes the same study: of a path and an address that never change.

    Args:
        folder: An empty folder.
        tracked: Whether MLflow is a server, with SQLite behind it.
    """

    def __init__(self, folder: Path, tracked: bool) -> None:
        self.study_file, self.directory = folder / "study.yaml", folder / "out"
        self.log = self.study_file.with_suffix(".log")
        self.server = Server(folder / "server") if tracked else None
        self._settings = settings(
            data={"text": ["title"]},
            encoders={
                "text": None,
                "custom": {"title": {"kind": "hashing", "model": "words", "options": {"dimension": 64}}},
            },
            splits={"design": "reverse_folds", "train_fraction": 0.2, "n_splits": 3},
            training={"epochs": 60, "evaluate_every_epochs": 20},
            search={
                "selection": "nested",
                "sampler": "tpe",
                "n_candidates": 4,
                "batch_size": 2,
                "n_startup": 2,
                "methods": {
                    "control": {},
                    "e_mixup": {"alpha": {"low": 0.05, "high": 1.0}},
                    "e_stitchup": {"alpha": {"low": 0.05, "high": 1.0}},
                },
            },
            resources={"lanes_per_pack": 1, "rows_per_shard": 200, "max_failures": 20},
            tracking={"uri": self.server.uri} if self.server else {},
        )
        write_table(folder / "table.csv", N_ITEMS)
        self.study_file.write_text(yaml.safe_dump(self._settings))

    def clear(self) -> None:
        """Remove what a round has left, and start the server anew."""
        shutil.rmtree(self.directory, ignore_errors=True)
        self.log.unlink(missing_ok=True)
        if self.server is not None:
            self.server.kill()
            shutil.rmtree(self.server.directory, ignore_errors=True)
            self.server.directory.mkdir()
            self.server.start()

    def facts(self) -> Facts:
        """Return everything that the study has left."""
        if self.server is None:
            return everything_in(self.directory)
        folder = self.server.directory
        return everything_in(self.directory, folder / "server.db", folder / "server-artifacts")

    def n_units(self) -> int:
        return len([path for path in self.directory.glob("embeddings/.units/*/*") if not path.name.startswith(".")])

    def n_recorded(self) -> int:
        return len(list(self.directory.glob("records/[!.]*.parquet")))

    def run(self) -> subprocess.Popen[bytes]:
        self.log.unlink(missing_ok=True)
        return start_run(self.study_file)

    def said(self) -> str:
        return self.log.read_text(errors="replace")


def await_moment(kind: Kind, place: Place, driver: subprocess.Popen[bytes], draw: random.Random, quiet_s: float) -> str:
    """Wait until a seeded time, or until so many units or packs are done; return which, or nothing if it has ended."""
    n, pause_s, until = 0, 0.0, 0.0
    if kind.in_embedding:
        n = draw.randint(place.n_units(), N_UNITS - 1)
        what, count = f"{n} units", place.n_units
    elif draw.random() < 0.5:
        seconds = draw.uniform(0, quiet_s * (1 - place.n_recorded() / N_PACKS / 2))
        what, count, until = f"{seconds:.1f} s", place.n_recorded, time.monotonic() + seconds
    else:
        most = N_PACKS if kind.ends_late else N_PACKS - 3
        n, pause_s = draw.randint(min(place.n_recorded(), most), most), draw.uniform(0, 0.5)
        what, count = f"{n} packs", place.n_recorded
    while time.monotonic() < until or count() < n:
        if driver.poll() is not None:
            return ""
        time.sleep(0.02)
    time.sleep(pause_s)
    return what


def kill_one(kind: Kind, place: Place, driver: subprocess.Popen[bytes], draw: random.Random) -> bool:
    """Kill a process of a run, when there is one, and return whether there was."""
    if kind is KINDS["server"]:
        assert place.server is not None
        place.server.kill()
        time.sleep(draw.uniform(1, 6))
        place.server.start()
        return True
    while driver.poll() is None:
        if victims := sorted(kind.victims(driver.pid)):
            os.kill(draw.choice(victims), signal.SIGKILL)
            return True
        time.sleep(0.02)
    return False


def one_round(kind: Kind, place: Place, expected: Facts, draw: random.Random, quiet_s: float, n_kills: int) -> Round:
    """Kill some processes, one after another, run to the end, and compare.

    A run that ends before its moment comes shows nothing: the round begins again.
    """
    done, folders = Round(), set[Path | None]()
    place.clear()
    driver = place.run()
    for _ in range(n_kills):
        if moment := await_moment(kind, place, driver, draw, quiet_s):
            n_recorded = place.n_recorded()
            folders.add(ray_folder_of(driver.pid))
            if kill_one(kind, place, driver, draw):
                done.kills.append(f"{moment} ({n_recorded})")
                if kind.exit_code:
                    judge(driver.wait(), kind.exit_code, kind.says, place, done)
                    driver = place.run()
        if driver.poll() is not None:
            break
    judge(driver.wait(), 0, ANYTHING, place, done)
    if not done.kills:
        return one_round(kind, place, expected, draw, quiet_s, n_kills)
    while (done.exit_codes[-1] or "study sync" in place.said()) and len(done.exit_codes) < n_kills + MOST_RUNS:
        judge(place.run().wait(), 0, ANYTHING, place, done)
    done.wrong += differences(place.facts(), expected)
    for folder in filter(None, folders):
        if folder.exists():
            done.wrong.append(f"{folder} is left, with the processes {processes_of(folder)}")
    return done


def judge(exit_code: int, expected: int, says: str, place: Place, done: Round) -> None:
    """Note the exit code of a run, and what is wrong with it or with what the run has said."""
    done.exit_codes.append(exit_code)
    said = place.said()
    if exit_code != expected or not re.fullmatch(says, said) or "Traceback" in said:
        done.wrong.append(f"a run ended with {exit_code}, not {expected}, and said: {said[-2000:]}")


def reference(place: Place) -> tuple[Facts, float]:
    """Return what an undisturbed run leaves, and how long it takes."""
    place.clear()
    began = time.monotonic()
    assert place.run().wait() == 0, place.said()
    return place.facts(), time.monotonic() - began


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kind", nargs="+", choices=KINDS, default=list(KINDS))
    parser.add_argument("--times", type=int, default=20)
    parser.add_argument("--kills", type=int, default=1, help="kills in one round, one after another")
    parser.add_argument("--first", type=int, default=0, help="number of the first round, which is its seed")
    parser.add_argument("--folder", type=Path, help="where studies are made and differing ones kept")
    options = parser.parse_args()
    os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, (str(PLUGIN), os.environ.get("PYTHONPATH"))))
    os.environ |= {"HASHING_PAUSE_S": "0.5", "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"}
    folder = options.folder or Path(tempfile.mkdtemp(prefix="survival-"))
    all_equal = True
    for tracked in (False, True):
        kinds = [name for name in options.kind if (name == "server") == tracked]
        if not kinds:
            continue
        at = folder / ("server" if tracked else "files")
        at.mkdir(mode=0o700, parents=True)
        place = Place(at, tracked)
        try:
            expected, quiet_s = reference(place)
            print(f"undisturbed: {quiet_s:.0f} s, {expected.total()} facts", flush=True)
            for name in kinds:
                n_equal, n_kills = 0, 0
                for number in range(options.first, options.first + options.times):
                    began, draw = time.monotonic(), random.Random(f"{name} {number}")
                    done = one_round(KINDS[name], place, expected, draw, quiet_s, options.kills)
                    n_equal, n_kills = n_equal + (not done.wrong), n_kills + len(done.kills)
                    show(f"{name} {number}", done, time.monotonic() - began)
                    if done.wrong:
                        shutil.copytree(at, folder / f"{name}-{number}", dirs_exist_ok=True)
                all_equal &= n_equal == options.times
                print(
                    f"{name}: {n_kills} kills; {n_equal} of {options.times} studies as if nothing had happened",
                    flush=True,
                )
        finally:
            if place.server is not None:
                place.server.kill()
    sys.exit(not all_equal)


def show(name: str, done: Round, took_s: float) -> None:
    """Print the row of a round, and what is wrong."""
    verdict = f"{len(done.wrong)} DIFFERENCES" if done.wrong else "equal"
    codes = " ".join(map(str, done.exit_codes))
    print(
        f"  {name:12} {took_s:5.0f} s   {verdict:6} exit codes {codes:12} killed at {', '.join(done.kills)}", flush=True
    )
    for line in done.wrong[:20]:
        print(f"      {line}", flush=True)


if __name__ == "__main__":
    main()
