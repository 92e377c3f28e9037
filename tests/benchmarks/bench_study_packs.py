"""The overhead of a pack: a study of trivial packs, with records, journal, progress and MLflow.

Run: `python tests/benchmarks/bench_study_packs.py [--packs 1000]`. The peer is Ray Tune alone with as many
trials of a class trainable that does nothing, with reused actors and without Tune's loggers.
"""

from __future__ import annotations

import argparse
import io
import os
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from rich.console import Console

from study.config.load import check_spec
from study.execution.progress import Progress
from study.execution.run import run_study
from tests.study_tests.conftest import settings, write_table
from trainables.records.types import TrialRecord

os.environ.setdefault("HF_HUB_OFFLINE", "1")

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))


def memory_bytes() -> int:
    """Return the memory of this process, the driver."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE")


class Watch(Progress):
    """Record time and memory at every trained pack."""

    def __init__(self) -> None:
        super().__init__(Console(file=io.StringIO()), quiet=True)
        self.times_s: list[float] = []
        self.bytes: list[int] = []

    def trained(self, records: list[TrialRecord]) -> None:
        super().trained(records)
        self.times_s.append(time.perf_counter())
        self.bytes.append(memory_bytes())


def bare_tune(n: int, storage: str) -> float:
    """Return the seconds per trial of Tune alone."""
    from ray import tune

    class Nothing(tune.Trainable):  # type: ignore[misc]
        def setup(self, config: dict[str, Any]) -> None:
            pass

        def reset_config(self, new_config: dict[str, Any]) -> bool:
            return True

        def step(self) -> dict[str, Any]:
            return {"done": True, "score": 1.0}

    began = time.perf_counter()
    tune.Tuner(
        tune.with_resources(Nothing, {"cpu": 1}),
        param_space={"index": tune.grid_search(list(range(n)))},
        tune_config=tune.TuneConfig(reuse_actors=True, trial_dirname_creator=lambda trial: trial.trial_id),
        run_config=tune.RunConfig(
            name="bare",
            storage_path=storage,
            verbose=0,
            checkpoint_config=tune.CheckpointConfig(checkpoint_frequency=0, checkpoint_at_end=False),
        ),
    ).fit()
    return (time.perf_counter() - began) / n


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--packs", type=int, default=1000)
    n = parser.parse_args().packs
    with tempfile.TemporaryDirectory() as folder:
        write_table(Path(folder) / "table.csv", 60)
        raw = settings(
            splits={"design": "random", "train_fraction": 0.4, "n_splits": 1},
            training={"epochs": 1, "batch_size": 8, "hidden": [4], "evaluate_every_epochs": 1},
            search={"methods": {"e_mixup": {"alpha": [0.001 * (1 + index) for index in range(n)]}}},
        )
        watch = Watch()
        result = run_study(check_spec(raw, Path(folder) / "study.yaml"), watch)
        end_s = time.perf_counter()
        assert result.n_recorded == n, result.failures
        assert result.tracking_problem is None
        bare_s = bare_tune(n, folder)
    times, hundred = watch.times_s, n // 10
    pack_s = (end_s - times[0]) / (n - 1)
    first_s, last_s = (times[hundred] - times[0]) / hundred, (times[-1] - times[-1 - hundred]) / hundred
    growth = (watch.bytes[-1] - watch.bytes[hundred]) / (n - 1 - hundred)
    print(f"{n} trivial packs, from the first record to the end of tracking")
    beside = f"{pack_s / bare_s:.2f} times Tune alone ({bare_s * 1e3:.1f} ms)"
    print(f"  wall a pack                {pack_s * 1e3:8.1f} ms   {beside}")
    print(f"  first {hundred:4d}                 {first_s * 1e3:8.1f} ms a pack")
    print(f"  last  {hundred:4d}                 {last_s * 1e3:8.1f} ms a pack   {last_s / first_s:.2f} of the first")
    print(f"  tracking, after the last   {(end_s - times[-1]) * 1e3:8.1f} ms")
    print(f"  the driver's memory grows  {growth / 1e3:8.1f} kB a pack")


if __name__ == "__main__":
    main()
