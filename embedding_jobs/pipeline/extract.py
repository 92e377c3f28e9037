"""Encode what is missing in a store with a Ray Data pipeline: read and prepare -> encode -> write.

A row of the pipeline is a unit (see `planning`). Fixed pools of actors prepare and encode, so that memory does not
depend on the number of units. While a unit is encoded, the next one is prepared and the last one written. The driver
gathers shards as soon as their units are written. Finished work is a file: after a crash, run again to continue.
"""

from __future__ import annotations

import logging
import shutil
import threading
import time
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import ray
import ray.data
import ray.exceptions

from embedding_jobs.encoders.config import ColumnConfig, EncoderConfig, GivenConfig, TextEncoderConfig, column_name
from embedding_jobs.encoders.registry import encoder_kind, fingerprint
from embedding_jobs.errors import EncoderError, SourceError, StoreError
from embedding_jobs.files import hold_lock, private_folder
from embedding_jobs.pipeline.column import ColumnRun, FoundColumn, existing_column, find_column
from embedding_jobs.pipeline.given import write_given
from embedding_jobs.pipeline.pool import EncoderPool, encoder_pool
from embedding_jobs.pipeline.summary import ColumnSummary, ExtractionProgress, summarise
from embedding_jobs.pipeline.workers import Encode, Job, Prepare, Unit, WrittenUnit, guarded, write
from embedding_jobs.ray_session import start_ray, stop_ray
from embedding_jobs.sources.items import Source, SourceFacts
from embedding_jobs.store.items import checked_source, ensure_items, refuse_other_source
from embedding_jobs.store.store import Store

N_RETRIES = 3  # of a unit whose process died; Ray Data has no limit by default

_WATCH_EVERY_S = 2.0

_NODE_LOST_WAIT_S = 5.0  # until Ray no longer lists a lost node


@dataclass(frozen=True)
class CheckedExtraction:
    """An extraction that nothing speaks against: table, encoders and store are valid and fit together.

    Attributes:
        source: The table, with every input column that the store already has.
        facts: What is in it.
        encoders: Encoder by column, or that its vectors exist.
        fingerprints: Everything that a vector of each column depends on, besides its input.
    """

    source: Source
    facts: SourceFacts
    encoders: Mapping[str, ColumnConfig]
    fingerprints: Mapping[str, dict[str, Any]]
    store: Store
    rows_per_shard: int
    on_error: Literal["fail", "skip"]

    def refuse_other_store(self) -> None:
        """Compare with what the store has now.

        Raises:
            StoreError: The store was made from another table or by another encoder.
        """
        refuse_other_source(self.store, self.facts, self.source.table)
        for column, config in self.encoders.items():
            existing_column(self.store, column_name(column, config), self.fingerprints[column], self.on_error)


def extract(
    source: Source,
    encoders: Mapping[str, ColumnConfig],
    store: str | Path,
    *,
    rows_per_shard: int = 4096,
    on_error: Literal["fail", "skip"] = "fail",
    on_progress: Callable[[ExtractionProgress], None] | None = None,
    start_ray: Callable[[], None] | None = None,
) -> tuple[ColumnSummary, ...]:
    """Check an extraction and run it: `check_extraction`, then `run_extraction`."""
    checked = check_extraction(source, encoders, store, rows_per_shard=rows_per_shard, on_error=on_error)
    return run_extraction(checked, on_progress=on_progress, start_ray=start_ray)


def check_extraction(
    source: Source,
    encoders: Mapping[str, ColumnConfig],
    store: str | Path,
    *,
    rows_per_shard: int = 4096,
    on_error: Literal["fail", "skip"] = "fail",
) -> CheckedExtraction:
    """Check table, encoders and store, and change nothing.

    Args:
        source: The table.
        encoders: Encoder by column of the table; `GivenConfig` by the name of vectors that exist. Columns with the same
            encoder share its processes.
        store: Directory of the store; on a cluster, every node must see it under this path.
        rows_per_shard: Number of rows in a shard of a new store; an existing store keeps its number.
        on_error: What to do about an unreadable image or a missing vector: `fail`, or `skip`, which leaves the row
            without a vector and lists it in the column's `skipped.csv`.

    Raises:
        SourceError: The table is not valid.
        EncoderError: An encoder is not available.
        StoreError: The store was made from another table or by another encoder.
    """
    if rows_per_shard < 1:
        raise StoreError(f"`rows_per_shard` must be at least 1, got {rows_per_shard}")
    if on_error not in ("fail", "skip"):
        raise SourceError(f"`on_error` must be fail or skip, got {on_error!r}")
    _check_encoders(source, encoders)
    opened = Store(store)
    source, facts = checked_source(source, encoders, opened, on_error)
    fingerprints = {column: fingerprint(config) for column, config in encoders.items()}
    checked = CheckedExtraction(source, facts, encoders, fingerprints, opened, rows_per_shard, on_error)
    checked.refuse_other_store()
    return checked


