"""The methods by name: the built-in ones with the ranges of their hyperparameters, and those of third parties.

A method turns a batch of embeddings and one-hot targets into the batch that is trained on. It works on all lanes of a
stack at once: each hyperparameter has one value per lane, and random numbers come from one stream per lane, so that a
lane never depends on the others.

Third parties add a method through the entry-point group `embedding_ablation_study.methods`. A label-free method is also
available as `contrastive_` and its name.
Importing this module does not import torch: the study file is checked against it.
"""

from __future__ import annotations

import hashlib
import inspect
from collections.abc import Mapping
from functools import partial
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any

from embedding_jobs.errors import StudyError
from trainables.methods.deep_augmentation import canonical_target, deep_dropout, deep_pca
from trainables.methods.mixing import manifold_mixup, mix_pairs
from trainables.methods.noise import control, feature_corruption, gaussian_noise, uniform_dropout
from trainables.methods.protocol import Augmentation, Hyperparameter, Method, Transform
from trainables.methods.references import REFERENCES
from trainables.methods.targets import label_smoothing, soft_control
from trainables.records.types import CONTRASTIVE

ENTRY_POINTS = "embedding_ablation_study.methods"


class MethodError(StudyError):
    """An unknown method."""


class Contrastive(Augmentation):
    """A label-free method as the augmentation of one of two views; see `trainables.training.contrastive`."""


def contrastive(method: Method) -> Contrastive:
    """Return a label-free method as a contrastive one: `contrastive_` and its name, with a temperature of the loss."""
    return Contrastive(
        f"{CONTRASTIVE}_{method.name}",
        method.transform,
        {**method.hyperparameters, "temperature": Hyperparameter(0.1, 0, 10, low_included=False)},
        static=getattr(method, "static", False),
        canonical=partial(canonical, method),
        version=getattr(method, "version", ""),
        summary=f"Contrastive pretraining; one of two views is augmented by {method.name}.",
        source=getattr(method, "source", ""),
    )


def canonical(method: Method, params: Mapping[str, float]) -> Mapping[str, float]:
    """Return the hyperparameters that represent all that train the same; by default the given ones."""
    own = getattr(method, "canonical", None)
    return params if own is None else own(params)


_ALPHA = {"alpha": Hyperparameter(0.3, 0, 10, low_included=False)}
_SOFTNESS = {"softness": Hyperparameter(0.05, 0, 1)}
_DROP_RATE = {"rate": Hyperparameter(0.3, 0, 0.99)}
_LAYER = {"layer": Hyperparameter(1, 0, 8, whole=True, auto=True)}
_COMPONENTS = {"components": Hyperparameter(32, 1, 65536, whole=True)}
_STOP = {"stop_gradient": Hyperparameter(0, 0, 1, whole=True)}

_WOLFE = "Wolfe & Lundgaard 2019, arXiv:1912.00772"
_DEEP = "Brüel-Gabrielsson et al. 2023, arXiv:2303.14537"


# A built-in method gets another version where it computes something else; other changes of its file do not count.
_builtin = partial(Augmentation, version="1")


def _targeted(
    name: str, transform: Transform, hyperparameters: Mapping[str, Hyperparameter], summary: str
) -> Augmentation:
    own = {**_LAYER, **hyperparameters, **_STOP}
    return _builtin(
        name, transform, own, label_free=True, static=False, canonical=canonical_target, summary=summary, source=_DEEP
    )


