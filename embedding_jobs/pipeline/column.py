"""One column of vectors: check what the store has of it, and complete it."""

from __future__ import annotations

import csv
import io
import shutil
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

from embedding_jobs.encoders.config import column_name, encoder_name
from embedding_jobs.encoders.registry import software
from embedding_jobs.errors import SourceError, StoreError
from embedding_jobs.files import remove_asides, sha256_file
from embedding_jobs.pipeline.planning import Gatherer, make_plan, read_unit, unit_path, valid_shard
from embedding_jobs.pipeline.summary import ColumnSummary, ExtractionProgress, measured, summarise
from embedding_jobs.pipeline.workers import Job, Unit, WrittenUnit
from embedding_jobs.store.items import read_inputs
from embedding_jobs.store.manifests import MANIFEST, ColumnManifest, ItemsManifest, comparable, write_manifest
from embedding_jobs.store.shards import Shard, damaged, part_name, read_part, write_json, write_stored
from embedding_jobs.store.store import ITEMS, SKIP_NOTE, SKIPPED, Store

_N_NAMED = 5


def existing_column(
    store: Store, name: str, made_of: dict[str, Any], on_error: Literal["fail", "skip"]
) -> ColumnManifest | None:
    """Return a complete column's manifest; None if the column is not complete or its manifest is unreadable.

    Raises:
        StoreError: The column was made by another encoder; or it has skipped rows and `on_error` is "fail".
    """
    if not (store.path(name) / MANIFEST).exists():
        return None
    try:
        found = store.column(name)
    except StoreError:
        return None  # a new one can be made from the shards
    mine, asked = comparable(found.fingerprint), comparable(made_of)
    differing = sorted(key for key in mine.keys() | asked.keys() if mine.get(key) != asked.get(key))
    if differing:
        listed = ", ".join(f"`{key}` (store: {mine.get(key)!r}, study: {asked.get(key)!r})" for key in differing)
        models = f"{found.fingerprint.get('model')} and {made_of.get('model')}"
        raise StoreError(
            f"the encoder of {store.path(name)} must be the study's, they differ in {listed}; models: {models}; "
            f"give the study another `directory`, or remove the column (`study embeddings rm {name}`)"
        )
    if found.n_skipped and on_error == "fail":
        raise StoreError(
            f"with `on_error: fail` every row must have a vector, {found.n_skipped} of {store.path(name)} were skipped "
            f"(see {SKIPPED}); set `on_error: skip`, or remove the column (`study embeddings rm {name}`)"
        )
    return found


@dataclass(frozen=True)
class FoundColumn:
    """A column as a run finds it in the store, before anything is encoded.

    Attributes:
        store: The store; its items are complete.
        manifest: The column's manifest; None if the column is not complete.
        damaged: With a manifest, the numbers of the shards that are missing or damaged.
        began_s: When the run looked, seconds since 1970.
    """

    store: Store
    items: ItemsManifest
    job: Job
    fingerprint: dict[str, Any]
    manifest: ColumnManifest | None
    damaged: tuple[int, ...]
    began_s: float

    @property
    def name(self) -> str:
        """`<column>--<encoder>`."""
        return column_name(self.job.column, self.job.config)


def find_column(store: Store, items: ItemsManifest, job: Job, fingerprint: dict[str, Any]) -> FoundColumn:
    """Find out whether a column is complete, and which of its shards are damaged."""
    began_s = time.time()
    name = column_name(job.column, job.config)
    manifest = existing_column(store, name, fingerprint, "skip" if job.skip else "fail")
    wrong: tuple[int, ...] = ()
    if manifest is not None:
        files = damaged(store.path(name), manifest.shards)
        wrong = tuple(number for number, shard in enumerate(manifest.shards) if shard.file in files)
    return FoundColumn(store, items, job, fingerprint, manifest, wrong, began_s)


