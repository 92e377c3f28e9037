"""Writing files whole or not at all."""

from __future__ import annotations

import hashlib
import json
import os
import uuid
from pathlib import Path
from typing import Any

from embedding_jobs.errors import StoreError


def write_file(path: Path, data: bytes | memoryview) -> str:
    """Write a file aside, flush it to the disk, and rename it; returns its sha256.

    Raises:
        StoreError: The disk is full or cannot be written; nothing is left behind.
    """
    aside = path.with_name(f".{path.name}.{uuid.uuid4().hex}.tmp")
    try:
        with aside.open("wb") as stream:
            stream.write(data)
            stream.flush()
            os.fsync(stream.fileno())
        aside.rename(path)
    except OSError as error:
        aside.unlink(missing_ok=True)
        raise StoreError(
            f"{path} must be writable: {error.strerror or error}; free space or give another store, and run again: "
            "what is finished is kept"
        ) from error
    return hashlib.sha256(data).hexdigest()


def write_json(path: Path, value: Any) -> None:
    """Write JSON, the same bytes for the same value."""
    write_file(path, (json.dumps(value, indent=1, sort_keys=True, ensure_ascii=False) + "\n").encode())


def remove_asides(folder: Path) -> None:
    """Remove what killed writers left of files that were never renamed."""
    for path in folder.glob(".*.tmp"):
        path.unlink(missing_ok=True)


def sha256_file(path: Path) -> str:
    """Hash a file without holding it."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def write_whole(path: Path, content: bytes) -> Path:
    """Writes a file whole or not at all, and makes its folder."""
    path.parent.mkdir(parents=True, exist_ok=True)
    aside = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        aside.write_bytes(content)
        aside.replace(path)
    finally:
        aside.unlink(missing_ok=True)
    return path
