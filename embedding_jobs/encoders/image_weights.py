"""Find the weights of a timm network: a local file, one in an installed package, or timm's published ones.

A file of PyTorch's own format is read once with `weights_only=True`, which runs no code of the file, and is kept as
safetensors in the user's cache. Its tensors may have the names of another implementation of the network: they are then
taken in the file's order, if their number and every shape are the network's.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from embedding_jobs.encoders.config import PACKAGE_SCHEME, ImageEncoderConfig
from embedding_jobs.encoders.model_files import package_path, sha256_of
from embedding_jobs.errors import EncoderError
from embedding_jobs.files import private_folder, write_whole

if TYPE_CHECKING:
    from torch import Tensor

_PYTORCH = (".pth", ".pt", ".bin")


def weights_file(config: ImageEncoderConfig) -> Path:
    """Find the safetensors file of the weights. Weights on the hub are downloaded if not cached.

    Raises:
        EncoderError: The file is not available, or is not of this network.
    """
    if config.checkpoint is None:
        return _published(config.model)
    given = config.checkpoint
    path = package_path(given) if given.startswith(PACKAGE_SCHEME) else Path(given).expanduser()
    if not path.is_file():
        raise EncoderError(f"`checkpoint` must be an existing file, found nothing at {path}")
    if path.suffix == ".safetensors":
        return path
    if path.suffix not in _PYTORCH:
        raise EncoderError(f"`checkpoint` must be a .safetensors file, or {' or '.join(_PYTORCH)}, got {path}")
    cached = _cache() / f"{config.model}-{sha256_of([path])[:32]}.safetensors"
    if not cached.is_file():
        from safetensors.torch import save

        tensors = {name: tensor.contiguous() for name, tensor in _converted(path, config.model).items()}
        try:
            private_folder(cached.parent)
            write_whole(cached, save(tensors))
        except OSError as error:
            raise EncoderError(
                f"{cached.parent} must be writable, to keep the weights of {path.name} as safetensors: "
                f"{error.strerror or error}; set XDG_CACHE_HOME to another folder"
            ) from error
    return cached


def _converted(path: Path, model: str) -> Mapping[str, Tensor]:
    """Read a file of PyTorch, and return its tensors by the network's names."""
    from embedding_jobs.encoders.torch_runtime import import_timm, read_tensors

    found = read_tensors(path)
    timm, given = import_timm(), list(found.values())
    if found.keys() >= timm.create_model(model, pretrained=False, num_classes=0).state_dict().keys():
        return found
    # The order counts with the classifier, whose bias is the file's last vector.
    classes = next((len(one) for one in reversed(given) if one.ndim == 1), 0)
    own = timm.create_model(model, pretrained=False, num_classes=classes).state_dict()
    pairs = zip(own, own.values(), given, strict=False)
    differing = next((name for name, mine, other in pairs if mine.shape != other.shape), None)
    if len(own) != len(given) or differing:
        why = f"{differing} differs in shape" if differing else f"they are {len(given)} tensors, not {len(own)}"
        raise EncoderError(f"the weights in {path} must be those of {model}: {why}; name the model they are of")
    return dict(zip(own, given, strict=True))


def _cache() -> Path:
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache", "embedding-ablation-study", "weights")


def _published(model: str) -> Path:
    from embedding_jobs.encoders.torch_runtime import import_timm

    published: Any = import_timm().get_pretrained_cfg(model, allow_unregistered=True)
    remedy = "set `checkpoint` to a local file of weights, or to one of a package"
    if not published.hf_hub_id:
        raise EncoderError(f"timm publishes no safetensors weights of `{model}`; {remedy}")
    from huggingface_hub import hf_hub_download
    from huggingface_hub.errors import HFValidationError

    repository, _, revision = str(published.hf_hub_id).partition("@")
    try:
        return Path(hf_hub_download(repository, "model.safetensors", revision=revision or None))
    except (OSError, HFValidationError) as error:
        reason = str(error).strip().splitlines()[0]
        raise EncoderError(f"the weights of `{model}` are not available: {reason}. {remedy.capitalize()}") from error