def run_extraction(
    checked: CheckedExtraction,
    *,
    on_progress: Callable[[ExtractionProgress], None] | None = None,
    start_ray: Callable[[], None] | None = None,
) -> tuple[ColumnSummary, ...]:
    """Encode what the store does not have of the table yet, and return what was done with each column.

    Args:
        checked: The extraction.
        on_progress: Called in this process after each unit and each shard.
        start_ray: Called to start or join Ray when something is missing. By default a running Ray is used, else one is
            started for this run.

    Raises:
        SourceError: The table has changed since it was checked; or an image is unreadable.
        EncoderError: An encoder's process died repeatedly.
        StoreError: The store has changed since it was checked, another run writes to it, or the disk is full.
    """
    opened, report = checked.store, on_progress or (lambda _: None)
    private_folder(opened.directory)
    held = StoreError(f"Another run writes to {opened.directory}. Wait for it to end, or stop it.")
    with hold_lock(opened.directory / ".lock", held):
        checked.refuse_other_store()  # another run may have written to it
        items = ensure_items(checked.source, checked.facts, opened, checked.rows_per_shard)
        columns, summaries, names = [], {}, []
        given = {column.name: column for column in checked.source.vectors}
        for column, config in checked.encoders.items():
            names.append(column_name(column, config))
            if isinstance(config, GivenConfig):
                summaries[names[-1]] = write_given(
                    checked.source,
                    given[column],
                    checked.facts.vectors[column],
                    opened,
                    items,
                    dict(checked.fingerprints[column]),
                    checked.on_error,
                    report,
                )
                continue
            job = Job(
                source=checked.source,
                column=column,
                config=_pinned(config, checked.fingerprints[column]),
                store=str(opened.directory.absolute()),
                rows_per_shard=items.rows_per_shard,
                images_are_bytes=checked.facts.images_are_bytes,
                skip=checked.on_error == "skip",
            )
            columns.append(find_column(opened, items, job, checked.fingerprints[column]))
        incomplete = []
        for found in columns:
            if found.manifest is None or found.damaged:
                incomplete.append(found)
            else:
                summaries[found.name] = summarise(found.manifest)
                shutil.rmtree(opened.units(found.name), ignore_errors=True)
        if incomplete:
            with _ray(start_ray):
                for config in {repr(found.job.config): found.job.config for found in incomplete}.values():
                    sharing = [found for found in incomplete if found.job.config == config]
                    summaries |= _encode(sharing, report)
    return tuple(summaries[name] for name in names)


def _encode(
    columns: Sequence[FoundColumn], on_progress: Callable[[ExtractionProgress], None]
) -> dict[str, ColumnSummary]:
    """Encode what is missing of columns that share an encoder; returns the summaries by name."""
    pool = encoder_pool()
    job = columns[0].job
    runs = {found.name: ColumnRun(found, pool.device, on_progress) for found in columns}
    n_lost = 0
    while True:
        try:
            for unit in _pipeline([unit for run in runs.values() for unit in run.units()], job, pool):
                runs[unit.name].take(unit)
                n_lost = 0
            return {name: run.finish() for name, run in runs.items()}
        except (_NodeLostError, ray.exceptions.ActorUnavailableError) as error:
            # The second error also means a lost node: the unit's retries ended before Ray noticed the loss.
            n_lost += 1
            if n_lost > N_RETRIES:
                raise _given_up(job.config, error) from error
            time.sleep(_NODE_LOST_WAIT_S)
            pool = encoder_pool()


def _pipeline(units: list[Unit], job: Job, pool: EncoderPool) -> Iterator[WrittenUnit]:
    """Run units through the three stages, and yield each when it is written."""
    if not units:
        return
    context = ray.data.DataContext.get_current()
    context.enable_progress_bars = False
    context.print_on_execution_start = False
    logging.getLogger("ray.data").setLevel(logging.CRITICAL)
    # One unit per block: a unit does not wait for others, and a crash costs one unit.
    data = ray.data.from_items([{"unit": unit} for unit in units], override_num_blocks=len(units))
    # Writing is short: few writers suffice, and without a bound each burst of units would start more processes.
    writing = ray.data.TaskPoolStrategy(size=max(1, pool.n_actors))
    with warnings.catch_warnings():
        # Ray calls these arguments deprecated, but offers no other way to limit the retries after a crash.
        warnings.filterwarnings("ignore", message="`ray_remote_args` is deprecated")
        data = data.map(
            _StageOfRows,
            fn_constructor_args=(Prepare, job.config),
            compute=ray.data.ActorPoolStrategy(size=min(pool.n_preparing, len(units)), max_tasks_in_flight_per_actor=2),
            num_cpus=pool.task_cpus,
            max_restarts=-1,
            max_task_retries=N_RETRIES,
        )
        data = data.map(
            _StageOfRows,
            fn_constructor_args=(Encode, job.config, pool.device, pool.n_threads),
            compute=ray.data.ActorPoolStrategy(size=min(pool.n_actors, len(units)), max_tasks_in_flight_per_actor=2),
            num_cpus=pool.actor_cpus,
            num_gpus=pool.actor_gpus or None,
            max_restarts=-1,
            max_task_retries=N_RETRIES,
        )
        data = data.map(_write_row, compute=writing, num_cpus=pool.task_cpus / 2, max_retries=N_RETRIES)
    died = (ray.exceptions.RayActorError, ray.exceptions.WorkerCrashedError, ray.exceptions.OutOfMemoryError)
    try:
        with _ending_with_lost_nodes(data):
            for row in data.iter_rows():
                unit = row["unit"]
                if isinstance(unit, Unit):
                    assert unit.failure is not None
                    raise unit.failure
                yield unit
    except ray.exceptions.ActorUnavailableError:
        raise
    except died as error:
        raise _given_up(job.config, error) from error


