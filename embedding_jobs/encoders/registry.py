"""Find a kind of encoder by name: text, image, or one that another package registers."""

from __future__ import annotations

from functools import lru_cache
from importlib.metadata import entry_points, version
from typing import Any

from embedding_jobs.encoders.config import ColumnConfig, EncoderConfig, GivenConfig
from embedding_jobs.encoders.protocol import EncoderKind
from embedding_jobs.errors import EncoderError

ENTRY_POINT_GROUP = "embedding_ablation_study.encoders"


def encoder_kind(config: EncoderConfig) -> EncoderKind:
    """Return the kind of encoder that `config` asks for.

    Raises:
        EncoderError: No installed package registers the kind.
    """
    kinds = registry()
    if config.kind not in kinds:
        raise EncoderError(
            f"`kind` must be one of {', '.join(sorted(kinds))}, got {config.kind!r}; install the package that "
            "registers it"
        )
    return kinds[config.kind]


@lru_cache(maxsize=1)
def registry() -> dict[str, EncoderKind]:
    """Return every kind of encoder by name: the two built-in kinds, and those of entry points."""
    from embedding_jobs.encoders.image import ImageKind
    from embedding_jobs.encoders.text import TextKind

    kinds: dict[str, EncoderKind] = {"text": TextKind(), "image": ImageKind()}
    for entry in entry_points(group=ENTRY_POINT_GROUP):
        if entry.name in kinds:
            raise EncoderError(
                f"the encoder kind {entry.name!r} is registered twice, the second time by {entry.value}; "
                "uninstall one of the packages"
            )
        kinds[entry.name] = entry.load()
    return kinds


def fingerprint(config: ColumnConfig) -> dict[str, Any]:
    """Return everything that a vector depends on besides its input, as JSON values.

    Raises:
        EncoderError: The encoder is not available.
    """
    if isinstance(config, GivenConfig):
        return {"model": config.model, "vector_dtype": config.vector_dtype}
    return {**encoder_kind(config).describe(config), "vector_dtype": config.vector_dtype}


def software() -> dict[str, str]:
    """Return the versions of the libraries that compute vectors."""
    return {name: version(name) for name in ("torch", "transformers", "timm")}
