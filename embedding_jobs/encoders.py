"""What encoders are: their settings, the protocol they follow, where models come from, and the registry.

Importing this module loads neither torch nor transformers; the networks are in `text_encoder` and `image_encoder`.

A third party adds a kind of encoder with an entry point of the group `embedding_ablation_study.encoders`, whose name
is the kind and whose object follows `EncoderKind`; a `CustomEncoderConfig` names it. The same conformance tests run
over every registered kind.
"""

from __future__ import annotations

import hashlib
import importlib.util
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import lru_cache
from importlib.metadata import entry_points, version
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Protocol

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

ENTRY_POINT_GROUP = "embedding_ablation_study.encoders"
Pooling = Literal["last_layers_mean", "mean", "cls"]
VectorDtype = Literal["float32", "float16"]
ComputeDtype = Literal["auto", "float32", "bfloat16", "float16"]


class EncoderError(ValueError):
    """An encoder that cannot be had or used; the message names the model and the remedy."""


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


@dataclass(frozen=True)
class Prepared:
    """A unit's inputs, ready for the network.

    Attributes:
        arrays: Whatever the encoder of the same kind takes: token ids and lengths, or pixels.
        notes: For each input None, or what the store has to say of it ("truncated").
        errors: For each input None, or why it cannot be encoded. Arrays hold the others only, in order.
        amount: Tokens, or pixels, that the network will see.
    """

    arrays: dict[str, NDArray[Any]]
    notes: list[str | None]
    errors: list[str | None]
    amount: int


class Preprocessor(Protocol):
    """Turns raw inputs (texts, or encoded image bytes) into arrays, on a CPU and without the network's weights."""

    def __call__(self, inputs: Sequence[Any]) -> Prepared:
        """Prepare one unit. An input that cannot be read becomes an entry in `errors`, never an exception."""


class Encoder(Protocol):
    """A network with its weights on one device."""

    dimension: int

    def __call__(self, prepared: Prepared) -> NDArray[np.float32]:
        """Return vectors of shape (inputs without errors, dimension); depends on `prepared` alone."""


class EncoderKind(Protocol):
    """A family of encoders. What the registry holds."""

    modality: Literal["text", "image"]

    def describe(self, config: Any) -> dict[str, Any]:
        """Everything that a vector depends on, as JSON values; checks that the encoder can be had.

        Raises:
            EncoderError: The model or its weights cannot be had, or a setting does not fit them.
        """

    def preprocessor(self, config: Any) -> Preprocessor:
        """Load what preparing inputs takes."""

    def encoder(self, config: Any, device: str, n_threads: int) -> Encoder:
        """Load the network onto `device` ("cpu", "cuda")."""


def encoder_kind(config: EncoderConfig) -> EncoderKind:
    """Return the kind that serves `config`.

    Raises:
        EncoderError: No installed package registers the kind.
    """
    kinds = registry()
    name = {TextEncoderConfig: "text", ImageEncoderConfig: "image"}.get(type(config)) or getattr(config, "kind", "")
    if name not in kinds:
        raise EncoderError(
            f"`kind` must be one of {', '.join(sorted(kinds))}, got {name!r}; install the package that provides it"
        )
    return kinds[name]


@lru_cache(maxsize=1)
def registry() -> dict[str, EncoderKind]:
    """Every kind of encoder by name: the two built in, and those of entry points."""
    from embedding_jobs.image_encoder import ImageKind
    from embedding_jobs.text_encoder import TextKind

    kinds: dict[str, EncoderKind] = {"text": TextKind(), "image": ImageKind()}
    for entry in entry_points(group=ENTRY_POINT_GROUP):
        if entry.name in kinds:
            raise EncoderError(
                f"the encoder kind {entry.name!r} must be registered once, {entry.value} is one too many"
            )
        kinds[entry.name] = entry.load()
    return kinds


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


def fingerprint(config: EncoderConfig) -> dict[str, Any]:
    """Everything that a vector depends on, as JSON values.

    Raises:
        EncoderError: The encoder cannot be had; the message names the model and the remedy.
    """
    return {**encoder_kind(config).describe(config), "vector_dtype": config.vector_dtype}


def settings(config: EncoderConfig) -> dict[str, Any]:
    """The configuration as JSON values, for a manifest."""
    return json.loads(json.dumps(asdict(config), default=dict))  # type: ignore[no-any-return]


def software() -> dict[str, str]:
    """Versions of the libraries that compute vectors."""
    return {name: version(name) for name in ("torch", "transformers", "timm")}


@dataclass(frozen=True)
class ModelFolder:
    """A model's files on this machine.

    Attributes:
        path: The folder.
        commit: For a hub model the commit that was resolved.
    """

    path: Path
    commit: str | None = None


def find_model(model: str, revision: str | None) -> ModelFolder:
    """Find (from a hub: download, if it can be reached) the folder of a transformers model.

    Raises:
        EncoderError: There is no such folder, package, or hub model at hand.
    """
    if model.startswith("package://"):
        return ModelFolder(_package_folder(model))
    path = Path(model).expanduser()
    if path.is_dir():
        return ModelFolder(path)
    if model.startswith((".", "/", "~")):
        raise EncoderError(f"`model` must be an existing directory or a hub name, found nothing at {model}")
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HFValidationError

    patterns = ["*.safetensors", "*.json", "*.txt", "*.model"]
    try:
        found = Path(snapshot_download(model, revision=revision, allow_patterns=patterns))
    except (OSError, HFValidationError) as error:  # not cached, offline, unknown: the hub's errors are OSErrors
        reason = str(error).strip().splitlines()[0].removeprefix("Got: ")
        raise EncoderError(
            f"the encoder `{model}`{f' at revision {revision}' if revision else ''} cannot be had: {reason}. "
            "Download it where there is a network (`hf download`) and set `model` to its folder, or name another"
        ) from error
    return ModelFolder(found, commit=found.name)


def sha256_of(paths: Sequence[Path]) -> str:
    """One hash of the contents of files, in the order given."""
    digest = hashlib.sha256()
    for path in paths:
        with path.open("rb") as stream:
            digest.update(hashlib.file_digest(stream, "sha256").digest())
    return digest.hexdigest()


def _package_folder(model: str) -> Path:
    package, _, inside = model.removeprefix("package://").partition("/")
    spec = importlib.util.find_spec(package) if package.isidentifier() else None
    if spec is None or not spec.submodule_search_locations:
        raise EncoderError(
            f"`model` {model} needs the Python package `{package}`, which is not installed: pip install it"
        )
    folder = Path(next(iter(spec.submodule_search_locations))) / inside
    if not folder.is_dir():
        raise EncoderError(f"`model` {model}: the package `{package}` has no folder `{inside}`")
    return folder
