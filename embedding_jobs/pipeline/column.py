"""A column of vectors as a whole: is it there, is it the one asked for, what is missing, and completing it."""

from __future__ import annotations

import csv
import io
import shutil
import time
from collections.abc import Callable
from dataclasses import asdict
from typing import Any, Literal

from embedding_jobs.encoders.config import column_name, encoder_name
from embedding_jobs.encoders.registry import software
from embedding_jobs.errors import SourceError, StoreError
from embedding_jobs.files import remove_asides, sha256_file
from embedding_jobs.pipeline.planning import Gatherer, Plan, make_plan, read_unit, sound_shard, unit_path
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
    """Return a complete column's manifest, None if it is not complete or its manifest is unreadable.

    Raises:
        StoreError: It was made by another encoder; or rows were skipped and now none may be.
    """
    if not (store.path(name) / MANIFEST).exists():
        return None
    try:
        found = store.column(name)
    except StoreError:
        return None  # the shards carry what it takes to make a new one
    mine, asked = comparable(found.fingerprint), comparable(made_of)
    differing = sorted(key for key in mine.keys() | asked.keys() if mine.get(key) != asked.get(key))
    if differing:
        listed = ", ".join(f"`{key}` {mine.get(key)!r} in the store and {asked.get(key)!r} asked" for key in differing)
        models = f"{found.fingerprint.get('model')} and {made_of.get('model')}"
        raise StoreError(
            f"the encoder of {store.path(name)} must be the one asked for, they differ in {listed} (models {models}); "
            f"give the study another `directory`, or remove the column (`study embeddings rm {name}`)"
        )
    if found.n_skipped and on_error == "fail":
        raise StoreError(
            f"with on_error: fail every row must have a vector, {found.n_skipped} of {store.path(name)} were skipped "
            f"(see {SKIPPED}); set on_error: skip, or remove the column (`study embeddings rm {name}`) and embed again"
        )
    return found


