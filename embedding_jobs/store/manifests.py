"""The manifests of a store, as JSON: one of the items and one of each column, written last."""

from __future__ import annotations

from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any, TypeVar

from pydantic import TypeAdapter, ValidationError

from embedding_jobs.errors import StoreError
from embedding_jobs.files import read_json
from embedding_jobs.store.shards import AGAIN, Shard, part_name, write_json

MANIFEST = "manifest.json"


@dataclass(frozen=True)
class ItemsManifest:
    """The items of a store and the table that they come from. The digests are those of `SourceFacts`."""

    table: str
    id: str | None
    label: str | None
    text: tuple[str, ...]
    image: str | None
    group: str | None
    split: str | None
    n_items: int
    n_classes: int
    rows_per_shard: int
    ids_digest: str
    metadata_digests: dict[str, str]
    input_digests: dict[str, str]
    n_empty_texts: dict[str, int]
    shards: tuple[Shard, ...]


@dataclass(frozen=True)
class ColumnManifest:
    """One column of vectors, and how it was made.

    Attributes:
        ids_digest: Digest of the ids of the encoded items.
        input_digest: Digest of the column's values.
        fingerprint: Everything that a vector depends on, besides its input.
        made_with: Software and device of each run that wrote vectors.
        dtype: "float32" or "float16".
        n_items: Number of rows, including skipped ones.
        rows_per_shard: Rows in every shard but the last.
        n_distinct: Number of distinct inputs; each was encoded once.
        n_truncated: Number of texts cut at the model's limit.
        n_skipped: Number of rows without a vector.
    """

    column: str
    encoder: str
    ids_digest: str
    input_digest: str
    fingerprint: dict[str, Any]
    settings: dict[str, Any]
    made_with: tuple[dict[str, str], ...]
    dimension: int
    dtype: str
    n_items: int
    rows_per_shard: int
    n_distinct: int
    n_empty: int
    n_truncated: int
    n_skipped: int
    shards: tuple[Shard, ...]


_FORMATS = {ItemsManifest: 2, ColumnManifest: 1}


def write_manifest(folder: Path, manifest: ItemsManifest | ColumnManifest) -> None:
    """Write a manifest. A column with a manifest is complete."""
    write_json(folder / MANIFEST, {"format": _FORMATS[type(manifest)], **asdict(manifest)})


_Manifest = TypeVar("_Manifest", ItemsManifest, ColumnManifest)


def read_manifest(path: Path, kind: type[_Manifest]) -> _Manifest:
    """Read a manifest.

    Raises:
        StoreError: The manifest is missing, unreadable, or of another version.
    """
    try:
        value = read_json(path)
        if not isinstance(value, dict) or value.pop("format", None) != _FORMATS[kind]:
            raise ValueError(f"`format` must be {_FORMATS[kind]}")
        if set(value) != {entry.name for entry in fields(kind)}:
            raise ValueError("its fields are not those of this version")
        manifest: _Manifest = TypeAdapter(kind).validate_python(value)
        _check_rows(manifest)
        return manifest
    except FileNotFoundError as error:
        raise StoreError(f"a complete store must have {path}, which is missing; run `study embed`") from error
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        key = ".".join(map(str, first["loc"]))
        raise StoreError(f"the manifest {path} must be readable: `{key}`: {first['msg']}; {AGAIN}") from error
    except (OSError, ValueError) as error:
        raise StoreError(f"the manifest {path} must be readable: {error}; {AGAIN}") from error


def _check_rows(manifest: ItemsManifest | ColumnManifest) -> None:
    """Check that the shards have the rows that the manifest counts, each under its own name."""
    n_items, n_rows, shards = manifest.n_items, manifest.rows_per_shard, manifest.shards
    if n_items < 1 or n_rows < 1 or len(shards) != -(-n_items // n_rows):
        raise ValueError(f"{len(shards)} shards of {n_rows} rows do not hold {n_items} items")
    for number, shard in enumerate(shards):
        if (shard.file, shard.n_rows) != (part_name(number), min(n_rows, n_items - number * n_rows)):
            raise ValueError(f"`shards.{number}` must be {part_name(number)} with its share of the rows, got {shard}")


def comparable(fingerprint: dict[str, Any]) -> dict[str, Any]:
    """Return a fingerprint without the model's names: its weights are hashed, and a moved model is the same model."""
    return {key: value for key, value in fingerprint.items() if key not in ("model", "revision")}
