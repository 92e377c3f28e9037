"""Files at a path or a URL."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any

from embedding_jobs.errors import SourceError

# Schemes that Arrow reads natively; any other goes through the fsspec implementation of its name.
_ARROW_SCHEMES = ("file", "s3", "gs", "gcs", "hdfs")


def file_sizes(locations: Sequence[str]) -> list[int]:
    """Return the size of each file in bytes; -1 if it is missing or not a file."""
    sizes = []
    for location in locations:
        if "://" in location:
            filesystem, path = open_place(location)
            info = filesystem.get_file_info(path)
            sizes.append(int(info.size) if info.is_file else -1)
        else:
            try:
                sizes.append(os.stat(location).st_size if os.path.isfile(location) else -1)
            except OSError:
                sizes.append(-1)
    return sizes


def read_file(location: str) -> bytes:
    """Read a whole file from a path or URL.

    Raises:
        OSError: The file cannot be read.
    """
    if "://" not in location:
        with open(location, "rb") as file:
            return file.read()
    filesystem, path = open_place(location)
    with filesystem.open_input_file(path) as remote:
        return bytes(remote.read())


def open_place(location: str) -> tuple[Any, str]:
    """Return the Arrow file system and the path in it of a local path or a URL."""
    from pyarrow import fs

    if "://" not in location:
        return fs.LocalFileSystem(), os.path.abspath(os.path.expanduser(location))
    scheme, _, rest = location.partition("://")
    if scheme in _ARROW_SCHEMES:
        filesystem, path = fs.FileSystem.from_uri(location)
        return filesystem, path
    import fsspec  # type: ignore[import-untyped]

    try:
        return fs.PyFileSystem(fs.FSSpecHandler(fsspec.filesystem(scheme))), rest
    except (ValueError, ImportError) as error:
        raise SourceError(f"{location} must be a path, or a URL of a storage that is installed: {error}") from error