class ColumnRun:
    """One column while its missing shards are encoded.

    Making it plans the work and writes the shards that need no encoding. Encode every unit of `units`, hand each result
    to `take`, then call `finish`.

    Attributes:
        name: `<column>--<encoder>`.
    """

    def __init__(self, found: FoundColumn, device: str, on_progress: Callable[[ExtractionProgress], None]) -> None:
        """Plan what is missing; `on_progress` is called after each unit and each shard."""
        self.name = found.name
        self._found = found
        self._store, self._items, self._job = found.store, found.items, found.job
        self._on_progress = on_progress
        self._folder = self._store.path(self.name)
        self._made_with = {**software(), "device": device}
        self._folder.mkdir(parents=True, exist_ok=True)
        self._store.units(self.name).mkdir(parents=True, exist_ok=True)
        made_of = {**found.fingerprint, "made_with": self._made_with}
        n_unit = self._job.config.items_per_unit
        self._plan = make_plan(self._store, self._items, self.name, self._job.column, made_of, n_unit)
        missing = self._missing_shards() if found.manifest is None else list(found.damaged)
        self._gatherer = Gatherer(self._store, self._plan, missing)
        remove_asides(self._store.units(self.name))
        self._remove_stale_units()
        self._todo = [unit for unit in self._gatherer.units if not self._unit_is_there(unit)]
        self._done = set(self._gatherer.units) - set(self._todo)
        self._n_prefix = 0  # number of the gatherer's first units that are done without a gap
        self._waiting = missing
        self._written: list[WrittenUnit] = []
        self._report()
        self._advance()

    def units(self) -> list[Unit]:
        """Return the units that are left to encode."""
        plan = self._plan
        return [
            Unit(self._job, self.name, i, str(unit_path(self._store, plan, i).absolute()), plan.unit_rows(i))
            for i in self._todo
            if i not in self._done
        ]

    def take(self, unit: WrittenUnit) -> None:
        """Register a unit that was written, and write the shards that waited for it.

        Raises:
            SourceError: The unit has unreadable images, and `on_error` is "fail".
        """
        if unit.errors and not self._job.skip:
            raise self._unreadable(unit)
        self._written.append(unit)
        self._done.add(unit.index)
        self._report()
        self._advance()

    def finish(self) -> ColumnSummary:
        """Complete the column: write its manifest and remove its units."""
        manifest = self._complete()
        shutil.rmtree(self._store.units(self.name))
        remove_asides(self._folder)
        summary = measured(summarise(manifest), self._written, len(self._gatherer.missing), self._found.began_s)
        if self._written:
            write_json(self._store.directory / "runs" / f"{self.name}.json", asdict(summary))
        return summary

    @cached_property
    def _dimension(self) -> int:
        """Length of the vectors: from the manifest, else from a unit, else (no unit is needed) from a valid shard."""
        if self._found.manifest is not None:
            return self._found.manifest.dimension
        if self._gatherer.units:
            return int(read_unit(unit_path(self._store, self._plan, self._gatherer.units[0]))[0].shape[1])
        valid = next(i for i in range(len(self._plan.shard_keys)) if i not in self._gatherer.missing)
        return shard_dimension(self._folder / part_name(valid))

    def _advance(self) -> None:
        """Write the shards whose units are all encoded."""
        gatherer = self._gatherer
        while self._n_prefix < len(gatherer.units) and gatherer.units[self._n_prefix] in self._done:
            self._n_prefix += 1
        while self._waiting and gatherer.ready(self._waiting[0], self._n_prefix):
            gatherer.write(self._waiting[0], self._dimension, self._job.config.vector_dtype)
            del self._waiting[0]
            self._report()

    def _report(self) -> None:
        encodings = [unit.encoding for unit in self._written if unit.encoding]
        n_now = sum(unit.n_inputs for unit in self._written)
        seconds = 0.0
        if encodings:
            seconds = max(entry.stop_s for entry in encodings) - min(entry.start_s for entry in encodings)
        self._on_progress(
            ExtractionProgress(
                column=self.name,
                n_shards_done=len(self._items.shards) - len(self._waiting),
                n_shards=len(self._items.shards),
                n_inputs_done=n_now,
                n_inputs=sum(len(self._plan.unit_rows(unit)) for unit in self._todo),
                inputs_per_s=n_now / seconds if seconds > 0 else 0.0,
            )
        )

    def _complete(self) -> ColumnManifest:
        """Write the table of skipped rows, then the manifest."""
        folder, items, config = self._folder, self._items, self._job.config
        finished = finish_shards(self._store, items, self.name, self._job.column)
        earlier = self._found.manifest.made_with if self._found.manifest else ()
        manifest = ColumnManifest(
            column=self._job.column,
            encoder=encoder_name(config),
            ids_digest=items.ids_digest,
            input_digest=items.input_digests[self._job.column],
            fingerprint=self._found.fingerprint,
            settings=asdict(config),
            made_with=earlier if self._made_with in earlier else (*earlier, self._made_with),
            dimension=shard_dimension(folder / part_name(0)),
            dtype=config.vector_dtype,
            n_items=items.n_items,
            rows_per_shard=items.rows_per_shard,
            n_distinct=len(self._plan.first_rows),
            n_empty=items.n_empty_texts.get(self._job.column, 0),
            n_truncated=finished.n_truncated,
            n_skipped=finished.n_skipped,
            shards=finished.shards,
        )
        write_manifest(folder, manifest)
        return manifest

    def _unreadable(self, unit: WrittenUnit) -> SourceError:
        rows = [row for row, _ in unit.errors[:_N_NAMED]]
        ids = read_inputs(self._store, "id", rows, self._items.rows_per_shard)
        listed = [f"  - id {name}: {reason}" for name, (_, reason) in zip(ids, unit.errors, strict=False)]
        if len(unit.errors) > len(rows):
            listed.append(
                f"  and {len(unit.errors) - len(rows)} more of the {unit.n_inputs} images that were read together"
            )
        return SourceError(
            f"every image of `{self._job.column}` must be readable, {len(unit.errors)} are not"
            f" ({self._job.source.table}):\n" + "\n".join(listed) + "\n"
            "replace the files, remove the rows, or set `on_error: skip`; encoded images are kept"
        )

    def _unit_is_there(self, unit: int) -> bool:
        path = unit_path(self._store, self._plan, unit)
        if not path.exists():
            return False
        try:
            vectors, notes = read_unit(path)
            valid = len(vectors) == len(self._plan.unit_rows(unit)) and not self._must_go(notes)
        except StoreError:
            valid = False
        if not valid:
            path.unlink()
        return valid

    def _missing_shards(self) -> list[int]:
        """Find the shards that are missing, damaged or made from something else, without a manifest."""
        paths = [self._folder / part_name(number) for number in range(len(self._plan.shard_keys))]
        return [
            number
            for number, (path, key) in enumerate(zip(paths, self._plan.shard_keys, strict=True))
            if not valid_shard(path, key) or self._must_go(read_part(path, ["note"]).column("note").to_pylist())
        ]

    def _must_go(self, notes: list[str | None]) -> bool:
        """Return whether an earlier run skipped rows in a file, and this run must not skip any."""
        return not self._job.skip and any(note is not None and note.startswith(SKIP_NOTE) for note in notes)

    def _remove_stale_units(self) -> None:
        """Remove units that were encoded for another table or encoder."""
        known = {f"{key}.arrow" for key in self._plan.unit_keys}
        for path in self._store.units(self.name).iterdir():
            if path.name not in known:
                path.unlink()


