"""Measure the speed of an encoder on the first inputs of a table."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import chain, islice
from typing import Any

from embedding_jobs.encoders.config import EncoderConfig
from embedding_jobs.encoders.registry import encoder_kind
from embedding_jobs.errors import SourceError
from embedding_jobs.sources import tables
from embedding_jobs.sources.items import Source, image_location
from embedding_jobs.sources.places import read_file

_MOST_INPUTS, _WARM_UP = 256, 8

# A step is repeated at most three times, and not again once its repeats have taken three seconds.
_N_REPEATS, _REPEATS_S = 3, 3.0

# Shortest time of a step: far below any encoding, and above the resolution of the clock.
_LEAST_S = 1e-6


@dataclass(frozen=True)
class EncodingCost:
    """How fast a column is encoded.

    Attributes:
        prepared_per_s: Inputs per second of one preprocessing task.
        encoded_per_s: Inputs per second of one encoder.
    """

    column: str
    n_inputs: int
    prepared_per_s: float
    encoded_per_s: float


def measure_encoder(source: Source, column: str, config: EncoderConfig, device: str, n_threads: int) -> EncodingCost:
    """Encode the first unit of a table, at most 256 inputs; the vectors are not kept.

    Each time is the smallest of several repeats, since other work on the machine only ever adds to it.

    Raises:
        SourceError: The table cannot be read.
        EncoderError: The encoder is not available.
    """
    kind = encoder_kind(config)
    prepare, encode = kind.preprocessor(config), kind.encoder(config, device, n_threads)
    inputs = list(islice(_inputs(source, column), min(_MOST_INPUTS, config.items_per_unit)))
    if not inputs:
        raise SourceError(f"the first inputs of `{column}` must be readable, none is ({source.table}); add the files")
    encode(prepare(inputs[:_WARM_UP]))
    prepared, prepared_s = _fastest(lambda: prepare(inputs))
    _, encoded_s = _fastest(lambda: encode(prepared))
    return EncodingCost(column, len(inputs), len(inputs) / prepared_s, len(inputs) / encoded_s)


def _fastest(step: Callable[[], Any]) -> tuple[Any, float]:
    """Return the result of a step, and the seconds of its fastest repeat."""
    repeats_s: list[float] = []
    while len(repeats_s) < _N_REPEATS and sum(repeats_s) < _REPEATS_S:
        began_s = time.perf_counter()
        result = step()
        repeats_s.append(time.perf_counter() - began_s)
    return result, max(min(repeats_s), _LEAST_S)


def _inputs(source: Source, column: str) -> Iterator[Any]:
    """Yield texts, or the bytes of images; images that cannot be read are left out."""
    values = chain.from_iterable(
        columns[column] for _, columns in tables.stream_rows(source.table, [column], batch_rows=64)
    )
    if source.modality(column) == "text":
        yield from (str(value or "") for value in values)
        return
    for value in values:
        if isinstance(value, bytes):
            yield value
        elif value:
            try:
                yield read_file(image_location(source, str(value)))
            except OSError:
                continue