_SUPERVISED: dict[str, Method] = {
    method.name: method
    for method in (
        _builtin("control", control, label_free=True, summary="No augmentation: what the others are compared with."),
        _builtin(
            "e_mixup",
            mix_pairs,
            _ALPHA,
            summary="Averages the embeddings and the targets of two items, by a weight from Beta(alpha, alpha).",
            source=_WOLFE,
        ),
        _builtin(
            "e_stitchup",
            partial(mix_pairs, stitch=True),
            _ALPHA,
            summary="Takes each element of the embedding from one of two items; the targets are averaged.",
            source=_WOLFE,
        ),
        _builtin(
            "soft_e_mixup",
            partial(mix_pairs, soft=True),
            {**_ALPHA, **_SOFTNESS},
            summary="As e_mixup, with softened targets.",
            source=_WOLFE,
        ),
        _builtin(
            "soft_e_stitchup",
            partial(mix_pairs, stitch=True, soft=True),
            {**_ALPHA, **_SOFTNESS},
            summary="As e_stitchup, with softened targets.",
            source=_WOLFE,
        ),
        _builtin(
            "soft_control",
            soft_control,
            _SOFTNESS,
            summary="Softened targets without mixing: what softening alone does.",
            source=_WOLFE,
        ),
        _builtin(
            "label_smoothing",
            label_smoothing,
            {"epsilon": Hyperparameter(0.1, 0, 1)},
            summary="Moves the targets towards the uniform distribution.",
            source="Szegedy et al. 2016, arXiv:1512.00567",
        ),
        _builtin(
            "gaussian_noise",
            gaussian_noise,
            {"sigma": Hyperparameter(0.3, 0, 10)},
            label_free=True,
            summary="Adds normal noise, in units of each feature's standard deviation.",
            source="DeVries & Taylor 2017, arXiv:1702.05538",
        ),
        _builtin(
            "feature_corruption",
            feature_corruption,
            {"rate": Hyperparameter(0.2, 0, 1)},
            label_free=True,
            summary="Replaces elements of the embedding by those of other items.",
            source="Bahri et al. 2021 (SCARF), arXiv:2106.15147",
        ),
        _builtin(
            "manifold_mixup",
            manifold_mixup,
            _ALPHA,
            summary="Mixes two items at the input or at a hidden layer, drawn anew in each step.",
            source="Verma et al. 2019, arXiv:1806.05236",
        ),
        _builtin(
            "uniform_dropout",
            uniform_dropout,
            _DROP_RATE,
            label_free=True,
            summary="The same dropout at the input and at every hidden layer.",
            source="Srivastava et al. 2014, jmlr.org/papers/v15/srivastava14a.html",
        ),
        _targeted("deep_dropout", deep_dropout, _DROP_RATE, "Dropout at one layer, which may be chosen by itself."),
        _targeted("deep_pca", deep_pca, _COMPONENTS, "Projects one layer on the main components of the batch."),
    )
}

# The built-in methods by name.
METHODS: dict[str, Method] = {
    **_SUPERVISED,
    **{
        method.name: method
        for method in (contrastive(plain) for plain in _SUPERVISED.values() if getattr(plain, "label_free", False))
    },
    **{method.name: method for method in REFERENCES},
}


def method_names() -> list[str]:
    """Return the names of all available methods, third parties' included."""
    return [*METHODS, *sorted(point.name for point in entry_points(group=ENTRY_POINTS))]


def get_method(name: str) -> Method:
    """Return the method of a name, built in or a third party's.

    Raises:
        MethodError: There is no such method.
    """
    if name in METHODS:
        return METHODS[name]
    for point in entry_points(group=ENTRY_POINTS, name=name):
        method: Method = point.load()
        return method
    plain = name.removeprefix(f"{CONTRASTIVE}_")
    if plain != name:
        method = get_method(plain)
        if getattr(method, "label_free", False):
            return contrastive(method)
        raise MethodError(
            f"`{name}` is not a method: contrastive training has no targets, and `{plain}` needs them; name one of "
            f"{', '.join(known for known in METHODS if known.startswith(CONTRASTIVE))}."
        )
    raise MethodError(f"`{name}` is not a method; the methods are {', '.join(method_names())}.")


def method_code(name: str) -> str:
    """Return what identifies a method's code: its version, or a digest of the source file of its transform.

    Raises:
        MethodError: There is no such method, or it has neither a version nor a source file.
    """
    method = get_method(name)
    if version := getattr(method, "version", ""):
        return f"version {version}"
    code: Any = method.transform
    while isinstance(code, partial):
        code = code.func
    code = inspect.unwrap(code) if inspect.isroutine(code) else type(code)
    try:
        source = Path(inspect.getfile(code)).read_bytes()
    except (OSError, TypeError):
        raise MethodError(
            f"`{name}` must have a `version`, which tells its records from those of other code: its source file cannot "
            "be read."
        ) from None
    return f"source {hashlib.sha256(source).hexdigest()[:16]}"
