"""Find the files of a model: in a folder, an installed package, or the Hugging Face hub."""

from __future__ import annotations

import hashlib
import importlib.util
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from embedding_jobs.errors import EncoderError


@dataclass(frozen=True)
class ModelFolder:
    """A model's files on this machine.

    Attributes:
        commit: For a hub model, the commit that the revision stands for.
    """

    path: Path
    commit: str | None = None


def find_model(model: str, revision: str | None) -> ModelFolder:
    """Find the folder of a transformers model. A hub model is downloaded if it is not in the local cache.

    Raises:
        EncoderError: The folder, package or hub model is not available.
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
    except (OSError, HFValidationError) as error:  # not cached, offline, unknown: errors of the hub are OSErrors
        reason = str(error).strip().splitlines()[0].removeprefix("Got: ")
        raise EncoderError(
            f"the encoder `{model}`{f' at revision {revision}' if revision else ''} is not available: {reason}. "
            "Download it where there is a network (`hf download`), then set `model` to its folder, or choose another"
        ) from error
    return ModelFolder(found, commit=found.name)


def sha256_of(paths: Sequence[Path]) -> str:
    """Return one SHA-256 of the contents of files, in the given order."""
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
