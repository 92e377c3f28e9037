"""What encoding costs, measured on the first inputs of a table."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import chain, islice
from typing import Any

from embedding_jobs.encoders.config import EncoderConfig
from embedding_jobs.encoders.registry import encoder_kind
from embedding_jobs.sources import tables
from embedding_jobs.sources.items import Source, image_location

_MOST_INPUTS, _WARM_UP = 256, 8


@dataclass(frozen=True)
class EncodingCost:
    """Rates of one process of each kind, in inputs a second.

    Attributes:
        column: The column that was encoded.
        n_inputs: How many of its inputs.
        prepared_per_s: By one preparing process.
        encoded_per_s: By one encoder.
    """

    column: str
    n_inputs: int
    prepared_per_s: float
    encoded_per_s: float


def measure_encoder(source: Source, column: str, config: EncoderConfig, device: str, n_threads: int) -> EncodingCost:
    """Encodes a unit of a table's first inputs, at most 256; nothing of it is kept.

    Args:
        source: The table.
        column: Its column.
        config: The encoder.
        device: "cpu" or "cuda".
        n_threads: Threads of the encoder on a CPU.

    Raises:
        SourceError: The table cannot be read.
        EncoderError: The encoder cannot be had.
    """
    kind = encoder_kind(config)
    prepare, encode = kind.preprocessor(config), kind.encoder(config, device, n_threads)
    inputs = list(islice(_inputs(source, column), min(_MOST_INPUTS, config.items_per_unit)))
    encode(prepare(inputs[:_WARM_UP]))
    began_s = time.perf_counter()
    prepared = prepare(inputs)
    prepared_s = time.perf_counter()
    encode(prepared)
    ended_s = time.perf_counter()
    n_inputs = len(inputs)
    return EncodingCost(column, n_inputs, n_inputs / (prepared_s - began_s), n_inputs / (ended_s - prepared_s))


def _inputs(source: Source, column: str) -> Iterator[Any]:
    """Texts, or encoded images; images that cannot be read are left out."""
    values = chain.from_iterable(columns[column] for _, columns in tables.stream(source.table, [column], batch_rows=64))
    if source.modality(column) == "text":
        yield from (str(value or "") for value in values)
        return
    for value in values:
        if isinstance(value, bytes):
            yield value
        elif value:
            try:
                yield tables.read_file(image_location(source, str(value)))
            except OSError:
                continue