@dataclass(frozen=True)
class FinishedShards:
    """The shards of a column that lacks only its manifest, and how many of its rows were cut or have no vector."""

    shards: tuple[Shard, ...]
    n_truncated: int
    n_skipped: int


def finish_shards(store: Store, items: ItemsManifest, name: str, column: str | None) -> FinishedShards:
    """List the rows without a vector in a table, remove shards that no longer belong to the column, and count.

    Args:
        store: The store.
        items: Its items.
        name: `<column>--<encoder>`; its shards are all written.
        column: The items' column of inputs, which the table of skipped rows shows; None if they have none.
    """
    folder, shards, n_truncated = store.path(name), [], 0
    skipped: list[tuple[int, str, str, str]] = []
    for number, counterpart in enumerate(items.shards):
        path = folder / part_name(number)
        notes = read_part(path, ["note"]).column("note")
        if notes.null_count < len(notes):
            rows = read_part(store.path(ITEMS) / counterpart.file, ["id", *([column] if column else [])]).to_pydict()
            for i, note in enumerate(notes.to_pylist()):
                n_truncated += note == "truncated"
                if note is not None and note.startswith(SKIP_NOTE):
                    row = number * items.rows_per_shard + i
                    value = rows[column][i] if column else ""
                    skipped.append((row, rows["id"][i], value, note.removeprefix(SKIP_NOTE)))
        shards.append(Shard(part_name(number), len(notes), path.stat().st_size, sha256_file(path)))
    for path in set(folder.glob("part-*.parquet")) - {folder / shard.file for shard in shards}:
        path.unlink()
    if skipped:
        text = io.StringIO()
        writer = csv.writer(text, lineterminator="\n")
        writer.writerow(["row", "id", "input", "reason"])
        writer.writerows(skipped)
        write_stored(folder / SKIPPED, text.getvalue().encode())
    else:
        (folder / SKIPPED).unlink(missing_ok=True)
    return FinishedShards(tuple(shards), n_truncated, len(skipped))


def shard_dimension(path: Path) -> int:
    """Return the length of the vectors in a shard."""
    return int(read_part(path, ["vector"]).column("vector").type.list_size)