def _given_up(config: EncoderConfig, error: Exception) -> EncoderError:
    return EncoderError(
        f"the process that encodes with {config.model} died {N_RETRIES + 1} times on one unit: {error}; most often the "
        "memory is too small: lower the encoder's `tokens_per_batch`, use nodes with more memory, or check that the "
        "cluster's nodes stay up, then run again"
    )


class _NodeLostError(Exception):
    """A node of the cluster was lost while it worked on units."""


@contextmanager
def _ending_with_lost_nodes(data: ray.data.Dataset) -> Iterator[None]:
    """End a pipeline when a node is lost on which it began.

    Ray Data would start the node's processes on other nodes. If these have no room for them, the units of the lost node
    would wait forever.

    Raises:
        _NodeLostError: A node was lost; replaces the error with which the pipeline ends then.
    """
    began_with, lost, ended = _alive_nodes(), threading.Event(), threading.Event()
    # There is no public way to end an execution from outside, and Ray Data stores it only after the first output.
    executors, create = [], data._create_executor

    def create_known() -> Any:
        executors.append(create())
        return executors[-1]

    data._create_executor = create_known

    def watch() -> None:
        while not ended.wait(_WATCH_EVERY_S):
            if began_with - _alive_nodes():
                lost.set()
                for executor in executors:
                    executor.shutdown(force=True)
                return

    watcher = threading.Thread(target=watch, daemon=True)
    watcher.start()
    try:
        yield
    except Exception as error:
        if lost.is_set():
            raise _NodeLostError("a node was lost") from error
        raise
    finally:
        ended.set()
        watcher.join()
    if lost.is_set():
        raise _NodeLostError("a node was lost")


def _alive_nodes() -> set[str]:
    return {node["NodeID"] for node in ray.nodes() if node["Alive"]}


class _StageOfRows:
    """A stage that an actor keeps, for the rows of Ray Data."""

    def __init__(self, kind: type[Prepare] | type[Encode], *settings: Any) -> None:
        self._stage = kind(*settings)

    def __call__(self, row: dict[str, Any]) -> dict[str, Any]:
        return {"unit": guarded(self._stage, row["unit"])}


def _write_row(row: dict[str, Any]) -> dict[str, Any]:
    return {"unit": guarded(write, row["unit"])}


def _pinned(config: EncoderConfig, made_of: Mapping[str, Any]) -> EncoderConfig:
    """Set the commit that this process found: a branch may have changed when a worker looks it up."""
    if isinstance(config, TextEncoderConfig):
        return replace(config, revision=made_of["revision"])
    return config


def _check_encoders(source: Source, encoders: Mapping[str, ColumnConfig]) -> None:
    if not encoders:
        raise EncoderError("`encoders` must name at least one column, got none")
    vectors = [column.name for column in source.vectors]
    for column, config in encoders.items():
        known = vectors if isinstance(config, GivenConfig) else source.inputs
        if column not in known:
            raise SourceError(f"`encoders` must name input columns ({', '.join(known)}), got `{column}`")
        if "--" in column or "/" in column:
            raise SourceError(f"an encoded column's name must not hold '--' or '/', got `{column}`; rename the column")
        if isinstance(config, GivenConfig):
            continue
        asked, given = encoder_kind(config).modality, source.modality(column)
        if asked != given:
            raise EncoderError(
                f"the encoder of `{column}` must be for {given} columns, {config.model} is for {asked}; "
                "choose another model or column"
            )
        if config.vector_dtype not in ("float32", "float16"):
            raise EncoderError(f"`vector_dtype` must be float32 or float16, got {config.vector_dtype!r}")


@contextmanager
def _ray(start: Callable[[], None] | None) -> Iterator[None]:
    """Use the running Ray; if there is none, start one for this run."""
    if start is not None:
        start()
    if ray.is_initialized():
        yield
        return
    start_ray()
    try:
        yield
    finally:
        stop_ray()
