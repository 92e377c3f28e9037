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
from dataclasses import dataclass, field, replace
from importlib.metadata import entry_points
from typing import TYPE_CHECKING

from trainables.batch import Batch, Draws, Hyperparameter, Method
from trainables.hidden_layers import DeepDropout, DeepPca, ManifoldMixup, UniformDropout
from trainables.records import CONTRASTIVE

if TYPE_CHECKING:
    from torch import Tensor

ENTRY_POINTS = "embedding_ablation_study.methods"


class MethodError(ValueError):
    """An unknown method."""


def soften(mixed: Tensor, positive: Tensor, is_class: Tensor, softness: Tensor) -> Tensor:
    """Softens a target: positives lose `softness`, negatives together gain 1.

    Subtracts the softness from every positive class, clamps at 0, and gives every negative class 1 / (number of
    negatives). Worked example: 12 classes, a mix of 0.2 and 0.8, softness 0.05 gives 0.15, 0.75 and ten times 0.1.

    Args:
        mixed: Targets (lanes, rows, classes).
        positive: 1 where a class is positive, else 0 (lanes, rows, classes). Not read off `mixed`: a drawn
            lambda can round to 0 or 1, and its class is a positive all the same.
        is_class: 1 where a lane has the class (lanes, 1, classes).
        softness: (lanes, 1, 1).

    References:
        Wolfe & Lundgaard, "Data Augmentation for Deep Transfer Learning" (2019), section 2.4,
        https://arxiv.org/abs/1912.00772
    """
    negative = is_class - positive
    n_negative = negative.sum(-1, keepdim=True).clamp(min=1)
    return (mixed - softness).clamp(min=0) * positive + negative / n_negative


@dataclass(frozen=True)
class Control:
    """No augmentation: the batch as it is, not halved."""

    name: str = "control"
    hyperparameters: Mapping[str, Hyperparameter] = field(default_factory=dict)
    label_free: bool = True
    static: bool = True

    def transform(self, batch: Batch, params: Mapping[str, Tensor], draws: Draws) -> Batch:
        """The batch itself."""
        return batch


_ALPHA = Hyperparameter(default=0.3, low=0, high=10, low_included=False)
_SOFTNESS = Hyperparameter(default=0.05, low=0, high=1)


@dataclass(frozen=True)
class PairMix:
    """Combines pairs of items into one, halving the batch: E-Mixup, E-Stitchup and their soft variants.

    The first half of the batch, which is in random order, is paired with the second. Each pair draws its own
    lambda ~ Beta(alpha, alpha), the weight of its first item in the target whatever the realised share of elements.

    Attributes:
        name: Its name.
        stitch: Takes each element from either item (E-Stitchup) instead of averaging the two (E-Mixup).
        soft: Softens the mixed target, with hyperparameter `softness`.

    References:
        Wolfe & Lundgaard, "Data Augmentation for Deep Transfer Learning" (2019), sections 2.2 to 2.4,
        https://arxiv.org/abs/1912.00772
    """

    name: str
    stitch: bool
    soft: bool
    static: bool = True

    @property
    def hyperparameters(self) -> Mapping[str, Hyperparameter]:
        """`alpha`, and `softness` for a soft variant."""
        return {"alpha": _ALPHA, "softness": _SOFTNESS} if self.soft else {"alpha": _ALPHA}

    def transform(self, batch: Batch, params: Mapping[str, Tensor], draws: Draws) -> Batch:
        """One row a pair: (lanes, rows / 2, ...)."""
        rows = batch.x.shape[1] // 2
        x_a, x_b = batch.x[:, :rows], batch.x[:, rows : 2 * rows]
        y_a, y_b = batch.y[:, :rows], batch.y[:, rows : 2 * rows]
        lam = draws.beta(params["alpha"], rows)
        x = x_a.where(draws.bernoulli(lam, rows, x_a.shape[-1]), x_b) if self.stitch else x_b.lerp(x_a, lam)
        y = y_b.lerp(y_a, lam)
        if self.soft:
            y = soften(y, y_a.maximum(y_b), batch.is_class, params["softness"])
        return replace(batch, x=x, y=y)


@dataclass(frozen=True)
class SoftControl:
    """Softens the one-hot target and mixes nothing: separates what softening does from what mixing does."""

    name: str = "soft_control"
    hyperparameters: Mapping[str, Hyperparameter] = field(default_factory=lambda: {"softness": _SOFTNESS})
    static: bool = True

    def transform(self, batch: Batch, params: Mapping[str, Tensor], draws: Draws) -> Batch:
        """The batch with softened targets."""
        return replace(batch, y=soften(batch.y, batch.y, batch.is_class, params["softness"]))


@dataclass(frozen=True)
class LabelSmoothing:
    """Mixes the target with the uniform distribution over the lane's classes: (1 - epsilon) y + epsilon / K.

    References:
        Szegedy et al., "Rethinking the Inception Architecture for Computer Vision" (2016),
        https://arxiv.org/abs/1512.00567
    """

    name: str = "label_smoothing"
    hyperparameters: Mapping[str, Hyperparameter] = field(
        default_factory=lambda: {"epsilon": Hyperparameter(default=0.1, low=0, high=1)}
    )
    static: bool = True

    def transform(self, batch: Batch, params: Mapping[str, Tensor], draws: Draws) -> Batch:
        """The batch with smoothed targets."""
        uniform = batch.is_class / batch.is_class.sum(-1, keepdim=True)
        return replace(batch, y=batch.y + params["epsilon"] * (uniform - batch.y))


@dataclass(frozen=True)
class GaussianNoise:
    """Adds noise in units of each feature's deviation over the training items; the target is kept.

    References:
        DeVries & Taylor, "Dataset Augmentation in Feature Space" (2017), https://arxiv.org/abs/1702.05538
    """

    name: str = "gaussian_noise"
    hyperparameters: Mapping[str, Hyperparameter] = field(
        default_factory=lambda: {"sigma": Hyperparameter(default=0.3, low=0, high=10)}
    )
    label_free: bool = True
    static: bool = True

    def transform(self, batch: Batch, params: Mapping[str, Tensor], draws: Draws) -> Batch:
        """The batch with noisy embeddings."""
        noise = draws.normal(batch.x.shape[1], batch.x.shape[2])
        return replace(batch, x=batch.x.addcmul(noise, params["sigma"] * batch.deviation))


@dataclass(frozen=True)
class FeatureCorruption:
    """Replaces a share of the elements by those of another item of the batch; the target is kept.

    References:
        Bahri et al., "SCARF: Self-Supervised Contrastive Learning using Random Feature Corruption" (2021),
        https://arxiv.org/abs/2106.15147
    """

    name: str = "feature_corruption"
    hyperparameters: Mapping[str, Hyperparameter] = field(
        default_factory=lambda: {"rate": Hyperparameter(default=0.2, low=0, high=1)}
    )
    label_free: bool = True
    static: bool = True

    def transform(self, batch: Batch, params: Mapping[str, Tensor], draws: Draws) -> Batch:
        """The batch with corrupted embeddings."""
        rows, features = batch.x.shape[1:]
        other = batch.x.roll(rows // 2, dims=1)  # the batch is in random order: any other item will do
        return replace(batch, x=other.where(draws.bernoulli(params["rate"], rows, features), batch.x))


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
