"""The cost of a trial in MLflow with SQLite: the study's writer against MLflow's fluent calls with the same content.

Run: `python tests/benchmarks/bench_study_tracking.py [--trials 500]`.
"""

from __future__ import annotations

import argparse
import dataclasses
import os
import tempfile
import time
from pathlib import Path

import mlflow
import numpy as np

from study.tracking.mlflow import StudyFacts, Tracker
from trainables.records.types import TEST, Candidate, Curves, SplitId, TrialConfig, TrialRecord

os.environ["MLFLOW_DISABLE_TELEMETRY"] = "true"

N_SPLITS, N_EVALUATIONS, N_FIGURES = 5, 24, 25


def record(index: int) -> TrialRecord:
    """Return a trial as large as one of the paper's schedule."""
    curves = {
        field.name: np.linspace(0.1, 0.9, N_EVALUATIONS, dtype=np.float32) for field in dataclasses.fields(Curves)
    }
    curves["epoch"] = np.arange(1, N_EVALUATIONS + 1, dtype=np.float32) * 24
    curves["epoch_cka"] = np.empty((0, 0), dtype=np.float32)
    candidate = Candidate.of("e_mixup", {"alpha": 0.001 * (1 + index // N_SPLITS)})
    figures = {f"figure_{number}": 0.5 for number in range(N_FIGURES)}
    provenance = {f"tag_{number}": "x" * 20 for number in range(12)}
    config = TrialConfig(TEST, candidate, SplitId(index % N_SPLITS))
    return TrialRecord(config, figures, Curves(**curves), None, 1.7e9 + index, 1.0, provenance)


def fluent(records: list[TrialRecord]) -> None:
    """Write the same content with `mlflow.log_*`, one call per point of a curve."""
    for one in records:
        with mlflow.start_run():
            mlflow.set_tags(dict(one.provenance))
            mlflow.log_params({"split": one.config.split, **dict(one.config.candidate.params)})
            mlflow.log_metrics(dict(one.metrics))
            for step, loss, accuracy, known, none in zip(
                one.curves.epoch,
                one.curves.epoch_loss,
                one.curves.epoch_accuracy,
                one.curves.epoch_accuracy_known,
                one.curves.epoch_accuracy_none,
                strict=True,
            ):
                point = {"loss": loss, "accuracy": accuracy, "known": known, "none": none}
                mlflow.log_metrics({name: float(value) for name, value in point.items()}, step=int(step))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--trials", type=int, default=500)
    n = parser.parse_args().trials
    records = [record(index) for index in range(n)]
    with tempfile.TemporaryDirectory() as folder:
        description = Path(folder) / "study.json"
        description.write_text("{}")
        facts = StudyFacts("bench", "bench/1", {}, {}, "table.csv", 1, "d", description)
        tracker = Tracker(f"sqlite:///{folder}/ours.db", "bench", facts)
        tracker.write(records[:10])
        began, began_cpu = time.perf_counter(), time.process_time()
        tracker.write(records[10:])
        ours_s, ours_cpu_s = ((end - start) / (n - 10) for end, start in
                              ((time.perf_counter(), began), (time.process_time(), began_cpu)))  # fmt: skip
        mlflow.set_tracking_uri(f"sqlite:///{folder}/fluent.db")
        fluent(records[:2])
        began = time.perf_counter()
        fluent(records[2:32])
        fluent_s = (time.perf_counter() - began) / 30
    print(f"{n} trials of {N_FIGURES} figures and 4 curves of {N_EVALUATIONS} points, SQLite")
    print(f"  study's writer   {ours_s * 1e3:7.1f} ms a trial, {ours_cpu_s * 1e3:.1f} ms of them CPU")
    print(f"  fluent calls     {fluent_s * 1e3:7.1f} ms a trial; the writer takes {ours_s / fluent_s:.2f} of that")


if __name__ == "__main__":
    main()
