"""Find the files of a model: in a folder, an installed package, or the Hugging Face hub."""

from __future__ import annotations

import hashlib
import importlib.util
import logging
import re
import socket
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from pathlib import Path
from threading import Thread

from embedding_jobs.errors import EncoderError

_LOG = logging.getLogger(__name__)

_HUB_TIMEOUT_S, _HUB_LIMIT_S = 5.0, 10.0  # for each read, and for an answer as a whole

# The hub answers the same about a private model and one that does not exist.
_NOT_GIVEN = (401, 403, 404)


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
        folder = package_path(model)
        if not folder.is_dir():
            raise EncoderError(f"`model` {model}: there is no such folder in the package")
        return ModelFolder(folder)
    path = Path(model).expanduser()
    if path.is_dir():
        return ModelFolder(path)
    if model.startswith((".", "/", "~")):
        raise EncoderError(f"`model` must be an existing directory or a hub name, found nothing at {model}")
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HFValidationError

    patterns = ["*.safetensors", "*.json", "*.txt", "*.model", "*_Dense/pytorch_model.bin"]
    try:
        found = Path(snapshot_download(model, revision=revision, allow_patterns=patterns))
    except (OSError, HFValidationError) as error:  # not cached, offline, unknown: errors of the hub are OSErrors
        reason = str(error).strip().splitlines()[0].removeprefix("Got: ")
        raise EncoderError(
            f"the encoder `{model}`{f' at revision {revision}' if revision else ''} is not available: {reason}. "
            "Download it where there is a network (`hf download`), then set `model` to its folder, or choose another"
        ) from error
    return ModelFolder(found, commit=found.name)


def hub_problem(model: str, revision: str | None = None) -> str | None:
    """Return why a model of the hub is not available; None if the cache or the hub has it. Downloads nothing."""
    from huggingface_hub.errors import HFValidationError

    try:
        return None if cached_model(model, revision) else _unreachable(model, revision)
    except HFValidationError:
        return "which is not the name of a hub model (OWNER/NAME)"


def cached_model(model: str, revision: str | None = None) -> Path | None:
    """Return the folder of a hub model in the local cache; None if it is not there, or without its weights."""
    from huggingface_hub import try_to_load_from_cache

    config = try_to_load_from_cache(model, "config.json", revision=revision)
    folder = Path(config).parent if isinstance(config, str) else None
    return folder if folder and any(folder.glob("*.safetensors")) else None


def timm_problem(model: str) -> str | None:
    """Return why timm's published weights of a model are not available, as `hub_problem` does.

    Without timm, which takes seconds to import, a model without a tag has no known place on the hub: for it, any
    weights of that name in the cache do, and the hub must only answer. Nor is one with a tag refused that the hub does
    not give, since its weights may have another owner.
    """
    from huggingface_hub import constants

    name, dot, _ = model.partition(".")
    if not re.fullmatch(r"[\w.-]+", model):
        return "which is not the name of a timm model"
    cached = f"models--*--{model if dot else f'{name}*'}"  # some of timm's weights have another owner
    if any(Path(constants.HF_HUB_CACHE).glob(f"{cached}/snapshots/*/model.safetensors")):
        return None
    elsewhere = "it must be the name of a timm model whose weights another owner publishes" if dot else ""
    return _unreachable(f"timm/{model}", None, elsewhere=elsewhere)


def _unreachable(model: str, revision: str | None, *, elsewhere: str | None = None) -> str | None:
    """Ask the hub for a model; return why it is not available. An answer that decides nothing is a warning.

    Args:
        model: Its name.
        revision: Its revision; None is the latest.
        elsewhere: What to warn of where the hub has no such model, which may have another name there; an empty text
            warns of nothing. None: the model is then not available.
    """
    from huggingface_hub import HfApi, constants
    from huggingface_hub.errors import HfHubHTTPError

    cache = f"which is not in the cache ({constants.HF_HUB_CACHE})"
    if constants.HF_HUB_OFFLINE:
        return f"{cache}, and HF_HUB_OFFLINE forbids to download it"
    error = _error_of(lambda: HfApi().model_info(model, revision=revision, timeout=_HUB_TIMEOUT_S))
    if error is None:
        return None
    status = error.response.status_code if isinstance(error, HfHubHTTPError) else None
    if status in _NOT_GIVEN:
        if elsewhere is None:
            at = f" at revision {revision}" if revision else ""
            return f"which {constants.ENDPOINT} does not give{at} (status {status})"
        if elsewhere:
            _LOG.warning("%s does not give %s (status %s): %s.", constants.ENDPOINT, model, status, elsewhere)
        return None
    reason = (str(error).strip() or type(error).__name__).splitlines()[0]
    if any(isinstance(one, socket.gaierror | ConnectionRefusedError) for one in _causes(error)):
        return f"{cache}, and {constants.ENDPOINT} cannot be reached ({reason})"
    _LOG.warning("could not ask the hub: %s did not tell whether it has %s (%s).", constants.ENDPOINT, model, reason)
    return None


def _error_of(work: Callable[[], object]) -> BaseException | None:
    """Return what some work raises, or a `TimeoutError` if it takes too long; then it goes on in a daemon thread."""
    future: Future[object] = Future()

    def settle() -> None:
        try:
            future.set_result(work())
        except BaseException as error:  # each version of the hub's client has other errors of its own
            future.set_exception(error)

    Thread(target=settle, daemon=True).start()
    try:
        return future.exception(_HUB_LIMIT_S)
    except TimeoutError:
        return TimeoutError(f"no answer within {_HUB_LIMIT_S:g} s")


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__


def sha256_of(paths: Sequence[Path]) -> str:
    """Return one SHA-256 of the contents of files, in the given order."""
    digest = hashlib.sha256()
    for path in paths:
        with path.open("rb") as stream:
            digest.update(hashlib.file_digest(stream, "sha256").digest())
    return digest.hexdigest()


def package_path(model: str) -> Path:
    """Return the path of `package://<package>/<path>`, which need not exist.

    Raises:
        EncoderError: The package is not installed.
    """
    package, _, inside = model.removeprefix("package://").partition("/")
    spec = importlib.util.find_spec(package) if package.isidentifier() else None
    if spec is None or not spec.submodule_search_locations:
        raise EncoderError(f"{model} needs the Python package `{package}`, which is not installed: pip install it")
    return Path(next(iter(spec.submodule_search_locations))) / inside
