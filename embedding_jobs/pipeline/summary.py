"""The progress of an extraction, and the summary at its end."""

from __future__ import annotations

import resource
import time
from dataclasses import dataclass, replace

from embedding_jobs.pipeline.workers import WrittenUnit
from embedding_jobs.store.manifests import ColumnManifest


@dataclass(frozen=True)
class ExtractionProgress:
    """The progress of a column.

    Attributes:
        column: `<column>--<encoder>`.
        n_shards_done: Number of shards written, including earlier runs.
        n_inputs_done: Number of distinct inputs that this run has encoded.
        n_inputs: Number of distinct inputs to encode in this run.
        inputs_per_s: Inputs per second since the first unit began; 0 before it is finished.
    """

    column: str
    n_shards_done: int
    n_shards: int
    n_inputs_done: int
    n_inputs: int
    inputs_per_s: float


@dataclass(frozen=True)
class ColumnSummary:
    """What a run did with one column. Rates are 0 if nothing was encoded.

    Attributes:
        name: `<column>--<encoder>`.
        n_inputs_encoded: Number of distinct inputs that this run encoded.
        n_shards_written: Number of shards that this run wrote.
        n_truncated: Number of texts cut at the model's limit.
        n_skipped: Number of rows without a vector.
        n_tokens: Number of tokens (text) or pixels (images) that this run encoded.
        elapsed_s: Wall time in seconds, including start-up and columns that shared the encoder.
        startup_s: Seconds until the first encoder had its network and its first unit.
        inputs_per_s: Distinct inputs per second after start-up.
        tokens_per_s: Tokens or pixels per second after start-up.
        waiting_fraction: Fraction of the time after start-up in which encoders waited for input.
        peak_rss_bytes: Sum of the peak memory of the driver and of each worker.
    """

    name: str
    n_items: int
    n_distinct: int
    n_inputs_encoded: int
    n_shards_written: int
    n_empty: int
    n_truncated: int
    n_skipped: int
    n_tokens: int = 0
    elapsed_s: float = 0.0
    startup_s: float = 0.0
    inputs_per_s: float = 0.0
    tokens_per_s: float = 0.0
    waiting_fraction: float = 0.0
    peak_rss_bytes: int = 0


def summarise(manifest: ColumnManifest) -> ColumnSummary:
    """Summarise a column as its manifest describes it, without anything that a run measured."""
    return ColumnSummary(
        name=f"{manifest.column}--{manifest.encoder}",
        n_items=manifest.n_items,
        n_distinct=manifest.n_distinct,
        n_inputs_encoded=0,
        n_shards_written=0,
        n_empty=manifest.n_empty,
        n_truncated=manifest.n_truncated,
        n_skipped=manifest.n_skipped,
    )


def measured(summary: ColumnSummary, written: list[WrittenUnit], n_shards: int, began_s: float) -> ColumnSummary:
    """Add to a summary what this run did and measured."""
    now_s = time.time()
    memory = {"driver": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024}
    for unit in written:
        for process, peak in unit.peak_rss_bytes.items():
            memory[process] = max(peak, memory.get(process, 0))
    summary = replace(
        summary, n_shards_written=n_shards, elapsed_s=now_s - began_s, peak_rss_bytes=sum(memory.values())
    )
    encodings = [unit.encoding for unit in written if unit.encoding]
    if not encodings:
        return summary
    ready_s = min(entry.start_s for entry in encodings)
    after_s = max(entry.stop_s for entry in encodings) - ready_s
    available_s = sum(
        max(entry.stop_s for entry in encodings if entry.process == process)
        - min(entry.start_s for entry in encodings if entry.process == process)
        for process in {entry.process for entry in encodings}
    )
    busy_s = sum(entry.stop_s - entry.start_s for entry in encodings)
    n_inputs = sum(unit.n_inputs for unit in written)
    n_tokens = sum(unit.amount for unit in written)
    return replace(
        summary,
        n_inputs_encoded=n_inputs,
        n_tokens=n_tokens,
        startup_s=ready_s - began_s,
        inputs_per_s=n_inputs / after_s,
        tokens_per_s=n_tokens / after_s,
        waiting_fraction=max(0.0, 1 - busy_s / available_s),
    )
