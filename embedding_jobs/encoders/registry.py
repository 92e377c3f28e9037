"""The kinds of encoder, by name: text, image, and those that third parties register."""

from __future__ import annotations

from functools import lru_cache
from importlib.metadata import entry_points, version
from typing import Any

from embedding_jobs.encoders.config import EncoderConfig
from embedding_jobs.encoders.protocol import EncoderKind
from embedding_jobs.errors import EncoderError

ENTRY_POINT_GROUP = "embedding_ablation_study.encoders"


def encoder_kind(config: EncoderConfig) -> EncoderKind:
    """Return the kind that serves `config`.

    Raises:
        EncoderError: No installed package registers the kind.
    """
    kinds = registry()
    if config.kind not in kinds:
        raise EncoderError(
            f"`kind` must be one of {', '.join(sorted(kinds))}, got {config.kind!r}; install the package that provides "
            "it"
        )
    return kinds[config.kind]


@lru_cache(maxsize=1)
def registry() -> dict[str, EncoderKind]:
    """Every kind of encoder by name: the two built in, and those of entry points."""
    from embedding_jobs.encoders.image import ImageKind
    from embedding_jobs.encoders.text import TextKind

    kinds: dict[str, EncoderKind] = {"text": TextKind(), "image": ImageKind()}
    for entry in entry_points(group=ENTRY_POINT_GROUP):
        if entry.name in kinds:
            raise EncoderError(
                f"the encoder kind {entry.name!r} must be registered once, {entry.value} is one too many"
            )
        kinds[entry.name] = entry.load()
    return kinds


def fingerprint(config: EncoderConfig) -> dict[str, Any]:
    """Everything that a vector depends on, as JSON values.

    Raises:
        EncoderError: The encoder cannot be had; the message names the model and the remedy.
    """
    return {**encoder_kind(config).describe(config), "vector_dtype": config.vector_dtype}


def software() -> dict[str, str]:
    """Versions of the libraries that compute vectors."""
    return {name: version(name) for name in ("torch", "transformers", "timm")}