class ColumnRun:
    """One column being encoded: what of it is missing, and where it stands.

    Call `look`, where anything is missing `start`, hand every unit of `units` on to be encoded and what comes of it to
    `take`, then call `finish`.

    Attributes:
        name: `<column>--<encoder>`.
        job: What the workers are told.
    """

    def __init__(
        self,
        store: Store,
        items: ItemsManifest,
        job: Job,
        made_of: dict[str, Any],
        on_progress: Callable[[ExtractionProgress], None],
    ) -> None:
        """Look at nothing yet; `made_of` is the encoder's fingerprint."""
        self.name = column_name(job.column, job.config)
        self.job = job
        self._store = store
        self._items = items
        self._made_of = made_of
        self._on_progress = on_progress
        self._manifest: ColumnManifest | None = None
        self._missing: list[int] | None = None
        self._made_with: dict[str, Any] = {}
        self._plan: Plan | None = None
        self._gatherer: Gatherer | None = None
        self._todo: list[int] = []
        self._done: set[int] = set()
        self._waiting: list[int] = []
        self._dimension: int | None = None
        self._written: list[WrittenUnit] = []

    def look(self) -> bool:
        """Whether anything is missing."""
        self._began_s = time.time()
        self._manifest = existing_column(self._store, self.name, self._made_of, "skip" if self.job.skip else "fail")
        if self._manifest is not None:
            wrong = damaged(self._store.path(self.name), self._manifest.shards)
            self._missing = [number for number, shard in enumerate(self._manifest.shards) if shard.file in wrong]
        return self._missing != []

    def start(self, device: str) -> None:
        """Plan what is missing, and write the shards that need no encoding.

        Args:
            device: What the rest is encoded on, "cpu" or "cuda".
        """
        self._made_with = {**software(), "device": device}
        self._store.path(self.name).mkdir(parents=True, exist_ok=True)
        self._store.units(self.name).mkdir(parents=True, exist_ok=True)
        made_of = {**self._made_of, "made_with": self._made_with}
        plan = make_plan(self._store, self._items, self.name, self.job.column, made_of, self.job.config.items_per_unit)
        missing = self._missing_shards(plan) if self._missing is None else self._missing
        self._plan = plan
        self._gatherer = Gatherer(self._store, plan, missing)
        self._dimension = self._manifest.dimension if self._manifest else None
        remove_asides(self._store.units(self.name))
        self._remove_stale_units(plan)
        self._todo = [unit for unit in self._gatherer.units if not self._unit_is_there(plan, unit)]
        self._done = set(self._gatherer.units) - set(self._todo)
        self._n_prefix = 0
        self._waiting = list(missing)
        self._report()
        self._advance()

    def units(self) -> list[Unit]:
        """Units that are left to encode."""
        plan = self._plan
        assert plan is not None
        return [
            Unit(self.job, self.name, index, str(unit_path(self._store, plan, index).absolute()), plan.unit_rows(index))
            for index in self._todo
            if index not in self._done
        ]

    def take(self, unit: WrittenUnit) -> None:
        """Note a unit that was written, and write the shards that waited for it.

        Raises:
            SourceError: It holds images that cannot be read, and none may be skipped.
        """
        if unit.errors and not self.job.skip:
            raise self._unreadable(unit)
        self._written.append(unit)
        self._done.add(unit.index)
        self._report()
        self._advance()

    def finish(self) -> ColumnSummary:
        """Complete the column."""
        if self._plan is None:
            assert self._manifest is not None
            shutil.rmtree(self._store.units(self.name), ignore_errors=True)
            return summarise(self._manifest)
        manifest = self._complete(self._plan)
        shutil.rmtree(self._store.units(self.name))
        remove_asides(self._store.path(self.name))
        assert self._gatherer is not None
        summary = measured(summarise(manifest), self._written, len(self._gatherer.missing), self._began_s)
        if self._written:
            runs = self._store.directory / "runs"
            runs.mkdir(exist_ok=True)
            write_json(runs / f"{self.name}.json", asdict(summary))
        return summary

    def _advance(self) -> None:
        """Write the shards whose units are all there."""
        gatherer = self._gatherer
        assert gatherer is not None
        while self._n_prefix < len(gatherer.units) and gatherer.units[self._n_prefix] in self._done:
            self._n_prefix += 1
        while self._waiting and gatherer.ready(self._waiting[0], self._n_prefix):
            if self._dimension is None:
                self._dimension = self._find_dimension(gatherer)
            gatherer.write(self._waiting.pop(0), self._dimension, self.job.config.vector_dtype)
            self._report()

    def _report(self) -> None:
        plan, encodings = self._plan, [unit.encoding for unit in self._written if unit.encoding]
        assert plan is not None
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
                n_inputs=sum(len(plan.unit_rows(unit)) for unit in self._todo),
                inputs_per_s=n_now / seconds if seconds > 0 else 0.0,
                elapsed_s=time.time() - self._began_s,
            )
        )

    def _complete(self, plan: Plan) -> ColumnManifest:
        """Write what is derived from the shards (the table of skipped rows), then the manifest."""
        folder, items, config = self._store.path(self.name), self._items, self.job.config
        shards = []
        skipped: list[tuple[int, str, str, str]] = []
        n_truncated = 0
        dimension = 0
        for number, counterpart in enumerate(items.shards):
            path = folder / part_name(number)
            part = read_part(path, ["note"])
            notes = part.column("note")
            if notes.null_count < len(notes):
                rows = read_part(self._store.path(ITEMS) / counterpart.file, ["id", self.job.column]).to_pydict()
                for i, note in enumerate(notes.to_pylist()):
                    n_truncated += note == "truncated"
                    if note is not None and note.startswith(SKIP_NOTE):
                        row = number * items.rows_per_shard + i
                        skipped.append((row, rows["id"][i], rows[self.job.column][i], note.removeprefix(SKIP_NOTE)))
            if not number:
                first = read_part(path, ["vector"])
                dimension = int(first.column("vector").type.list_size)
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
        earlier = self._manifest.made_with if self._manifest else ()
        manifest = ColumnManifest(
            column=self.job.column,
            encoder=encoder_name(config),
            ids_digest=items.ids_digest,
            input_digest=items.input_digests[self.job.column],
            fingerprint=self._made_of,
            settings=asdict(config),
            made_with=earlier if self._made_with in earlier else (*earlier, self._made_with),
            dimension=dimension,
            dtype=config.vector_dtype,
            n_items=items.n_items,
            rows_per_shard=items.rows_per_shard,
            n_distinct=len(plan.first_rows),
            n_empty=items.n_empty_texts.get(self.job.column, 0),
            n_truncated=n_truncated,
            n_skipped=len(skipped),
            shards=tuple(shards),
        )
        write_manifest(folder, manifest)
        return manifest

    def _unreadable(self, unit: WrittenUnit) -> SourceError:
        rows = [row for row, _ in unit.errors[:_N_NAMED]]
        ids = read_inputs(self._store, "id", rows, self._items.rows_per_shard)
        listed = [f"  - id {name}: {reason}" for name, (_, reason) in zip(ids, unit.errors, strict=False)]
        if len(unit.errors) > len(rows):
            listed.append(f"  and {len(unit.errors) - len(rows)} more of the {unit.n_inputs} that were read together")
        return SourceError(
            f"every image of `{self.job.column}` must be readable, {len(unit.errors)} are not"
            f" ({self.job.source.table}):\n" + "\n".join(listed) + "\n"
            "replace the files or leave the rows out, or set on_error: skip; what is encoded is kept"
        )

    def _unit_is_there(self, plan: Plan, unit: int) -> bool:
        path = unit_path(self._store, plan, unit)
        if not path.exists():
            return False
        try:
            vectors, notes = read_unit(path)
            sound = len(vectors) == len(plan.unit_rows(unit)) and not self._may_not_stay(notes)
        except StoreError:
            sound = False
        if not sound:
            path.unlink()
        return sound

    def _missing_shards(self, plan: Plan) -> list[int]:
        """Numbers of the shards that are missing, damaged or of something else, where no manifest tells."""
        paths = [self._store.path(self.name) / part_name(number) for number in range(len(plan.shard_keys))]
        return [
            number
            for number, (path, key) in enumerate(zip(paths, plan.shard_keys, strict=True))
            if not sound_shard(path, key) or self._may_not_stay(read_part(path, ["note"]).column("note").to_pylist())
        ]

    def _may_not_stay(self, notes: list[str | None]) -> bool:
        """Whether a run that was allowed to skip rows, and ended early, left some out that this one needs."""
        return not self.job.skip and any(note is not None and note.startswith(SKIP_NOTE) for note in notes)

    def _remove_stale_units(self, plan: Plan) -> None:
        """Remove units of what the table or the encoder no longer is."""
        known = {f"{key}.arrow" for key in plan.unit_keys}
        for path in self._store.units(plan.name).iterdir():
            if path.name not in known:
                path.unlink()

    def _find_dimension(self, gatherer: Gatherer) -> int:
        """Width of the vectors, from a unit or, where none is needed, from a sound shard."""
        assert self._plan is not None
        if gatherer.units:
            return int(read_unit(unit_path(self._store, self._plan, gatherer.units[0]))[0].shape[1])
        sound = next(i for i in range(len(self._plan.shard_keys)) if i not in gatherer.missing)
        part = read_part(self._store.path(self.name) / part_name(sound), ["vector"])
        return int(part.column("vector").type.list_size)
