"""Run a study: encode, train what is missing, record, track, report."""

from __future__ import annotations

import shutil
import time
from contextlib import ExitStack
from functools import cache

import numpy as np
import ray

from analysis.format import plural
from embedding_jobs.files import private_folder, remove_asides
from embedding_jobs.pipeline.extract import CheckedExtraction, check_extraction, run_extraction
from embedding_jobs.ray_folder import end_leftovers
from study.config.schema import StudySpec
from study.execution.capacity import missing_node
from study.execution.devices import devices_in_words, with_devices
from study.execution.finish import finish_study
from study.execution.pack_context import load_embeddings, pack_context
from study.execution.phases import RunState, train_phases
from study.execution.prepare import prepare
from study.execution.progress import Progress, notebook_progress
from study.execution.ray_connection import address_of, connect_ray, disconnect_ray, loss_as_error
from study.state.description import describe, refuse_changes, refuse_foreign, refuse_foreign_early, refuse_other_data
from study.state.lock import Activity, only_run, read_activity, write_activity
from study.state.results import StudyResult
from study.tracking.background import BackgroundTracker
from trainables.records.description import DESCRIPTION, write_description
from trainables.records.failures import read_failures, read_stops
from trainables.records.parquet import own_records, read_records, set_aside_damaged


def check_run(spec: StudySpec) -> CheckedExtraction:
    """Check everything that may speak against a run, and change nothing.

    Raises:
        DescriptionError: The records in the study's directory were made with other settings or data.
        RecordError: Some records there are of another study.
        SourceError: The table is not valid.
        EncoderError: An encoder is not available.
        StoreError: The store was made from another table or encoder.
    """
    refuse_changes(spec)
    checked = check_extraction(
        spec.data.source,
        spec.column_encoders,
        spec.store,
        rows_per_shard=spec.resources.rows_per_shard,
        on_error=spec.data.on_error,
    )
    refuse_other_data(spec, checked.facts, checked.fingerprints)
    refuse_foreign_early(spec)
    return checked


def embed(
    spec: StudySpec, progress: Progress, checked: CheckedExtraction | None = None, *, trains: bool = False
) -> None:
    """Encode the shards that are missing in the store. Ray is started if it is needed.

    Args:
        spec: The study.
        progress: Shows the progress.
        checked: What `check_run` returned; without it, that is done first.
        trains: Whether packs are trained next: nothing is encoded if the cluster has no node for a pack.

    Raises:
        ClusterError: The Ray cluster does not answer, or has no node that is large enough.
        LostError: Ray has stopped.
    """

    def start() -> None:
        _connect(spec, progress)
        if trains:
            _missing_node(spec, trains=True)
        if missing := _missing_node(spec, encodes=True):
            _wait_for(spec, progress, missing)

    checked = checked or check_run(spec)
    private_folder(spec.root)
    with loss_as_error():
        columns = run_extraction(checked, on_progress=progress.embedding, start_ray=start)
    progress.end_embedding()
    for column in columns:
        done = f"{column.n_inputs_encoded:,} distinct inputs encoded at {column.inputs_per_s:,.0f}/s after start-up"
        if not column.n_inputs_encoded:
            n_written = column.n_shards_written
            done = f"{plural(n_written, 'shard')} written" if n_written else "already in the store"
        progress.say(
            f"{column.name}: {column.n_items:,} items, {done}"
            + (f", {plural(column.n_empty, 'empty text')}" if column.n_empty else "")
            + (f", {column.n_truncated:,} texts cut at the model's limit" if column.n_truncated else "")
            + (f", {column.n_skipped:,} skipped" if column.n_skipped else "")
        )


def _connect(spec: StudySpec, progress: Progress) -> None:
    if not ray.is_initialized():
        address = address_of(spec)
        progress.say("Starting Ray ..." if address == "local" else f"Joining the Ray cluster at {address} ...")
    connect_ray(spec)


def _missing_node(spec: StudySpec, *, encodes: bool = False, trains: bool = False) -> str | None:
    return missing_node(spec, encodes=encodes, trains=trains, local=address_of(spec) == "local")


def _wait_for(spec: StudySpec, progress: Progress, missing: str) -> None:
    progress.say(f"Waiting until the cluster adds {missing} ...")
    if read_activity(spec.root) is not None:  # the command is `run`
        write_activity(spec.root, Activity(f"waiting until the cluster adds {missing}", time.time()))


def run_study(
    spec: StudySpec, progress: Progress | None = None, checked: CheckedExtraction | None = None
) -> StudyResult:
    """Encode every missing shard, train every missing trial, write the report and end the study's MLflow run.

    Args:
        spec: The study, from `load_spec` or `check_spec`.
        progress: Shows the progress. None shows it in a notebook, and not elsewhere.
        checked: What `check_run` returned; without it, that is done first.

    Raises:
        RunError: Another run works in the directory, or the directory cannot be written to.
        DescriptionError: The records there were made with other settings or data.
        RecordError: Some records there are of another study.
        SourceError: The table is not valid.
        EncoderError: An encoder is not available.
        StoreError: The store was made from another table or encoder.
        ClusterError: The Ray cluster does not answer, or has no node that is large enough.
        LostError: Ray has stopped; recorded trials are kept.
    """
    prepare()
    from study.tracking.sync import make_tracker  # imports MLflow

    progress = progress or notebook_progress()
    checked = checked or check_run(spec)
    private_folder(spec.root)
    with only_run(spec.root), ExitStack() as stack:
        # What killed runs have left, also where nothing is left to train.
        end_leftovers()
        shutil.rmtree(spec.tune, ignore_errors=True)
        write_activity(spec.root, Activity("embedding", time.time()))
        embed(spec, progress, checked, trains=True)
        embeddings = load_embeddings(spec)
        class_names, labels = np.unique(embeddings.labels, return_inverse=True)
        description = describe(spec, embeddings, [str(name) for name in class_names])
        refuse_changes(spec, description)
        for damaged in set_aside_damaged(spec.records):
            progress.say(damaged)
        recorded, foreign = own_records(spec.records, description.mismatch)
        refuse_foreign(foreign)
        failures = read_failures(spec.records, *description.made_by)
        read_stops(spec.records, *description.made_by)  # one of another study is refused, too
        remove_asides(spec.root, DESCRIPTION)
        remove_asides(spec.records)
        write_description(spec.root, description)
        tracker = BackgroundTracker(
            lambda: make_tracker(spec, description), lambda: read_records(spec.records), progress.say
        )
        stack.callback(tracker.give_up)  # where a phase raises; `finish_study` closes it

        @cache
        def context() -> ray.ObjectRef:
            _connect(spec, progress)  # Ray is not started yet if nothing was encoded
            if missing := _missing_node(spec, trains=True):
                _wait_for(spec, progress, missing)
            placed = with_devices(spec)
            progress.say(devices_in_words(placed.resources))
            return ray.put(pack_context(placed, embeddings, labels, description))

        run = RunState(spec, progress, tracker, description, recorded, failures)
        with loss_as_error():
            train_phases(run, context)
        disconnect_ray()  # what is left to do needs no Ray, so its loss cannot end it
        progress.say("Writing the report ...")
        write_activity(spec.root, Activity("writing the report", time.time()))
        finished = finish_study(spec, tracker)
        return StudyResult(
            directory=spec.root,
            n_trained=run.n_trained,
            n_recorded=len(run.scores),
            failures=tuple(run.failures),
            stops=tuple(run.stops),
            **vars(finished),
        )
