"""The paths in a study file: whether a file system can have them, and where they lead from the file's folder."""

from __future__ import annotations

import os
import reprlib
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from study.config.schema import Data, Encoders

_MAX_NAME_BYTES = 255  # of a file


def place_problems(sections: Mapping[str, Any], directory: object) -> Iterator[tuple[str, str]]:
    """Yield the section and the problem of each path that no file system can have."""
    encoders = sections.get("encoders")
    places = {
        "directory": directory,
        "data.table": getattr(sections.get("data"), "table", None),
        "encoders.text.model": getattr(getattr(encoders, "text", None), "model", None),
        "encoders.image.checkpoint": getattr(getattr(encoders, "image", None), "checkpoint", None),
    }
    for column in sections["data"].vector_columns if "data" in sections else ():
        places[f"data.vectors.{column.name}"] = column.file
    for key, place in places.items():
        if not isinstance(place, str):
            continue
        try:
            if not place.strip():
                raise ValueError("it is empty")
            if any(
                len(part.encode()) > _MAX_NAME_BYTES for part in (*place.split("/"), *["x" * 999] * (len(place) > 4000))
            ):
                raise ValueError("it is too long")
            resolved(place, Path())
        except (RuntimeError, ValueError, OSError) as error:
            yield key.split(".")[0], f"`{key}` must be a path, got {shown(place)}: {error}"


def directory_problem(directory: str) -> str | None:
    """Return why a study's directory cannot be made; None if it can, as far as names tell."""
    place = next(place for place in (Path(directory), *Path(directory).parents) if os.path.lexists(place))
    if os.path.isdir(place):
        return None
    below = "" if place == Path(directory) else f", got {directory}"
    return f"`directory` must be a directory, and {place} is a file{below}; give another path"


def resolved(location: str, base: Path) -> str:
    """Return a path as it is from `base`; a URL stays."""
    return location if "://" in location else str((base / Path(location).expanduser()).resolve())


def resolved_data(data: Data, base: Path) -> Data:
    """Return the data with absolute paths of the table and of files of vectors."""
    vectors = data.vectors
    if not isinstance(vectors, tuple):
        vectors = {name: resolved(file, base) for name, file in vectors.items()}
    return data.model_copy(update={"table": resolved(data.table, base), "vectors": vectors})


def resolved_encoders(encoders: Encoders, base: Path) -> Encoders:
    """Return the encoders with absolute paths of local models and checkpoints. Hub names stay."""
    text, image = encoders.text, encoders.image
    if text and (text.model.startswith((".", "/", "~")) or os.path.isdir(base / text.model)):
        text = replace(text, model=resolved(text.model, base))
    if image and image.checkpoint:
        image = replace(image, checkpoint=resolved(image.checkpoint, base))
    return encoders.model_copy(update={"text": text, "image": image})


def shown(value: object) -> str:
    """Return a value as a message shows it: long and deep ones are cut."""
    short = reprlib.Repr()
    short.maxlevel, short.maxstring, short.maxother = 3, 80, 80
    return short.repr(value)
