"""Run a study: encode, train what is missing, record, track."""

from __future__ import annotations

import time
from functools import cache

import numpy as np
import ray
from rich.console import Console

from embedding_jobs.pipeline.extract import extract
from embedding_jobs.pipeline.summary import ExtractionSummary
from study.config.schema import StudySpec
from study.execution.finish import finish_study
from study.execution.pack_context import load_embeddings, pack_context
from study.execution.phases import _Run
from study.execution.progress import Progress
from study.execution.ray_connection import address_of, connect, loss_as_error
from study.state.description import describe, refuse_changes
from study.state.lock import Activity, only_run, write_activity
from study.state.results import StudyResult
from study.tracking.background import BackgroundTracker
from study.tracking.sync import make_tracker
from trainables.records.description import write_description
from trainables.records.parquet import read_records
from trainables.records.types import PROTOCOLS


def embed(spec: StudySpec, progress: Progress) -> ExtractionSummary:
    """Encodes the shards that the store lacks; Ray is started once the input is found sound, where any are missing."""
    with loss_as_error():
        summary = extract(
            spec.data.source,
            spec.column_encoders,
            spec.store,
            rows_per_shard=spec.resources.rows_per_shard,
            on_error=spec.data.on_error,
            on_progress=progress.embedding,
            start_ray=lambda: _connect(spec, progress),
        )
    progress.end_embedding()
    for column in summary.columns:
        done = f"{column.n_inputs_encoded:,} distinct inputs encoded in {column.elapsed_s:.0f} s"
        progress.say(
            f"{column.name}: {column.n_items:,} items, {done if column.n_inputs_encoded else 'already encoded'}"
            + (f", {column.n_empty:,} empty texts" if column.n_empty else "")
            + (f", {column.n_truncated:,} texts cut at the model's limit" if column.n_truncated else "")
            + (f", {column.n_skipped:,} skipped" if column.n_skipped else "")
        )
    return summary


def _connect(spec: StudySpec, progress: Progress) -> None:
    if not ray.is_initialized():
        address = address_of(spec)
        progress.say("Starting Ray ..." if address == "local" else f"Joining the Ray cluster at {address} ...")
    connect(spec)


def run_study(spec: StudySpec, progress: Progress | None = None) -> StudyResult:
    """Encodes every shard and trains every planned trial that is not yet there.

    Args:
        spec: The study, as `study.check.load_spec` or `study.check.check_spec` give it.
        progress: What shows how far it is; None for nothing.

    Raises:
        study.status.RunError: Another run works in the directory; or it cannot be written to.
        DescriptionError: Its records were made with other settings or data.
        embedding_jobs.sources.SourceError: The table is unsound.
        embedding_jobs.encoders.EncoderError: An encoder cannot be had.
        embedding_jobs.store.StoreError: The store is of another table or encoder.
    """
    progress = progress or Progress(Console(), quiet=True)
    refuse_changes(spec)
    spec.root.mkdir(parents=True, exist_ok=True)
    with only_run(spec.root), loss_as_error():
        write_activity(spec.root, Activity("embedding", time.time()))
        embed(spec, progress)
        embeddings = load_embeddings(spec)
        class_names, labels = np.unique(embeddings.labels, return_inverse=True)
        description = describe(spec, embeddings, [str(name) for name in class_names])
        refuse_changes(spec, description)
        write_description(spec.root, description)
        tracker = BackgroundTracker(
            lambda: make_tracker(spec, description), lambda: read_records(spec.records), progress.say
        )

        @cache
        def context() -> ray.ObjectRef:
            _connect(spec, progress)  # nothing was encoded, perhaps, and nothing is to be trained
            return ray.put(pack_context(spec, embeddings, labels, description))

        run = _Run(spec, progress, tracker, read_records(spec.records), description)
        for phase in PROTOCOLS[spec.splits.protocol]:
            run.phase(phase, context)
        progress.say("Writing the report ...")
        write_activity(spec.root, Activity("writing the report", time.time()))
        finished = finish_study(spec, tracker)
        return StudyResult(
            directory=spec.root,
            n_trained=run.n_trained,
            n_recorded=len(run.scores),
            failures=tuple(run.failures),
            stops=tuple(run.stops),
            results=finished.results,
            report=finished.report,
            report_problem=finished.report_problem,
            tracking_problem=finished.tracking_problem,
        )
