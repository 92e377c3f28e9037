"""Time and memory of the report of a large nested study: 1,010 trials of its search, 50 of 40,000 test items each.

Run: python tests/benchmarks/bench_analysis_report.py [--candidates 25] [--splits 10] [--items 40000]
"""

from __future__ import annotations

import argparse
import json
import resource
import tempfile
import time
from dataclasses import replace
from pathlib import Path

import numpy as np

from analysis.report.write import write_report
from trainables.records.figures import TEMPERATURE, THRESHOLD, places
from trainables.records.parquet import write_records
from trainables.records.types import (
    LAYER_SCORES,
    LOGIT_SCORES,
    SEARCH,
    TEST,
    Candidate,
    Curves,
    ItemResults,
    SplitId,
    TrialConfig,
    TrialRecord,
)

METHODS = ("control", "e_mixup", "e_stitchup", "soft_e_mixup", "soft_e_stitchup")

N_CLASSES = 150


def trial(config: TrialConfig, n_items: int) -> TrialRecord:
    """Return a trial with records of real size and random values."""
    random = np.random.default_rng([config.split.stream_seed, len(str(config))])
    label = np.random.default_rng(0).integers(0, N_CLASSES, n_items).astype(np.int32)
    right = random.random(n_items) < 0.9
    logit = random.normal(size=n_items).astype(np.float32)
    known = label < 0.95 * N_CLASSES
    influence = (0.97 + 0.1 * random.normal(size=n_items)).astype(np.float32)
    points = np.linspace(0, 1, 24, dtype=np.float32)
    threshold = np.linspace(0.05, 0.95, 19, dtype=np.float32)
    fpr = np.linspace(0, 1, 120, dtype=np.float32)
    return TrialRecord(
        config=config,
        metrics={
            "auc_weighted": float(influence.mean()),
            "accuracy": float(right.mean()),
            "accuracy_known": float(right[known].mean()),
            "accuracy_none": float(right[~known].mean()),
            THRESHOLD: 0.1,
            TEMPERATURE: 1.2,
            "n_train": n_items // 9,
            "n_validation": n_items,
            "n_none": float((~known).sum()),
        },
        curves=Curves(
            *(576 * points, 1 - points, points, points, points, points, points),
            *(threshold, 1 - threshold, 1 - threshold, threshold),
            *(fpr, fpr**0.1),
        ),
        items=ItemResults(
            np.arange(n_items, dtype=np.int32),
            label,
            known,
            np.where(right, label, (label + 1) % N_CLASSES).astype(np.int32),
            logit,
            right,
            influence,
            np.where(right, 0.1, 2.0).astype(np.float32),
            *(places(random.normal(size=n_items).astype(np.float32), ~known) for _ in (*LOGIT_SCORES, *LAYER_SCORES)),
        ),
        started_at_s=0.0,
        duration_s=1.0,
        provenance={"digest_settings": "", "digest_embeddings": ""},
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--candidates", type=int, default=25)
    parser.add_argument("--splits", type=int, default=10)
    parser.add_argument("--items", type=int, default=40_000)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        directory = Path(folder)
        n_trials = 0
        for method in METHODS:
            n = 1 if method == "control" else arguments.candidates
            values = [{}] if method == "control" else [{"alpha": (place + 1) / n} for place in range(n)]
            for value in values:
                candidate, n_inner = Candidate.of(method, value), arguments.items // 50
                inner = [TrialConfig(SEARCH, candidate, SplitId(seed, 0)) for seed in range(arguments.splits)]
                found = [trial(config, n_inner) for config in inner]
                if value == values[0]:  # it shall be what every split chooses
                    found = [replace(one, metrics={**one.metrics, "auc_weighted": 1.0}) for one in found]
                    outer = [TrialConfig(TEST, candidate, config.split.outer) for config in inner]
                    write_records(directory / "records", [trial(config, arguments.items) for config in outer])
                write_records(directory / "records", found)
                n_trials += len(inner)
        description = {
            "format": 3,
            "name": "large",
            "preset": None,
            "design": "reverse_folds",
            "selection": "nested",
            "objective": "auc_weighted",
            "threshold": 0.6,
            "methods": METHODS,
            "splits": {
                SEARCH: [SplitId(seed, 0) for seed in range(arguments.splits)],
                TEST: [SplitId(seed) for seed in range(arguments.splits)],
            },
            "n_candidates": {method: 1 if method == "control" else arguments.candidates for method in METHODS},
            "candidates": {},
            "settings": {},
            "choices": {},
            "data": {
                "digest": "",
                "n_items": arguments.items,
                "n_classes": 1,
                "class_names": ["all"],
                "n_features": 1,
                "embeddings": {},
                "notes": [],
            },
            "deciding_settings": {},
            "digests": {"settings": "", "embeddings": ""},
            "method_code": {},
        }
        (directory / "study.json").write_text(json.dumps(description), encoding="utf-8")
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
        started = time.perf_counter()
        files = write_report(directory)
        seconds = time.perf_counter() - started
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
        size = files.html.stat().st_size / 1e6
        print("trials   items a trial   report s   peak GiB (before)   page MB")
        print(f"{n_trials:6d} {arguments.items:15d} {seconds:10.1f} {peak:10.2f} ({before:.2f}) {size:14.2f}")


if __name__ == "__main__":
    main()
