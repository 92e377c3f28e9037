"""The manifests of a store, as JSON: one of the items and one of each column, written last."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any, TypeVar

from embedding_jobs.errors import StoreError
from embedding_jobs.store.shards import AGAIN, Shard, write_json

FORMAT = 1

MANIFEST = "manifest.json"


@dataclass(frozen=True)
class ItemsManifest:
    """The items of a store and the table that they come from. The digests are those of `SourceFacts`."""

    table: str
    id: str
    label: str
    text: tuple[str, ...]
    image: str | None
    n_items: int
    n_classes: int
    rows_per_shard: int
    ids_digest: str
    labels_digest: str
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


def write_manifest(folder: Path, manifest: ItemsManifest | ColumnManifest) -> None:
    """Write a manifest. A column with a manifest is complete."""
    write_json(folder / MANIFEST, {"format": FORMAT, **asdict(manifest)})


_Manifest = TypeVar("_Manifest", ItemsManifest, ColumnManifest)


def read_manifest(path: Path, kind: type[_Manifest]) -> _Manifest:
    """Read a manifest.

    Raises:
        StoreError: The manifest is missing, unreadable, or of another version.
    """
    try:
        value = json.loads(path.read_text())
        if not isinstance(value, dict) or value.pop("format", None) != FORMAT:
            raise ValueError(f"`format` must be {FORMAT}")
        if set(value) != {entry.name for entry in fields(kind)}:
            raise ValueError("its fields are not those of this version")
        value["shards"] = tuple(Shard(**shard) for shard in value["shards"])
        for key in ("text", "made_with"):
            if key in value:
                value[key] = tuple(value[key])
        return kind(**value)
    except FileNotFoundError as error:
        raise StoreError(f"a complete store must have {path}, which is missing; run `study embed`") from error
    except (OSError, ValueError, TypeError) as error:
        raise StoreError(f"the manifest {path} must be readable: {error}; {AGAIN}") from error


def comparable(fingerprint: dict[str, Any]) -> dict[str, Any]:
    """Return a fingerprint without the model's names: its weights are hashed, and a moved model is the same model."""
    return {key: value for key, value in fingerprint.items() if key not in ("model", "revision")}
