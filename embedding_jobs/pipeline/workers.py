"""The work of the worker processes, without Ray: read and prepare a unit, encode it, write it."""

from __future__ import annotations

import os
import resource
import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np

from embedding_jobs.encoders.config import EncoderConfig, encoder_name
from embedding_jobs.encoders.protocol import Encoder, Prepared, Preprocessor
from embedding_jobs.encoders.registry import encoder_kind
from embedding_jobs.errors import EncoderError, SourceError, StoreError
from embedding_jobs.pipeline.planning import write_unit
from embedding_jobs.sources.items import Source, image_location, read_image_bytes
from embedding_jobs.sources.places import read_file
from embedding_jobs.store.items import read_inputs
from embedding_jobs.store.store import SKIP_NOTE, Store

if TYPE_CHECKING:
    from numpy.typing import NDArray

_Failure = SourceError | EncoderError | StoreError

Out = TypeVar("Out")


@dataclass(frozen=True)
class Job:
    """One column to encode: what every worker needs to know.

    Attributes:
        images_are_bytes: Whether an image column holds the images themselves.
        skip: Whether to write units with unreadable inputs.
    """

    source: Source
    column: str
    config: EncoderConfig
    store: str
    rows_per_shard: int
    images_are_bytes: bool
    skip: bool


@dataclass(frozen=True)
class Unit:
    """A unit on its way through the stages.

    Attributes:
        name: `<column>--<encoder>`.
        index: Its number in the plan.
        rows: Rows of its inputs, shape (inputs,), ascending.
        prepared: The prepared inputs, after the first stage.
        vectors: After the second stage, shape (readable inputs, dimension).
        encoding: After the second stage, when and where it was encoded.
        peak_rss_bytes: Peak memory of each process that worked on it.
        failure: The error that stopped it. It is a value since a raised one would reach the driver as text inside an
            error of Ray.
    """

    job: Job
    name: str
    index: int
    path: str
    rows: NDArray[np.int64]
    prepared: Prepared | None = None
    vectors: NDArray[np.float32] | None = None
    encoding: Encoding | None = None
    peak_rss_bytes: dict[str, int] = field(default_factory=dict)
    failure: _Failure | None = None


@dataclass(frozen=True)
class Encoding:
    """When one encoder process encoded a unit, in seconds since 1970."""

    process: str
    start_s: float
    stop_s: float


@dataclass(frozen=True)
class WrittenUnit:
    """What the driver needs to know of a written unit.

    Attributes:
        name: `<column>--<encoder>`.
        index: Its number in the plan.
        amount: Number of tokens or pixels that were encoded.
        errors: (row, reason) of unreadable inputs; with any, the unit is written only if the job skips them.
        encoding: When it was encoded; None if it was not.
        peak_rss_bytes: Peak memory of each process that worked on it.
    """

    name: str
    index: int
    n_inputs: int
    amount: int
    errors: tuple[tuple[int, str], ...]
    encoding: Encoding | None
    peak_rss_bytes: dict[str, int]


def guarded(stage: Callable[[Unit], Out], unit: Unit) -> Out | Unit:
    """Run a stage on a unit unless an earlier stage failed; returns the unit with the failure if this stage fails."""
    if unit.failure is not None:
        return unit
    try:
        return stage(unit)
    except (SourceError, EncoderError, StoreError) as error:
        return replace(unit, prepared=None, vectors=None, failure=error)


class Prepare:
    """Read a unit's inputs and prepare them for the network."""

    def __init__(self, config: EncoderConfig) -> None:
        self._config = config
        self._preprocessor: Preprocessor | None = None

    def __call__(self, unit: Unit) -> Unit:
        """Prepare one unit."""
        if self._preprocessor is None:  # not in __init__, so that an error becomes the failure of a unit
            self._preprocessor = encoder_kind(self._config).preprocessor(self._config)
        inputs, reasons = _read(unit)
        prepared = self._preprocessor(inputs)
        # An error of the preprocessor names its file.
        errors = [
            None if error is None else error if reason is None else reason if data is None else f"{reason}: {error}"
            for error, reason, data in zip(prepared.errors, reasons, inputs, strict=True)
        ]
        return replace(unit, prepared=replace(prepared, errors=errors), peak_rss_bytes=_memory(unit))


