"""The settings of an encoder: plain values, declared once, which are also the study file's `encoders` section.

The classes are frozen dataclasses. The bounds in their annotations hold where pydantic reads a study file; an encoder
checks against its model what else it needs.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal

from pydantic import ConfigDict, Field, with_config

# Begins the name of a model folder inside an installed Python package: the same on every machine.
PACKAGE_SCHEME = "package://"

# Takes the place of an encoder's name where vectors exist.
GIVEN = "given"

Pooling = Literal["model", "last_layers_mean", "mean", "cls"]

VectorDtype = Literal["float32", "float16"]

ComputeDtype = Literal["auto", "float32", "bfloat16", "float16"]

_KNOWN_KEYS = ConfigDict(extra="forbid")

_Count = Annotated[int, Field(ge=1)]


@with_config(_KNOWN_KEYS)
@dataclass(frozen=True)
class TextEncoderConfig:
    """A transformers encoder.

    Attributes:
        model: Hub name, local directory, or `package://<package>/<folder>` for a folder inside an installed package.
        revision: Commit, tag or branch of a hub model. A branch is pinned to its commit in the manifest.
        layers: How many of the last hidden states `last_layers_mean` concatenates; None for 2. For it alone.
        pooling: `model` takes what a folder of sentence-transformers says of itself: pooling, dense layers,
            normalisation, limit and default prompt. `last_layers_mean` takes the mean over the real tokens of each of
            the last `layers` hidden states and concatenates the means (Wolfe & Lundgaard 2019, section 2.1,
            https://arxiv.org/abs/1912.00772); `mean` takes the mean of the last hidden state alone; `cls` takes its
            first token. None: `model` where the folder has a `modules.json`, else `last_layers_mean`.
        max_tokens: Length at which texts are cut, special tokens included; None for the model's limit.
        prefix: Put in front of every text ("query: ", "passage: "), as some models require. None: with the pooling
            `model` its default prompt, else nothing.
        tokens_per_batch: Padded tokens in one batch; None chooses by device.
        vector_dtype: Type of the stored vectors.
        compute_dtype: Type that the network computes in; `auto` is float32 on a CPU, half precision on a GPU.
        compile: Use `torch.compile`.
    """

    kind: ClassVar[str] = "text"
    # Distinct inputs that are encoded and written together: an interruption loses at most these.
    items_per_unit: ClassVar[int] = 2048

    model: str
    revision: str | None = None
    layers: _Count | None = None
    pooling: Pooling | None = None
    max_tokens: _Count | None = None
    prefix: str | None = None
    tokens_per_batch: _Count | None = None
    vector_dtype: VectorDtype = "float32"
    compute_dtype: ComputeDtype = "auto"
    compile: bool = False


@with_config(_KNOWN_KEYS)
@dataclass(frozen=True)
class ImageEncoderConfig:
    """A timm network; its vector is the global average pool of its last feature map.

    Attributes:
        model: timm model name.
        checkpoint: A file of weights for `model`, used instead of the published ones: a path, or
            `package://<package>/<file>` inside an installed package; safetensors, or a state dict of PyTorch.
        image_size: Side in pixels; None for the model's default.
        vector_dtype: Type of the stored vectors.
        compute_dtype: Type that the network computes in; `auto` is float32 on a CPU, half precision on a GPU.
        compile: Use `torch.compile`.
    """

    kind: ClassVar[str] = "image"
    items_per_unit: ClassVar[int] = 64

    model: str
    checkpoint: str | None = None
    image_size: Annotated[int, Field(ge=8)] | None = None
    vector_dtype: VectorDtype = "float32"
    compute_dtype: ComputeDtype = "auto"
    compile: bool = False


@with_config(_KNOWN_KEYS)
@dataclass(frozen=True)
class CustomEncoderConfig:
    """An encoder of a kind that another package registers.

    Attributes:
        kind: Name of the entry point.
        options: Settings of the kind; JSON values.
        vector_dtype: Type of the stored vectors.
    """

    items_per_unit: ClassVar[int] = 256

    kind: str
    model: str
    options: dict[str, Any] = field(default_factory=dict)
    vector_dtype: VectorDtype = "float32"


@dataclass(frozen=True)
class GivenConfig:
    """No encoder: the vectors exist, and are stored as float32."""

    model: str = GIVEN
    vector_dtype: VectorDtype = "float32"


EncoderConfig = TextEncoderConfig | ImageEncoderConfig | CustomEncoderConfig

# How a column's vectors come to be.
ColumnConfig = EncoderConfig | GivenConfig


def encoder_name(config: ColumnConfig) -> str:
    """Return the encoder's name in the store, derived from its model."""
    model = config.model.removeprefix(PACKAGE_SCHEME)
    last = model.split("/")[0] if model != config.model else Path(model).name
    return re.sub(r"-+", "-", re.sub(r"[^A-Za-z0-9_.]", "-", last)).strip("-.") or "encoder"


def column_name(column: str, config: ColumnConfig) -> str:
    """Return the store's name of a table column's vectors: `<column>--<encoder>`."""
    return f"{column}--{encoder_name(config)}"
