"""The augmentations: what each does to a batch of lanes, and its hyperparameters with their ranges.

A method turns a batch of embeddings and one-hot targets into the batch that is trained on. Methods work on all lanes of
a pack at once; their hyperparameters arrive as one value a lane, and what they draw comes from one random stream a
lane, so that a lane never depends on its company.

Third parties add a method through the entry-point group `embedding_ablation_study.methods`. One that is label-free can
also be had as `contrastive_` and its name.
Importing this module does not import torch: the study file is checked against it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from importlib.metadata import entry_points
from typing import TYPE_CHECKING

from embedding_jobs.errors import StudyError
from trainables.methods.deep_augmentation import DeepDropout, DeepPca
from trainables.methods.mixing import ManifoldMixup, PairMix
from trainables.methods.noise import Control, FeatureCorruption, GaussianNoise, UniformDropout
from trainables.methods.protocol import Batch, Draws, Hyperparameter, Method
from trainables.methods.targets import LabelSmoothing, SoftControl
from trainables.records.types import CONTRASTIVE

if TYPE_CHECKING:
    from torch import Tensor

ENTRY_POINTS = "embedding_ablation_study.methods"


class MethodError(StudyError):
    """An unknown method."""


_TEMPERATURE = Hyperparameter(default=0.1, low=0, high=10, low_included=False)


@dataclass(frozen=True)
class Contrastive:
    """A label-free method as the augmentation of one of two views: see `trainables.contrastive`.

    It has the method's hyperparameters and `temperature`.

    Attributes:
        augmentation: The method.
    """

    augmentation: Method

    @property
    def name(self) -> str:
        """`contrastive_` and the method's name."""
        return f"{CONTRASTIVE}_{self.augmentation.name}"

    @property
    def hyperparameters(self) -> Mapping[str, Hyperparameter]:
        """The method's own, and the temperature of the loss."""
        return {**self.augmentation.hyperparameters, "temperature": _TEMPERATURE}

    @property
    def static(self) -> bool:
        """Whether the method is."""
        return bool(getattr(self.augmentation, "static", False))

    def transform(self, batch: Batch, params: Mapping[str, Tensor], draws: Draws) -> Batch:
        """The augmented view."""
        return self.augmentation.transform(batch, params, draws)

    def canonical(self, params: Mapping[str, float]) -> Mapping[str, float]:
        """The hyperparameters that stand for all that train the same."""
        return canonical(self.augmentation, params)


_SUPERVISED: dict[str, Method] = {
    method.name: method
    for method in (
        Control(),
        PairMix("e_mixup", stitch=False, soft=False),
        PairMix("e_stitchup", stitch=True, soft=False),
        PairMix("soft_e_mixup", stitch=False, soft=True),
        PairMix("soft_e_stitchup", stitch=True, soft=True),
        SoftControl(),
        LabelSmoothing(),
        GaussianNoise(),
        FeatureCorruption(),
        ManifoldMixup(),
        UniformDropout(),
        DeepDropout(),
        DeepPca(),
    )
}


METHODS: dict[str, Method] = _SUPERVISED | {
    method.name: method
    for method in (Contrastive(plain) for plain in _SUPERVISED.values() if getattr(plain, "label_free", False))
}

"""The built-in methods by name."""


def method_names() -> list[str]:
    """Names of every method that can be had, third parties' included."""
    return [*METHODS, *sorted(point.name for point in entry_points(group=ENTRY_POINTS))]


def get_method(name: str) -> Method:
    """The method of a name, built in or a third party's.

    Raises:
        MethodError: There is none.
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
            return Contrastive(method)
        raise MethodError(
            f"`{name}` is not a method: contrastive training has no targets, and `{plain}` needs them; name one of "
            f"{', '.join(known for known in METHODS if known.startswith(CONTRASTIVE))}."
        )
    raise MethodError(f"`{name}` is not a method; the methods are {', '.join(method_names())}.")


def canonical(method: Method, params: Mapping[str, float]) -> Mapping[str, float]:
    """The hyperparameters that stand for all of a method that train the same; by default the given ones.

    Args:
        method: The method.
        params: A value for each of its hyperparameters.
    """
    own = getattr(method, "canonical", None)
    return params if own is None else own(params)