class Encode:
    """Encode units on one device. The network is kept until the process ends."""

    def __init__(self, config: EncoderConfig, device: str, n_threads: int) -> None:
        self._config = config
        self._device = device
        self._n_threads = n_threads
        self._encoder: Encoder | None = None

    def __call__(self, unit: Unit) -> Unit:
        """Encode one unit.

        Raises:
            EncoderError: A vector is not finite.
        """
        prepared = unit.prepared
        assert prepared is not None
        if any(prepared.errors) and not unit.job.skip:
            return unit
        if self._encoder is None:  # not in __init__, so that an error becomes the failure of a unit
            self._encoder = encoder_kind(self._config).encoder(self._config, self._device, self._n_threads)
        start_s = time.time()
        vectors = self._encoder(prepared).astype(self._config.vector_dtype, copy=False)
        stop_s = time.time()
        bad = np.flatnonzero(~np.isfinite(vectors).all(axis=1))
        if len(bad):
            readable = [row for row, error in zip(unit.rows, prepared.errors, strict=True) if error is None]
            raise EncoderError(
                f"vectors must be finite, {encoder_name(self._config)} made {len(bad)} that are not, the first for row "
                f"{readable[bad[0]]}; choose a wider `compute_dtype` or `vector_dtype` (float32)"
            )
        encoding = Encoding(f"{os.uname().nodename}:{os.getpid()}", start_s, stop_s)
        return replace(unit, vectors=vectors, encoding=encoding, peak_rss_bytes=_memory(unit))


def write(unit: Unit) -> WrittenUnit:
    """Write an encoded unit, with NaN and a note for a skipped input.

    A unit with unreadable inputs is not encoded unless the job skips them.
    """
    prepared = unit.prepared
    assert prepared is not None
    if unit.vectors is not None:
        readable = np.array([error is None for error in prepared.errors], dtype=bool)
        vectors = np.full((len(readable), unit.vectors.shape[1]), np.nan, dtype=unit.job.config.vector_dtype)
        vectors[readable] = unit.vectors
        noted = zip(prepared.notes, prepared.errors, strict=True)
        notes = [note if error is None else SKIP_NOTE + error for note, error in noted]
        write_unit(Path(unit.path), vectors, notes)
    errors = [(int(row), error) for row, error in zip(unit.rows, prepared.errors, strict=True) if error is not None]
    return WrittenUnit(
        name=unit.name,
        index=unit.index,
        n_inputs=len(unit.rows),
        amount=prepared.amount,
        errors=tuple(errors),
        encoding=unit.encoding,
        peak_rss_bytes=_memory(unit),
    )


def _read(unit: Unit) -> tuple[list[Any], list[str | None]]:
    """Read a unit's inputs (texts, or image files and None), and for each image file its path or why it is missing."""
    job = unit.job
    store = Store(job.store)
    rows = unit.rows.tolist()
    if job.source.modality(job.column) == "image" and job.images_are_bytes:
        return list(read_image_bytes(job.source, rows)), [None] * len(rows)
    values = read_inputs(store, job.column, rows, job.rows_per_shard)
    if job.source.modality(job.column) == "text":
        return list(values), [None] * len(rows)
    images: list[bytes | None] = []
    reasons: list[str | None] = []
    for path in values:
        try:
            images.append(read_file(image_location(job.source, path)) if path else None)
        except OSError as error:
            images.append(None)
            reasons.append(f"{path}: {error.strerror or error}")
        else:
            reasons.append(path or None)
    return images, reasons


def _memory(unit: Unit) -> dict[str, int]:
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    return {**unit.peak_rss_bytes, f"{os.uname().nodename}:{os.getpid()}": peak}
