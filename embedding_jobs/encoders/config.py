"""The settings of an encoder, as a study file gives them."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

from embedding_jobs.errors import EncoderError

Pooling = Literal["last_layers_mean", "mean", "cls"]

VectorDtype = Literal["float32", "float16"]

ComputeDtype = Literal["auto", "float32", "bfloat16", "float16"]


@dataclass(frozen=True)
class TextEncoderConfig:
    """A transformers encoder.

    Attributes:
        model: Hub name, local directory, or `package://<package>/<folder>` for a folder inside an installed package.
        revision: Commit, tag or branch of a hub model. A branch is pinned to its commit in the manifest.
        layers: How many of the last hidden states `last_layers_mean` concatenates.
        pooling: `last_layers_mean`: for each of the last `layers` hidden states the mean over the real tokens,
            concatenated (Wolfe & Lundgaard 2019, §2.1); `mean`: of the last one alone; `cls`: its first token.
        max_tokens: Longer texts are cut here, special tokens included; None is the model's own limit.
        prefix: Put in front of every text ("query: ", "passage: "), as some models require.
        tokens_per_batch: Padded tokens in one batch; None chooses by device.
        vector_dtype: Type in which vectors are kept.
        compute_dtype: Type in which the network computes; `auto` is float32 on a CPU, half precision on a GPU.
        compile: Use `torch.compile`.
        items_per_unit: Distinct inputs that are encoded and written together: what an interruption can cost.
        name: Name of the encoder in the store; None derives it from `model`.
    """

    model: str
    revision: str | None = None
    layers: int = 2
    pooling: Pooling = "last_layers_mean"
    max_tokens: int | None = None
    prefix: str = ""
    tokens_per_batch: int | None = None
    vector_dtype: VectorDtype = "float32"
    compute_dtype: ComputeDtype = "auto"
    compile: bool = False
    items_per_unit: int = 2048
    name: str | None = None


@dataclass(frozen=True)
class ImageEncoderConfig:
    """A timm network; its vector is the global average pool of its last feature map.

    Attributes:
        model: timm model name.
        pretrained: Take timm's published weights; otherwise weights are drawn from `seed`.
        checkpoint: A local safetensors file of weights for `model`, used in place of the published ones.
        seed: Of the weights where `pretrained` is false and there is no checkpoint.
        image_size: Side in pixels; None is the model's own.
        images_per_batch: Images in one batch; None chooses by device.
        vector_dtype: Type in which vectors are kept.
        compute_dtype: Type in which the network computes; `auto` is float32 on a CPU, half precision on a GPU.
        compile: Use `torch.compile`.
        items_per_unit: Distinct images that are encoded and written together: what an interruption can cost.
        name: Name of the encoder in the store; None derives it from `model`.
    """

    model: str
    pretrained: bool = True
    checkpoint: str | None = None
    seed: int = 0
    image_size: int | None = None
    images_per_batch: int | None = None
    vector_dtype: VectorDtype = "float32"
    compute_dtype: ComputeDtype = "auto"
    compile: bool = False
    items_per_unit: int = 64
    name: str | None = None


@dataclass(frozen=True)
class CustomEncoderConfig:
    """An encoder of a kind that another package registered.

    Attributes:
        kind: Name of the entry point.
        model: What to call the encoder.
        options: Whatever the kind understands; JSON values.
        vector_dtype: Type in which vectors are kept.
        items_per_unit: Distinct inputs that are encoded and written together.
        name: Name of the encoder in the store; None derives it from `model`.
    """

    kind: str
    model: str
    options: Mapping[str, Any] = field(default_factory=dict)
    vector_dtype: VectorDtype = "float32"
    items_per_unit: int = 256
    name: str | None = None


EncoderConfig = TextEncoderConfig | ImageEncoderConfig | CustomEncoderConfig


def encoder_name(config: EncoderConfig) -> str:
    """The encoder's name in the store: `name`, or one derived from the model.

    Raises:
        EncoderError: `name` cannot be part of a folder's name.
    """
    if config.name is not None:
        if not re.fullmatch(r"[A-Za-z0-9_.]+(-[A-Za-z0-9_.]+)*", config.name):
            raise EncoderError(f"`name` must be letters, digits, '.', '_' and single '-', got {config.name!r}")
        return config.name
    model = config.model.removeprefix("package://")
    last = model.split("/")[0] if model != config.model else Path(model).name
    return re.sub(r"-+", "-", re.sub(r"[^A-Za-z0-9_.]", "-", last)).strip("-.") or "encoder"


def settings(config: EncoderConfig) -> dict[str, Any]:
    """The configuration as JSON values, for a manifest."""
    return json.loads(json.dumps(asdict(config), default=dict))  # type: ignore[no-any-return]
