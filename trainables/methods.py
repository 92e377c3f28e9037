"""The augmentations: what each does to a batch of lanes, and its hyperparameters with their ranges.

A method turns a batch of embeddings and one-hot targets into the batch that is trained on. Methods work on all lanes of
a pack at once; their hyperparameters arrive as one value a lane, and what they draw comes from one random stream a
lane, so that a lane never depends on its company.

Third parties add a method through the entry-point group `embedding_ablation_study.methods`.
Importing this module does not import torch: the study file is checked against it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from importlib.metadata import entry_points
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from torch import Tensor

ENTRY_POINTS = "embedding_ablation_study.methods"


class MethodError(ValueError):
    """An unknown method."""


@dataclass(frozen=True)
class Hyperparameter:
    """The legal values of a hyperparameter.

    Attributes:
        default: Value where the study file gives none.
        low: Lower bound.
        high: Upper bound, included.
        low_included: Whether `low` itself is legal.
        whole: Whether only whole numbers are legal.
    """

    default: float
    low: float
    high: float
    low_included: bool = True
    whole: bool = False

    def problem(self, value: float) -> str | None:
        """The rule that a value breaks, as "must be ...", or None if it is legal."""
        above = value >= self.low if self.low_included else value > self.low
        if above and value <= self.high and (not self.whole or value == int(value)):
            return None
        bounds = f"{'at least' if self.low_included else 'above'} {self.low:g} and at most {self.high:g}"
        return f"must be {'a whole number, ' if self.whole else ''}{bounds}"


@dataclass(frozen=True)
class Batch:
    """One mini-batch of every lane.

    Attributes:
        x: Embeddings (lanes, rows, features).
        y: Targets in [0, 1] (lanes, rows, classes); zero on classes that pad a lane. Fewer rows than `x` where a method
            combines items at a hidden layer: the loss is then of the first rows.
        is_class: Which classes a lane really has, 1 or 0 (lanes, 1, classes).
        deviation: Standard deviation of each feature over the lane's training items (lanes, 1, features).
        at_layer: What is done to the output of a hidden layer, given its number from 1 and its activations
            (lanes, rows, width); None for nothing.
    """

    x: Tensor
    y: Tensor
    is_class: Tensor
    deviation: Tensor
    at_layer: Callable[[int, Tensor], Tensor] | None = None


class Draws(Protocol):
    """Random numbers, one independent stream a lane."""

    def bernoulli(self, probability: Tensor, rows: int, columns: int) -> Tensor:
        """True with the given probability: bool (lanes, rows, columns), from (lanes, rows or 1, 1)."""
        ...

    def beta(self, alpha: Tensor, rows: int) -> Tensor:
        """Beta(alpha, alpha) numbers: (lanes, rows, 1), from alpha (lanes, 1, 1)."""
        ...

    def uniform(self, rows: int, columns: int) -> Tensor:
        """Uniform numbers in [0, 1): (lanes, rows, columns)."""
        ...

    def normal(self, rows: int, columns: int) -> Tensor:
        """Standard normal numbers: (lanes, rows, columns)."""
        ...


class Method(Protocol):
    """An augmentation of embeddings and their targets.

    Attributes:
        name: Its name in study files, records and reports.
        hyperparameters: The legal values of each hyperparameter.
    """

    @property
    def name(self) -> str: ...  # noqa: D102

    @property
    def hyperparameters(self) -> Mapping[str, Hyperparameter]: ...  # noqa: D102

    def transform(self, batch: Batch, params: Mapping[str, Tensor], draws: Draws) -> Batch:
        """The batch to train on; the given one is left as it is.

        Args:
            batch: Items in random order, an even number of rows a lane.
            params: Each hyperparameter as (lanes, 1, 1).
            draws: The lanes' random streams.
        """
        ...


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

    def transform(self, batch: Batch, params: Mapping[str, Tensor], draws: Draws) -> Batch:
        """The batch with corrupted embeddings."""
        rows, features = batch.x.shape[1:]
        other = batch.x.roll(rows // 2, dims=1)  # the batch is in random order: any other item will do
        return replace(batch, x=other.where(draws.bernoulli(params["rate"], rows, features), batch.x))


@dataclass(frozen=True)
class ManifoldMixup:
    """Mixes pairs at one layer of {input, hidden 1, hidden 2}, drawn anew for each step and lane.

    Lanes of a stack draw different layers, so both items of a pair are carried to the end and a step costs what
    `control`'s does.

    References:
        Verma et al., "Manifold Mixup: Better Representations by Interpolating Hidden States" (2019),
        https://arxiv.org/abs/1806.05236
    """

    name: str = "manifold_mixup"
    hyperparameters: Mapping[str, Hyperparameter] = field(default_factory=lambda: {"alpha": _ALPHA})
    n_layers: int = 3

    def transform(self, batch: Batch, params: Mapping[str, Tensor], draws: Draws) -> Batch:
        """The batch mixed at its layer: `rows / 2` targets for `rows` embeddings."""
        rows = batch.x.shape[1] // 2
        lam = draws.beta(params["alpha"], rows)
        chosen = (draws.uniform(1, 1) * self.n_layers).floor()

        def mix_at(layer: int, h: Tensor) -> Tensor:
            weight = h.new_ones((*h.shape[:2], 1))  # 1 leaves an item as it is
            weight[:, :rows] = lam.where(chosen == layer, weight[:, :rows])
            return h.roll(-rows, dims=1).lerp(h, weight)

        y = batch.y[:, rows : 2 * rows].lerp(batch.y[:, :rows], lam)
        return replace(batch, x=mix_at(0, batch.x), y=y, at_layer=mix_at)


_LAYER = Hyperparameter(default=1, low=0, high=8, whole=True)
_STOP = Hyperparameter(default=0, low=0, high=1, whole=True)


def _at_layer(batch: Batch, params: Mapping[str, Tensor], change: Callable[[Tensor], Tensor]) -> Batch:
    """A batch changed at each lane's targeted layer, with a stop-gradient below it where a lane asks for one."""

    def at(layer: int, h: Tensor) -> Tensor:
        targeted = params["layer"] == layer  # (lanes, 1, 1)
        below = h.detach().where(params["stop_gradient"] > 0, h)
        return change(below).where(targeted, h) if targeted.any() else h

    return replace(batch, x=at(0, batch.x), at_layer=at)


@dataclass(frozen=True)
class DeepDropout:
    """Deep Augmentation by dropout at one targeted layer (0 is the input); the target is kept.

    In supervised training a stop-gradient leaves the layers below at their initial weights.

    References:
        Brüel-Gabrielsson et al., "Deep Augmentation: Self-Supervised Learning with Transformations in Activation Space"
        (2023), https://arxiv.org/abs/2303.14537. Only the abstract was at hand: the formulation is ours.
    """

    name: str = "deep_dropout"
    hyperparameters: Mapping[str, Hyperparameter] = field(
        default_factory=lambda: {
            "layer": _LAYER,
            "rate": Hyperparameter(default=0.3, low=0, high=0.99),
            "stop_gradient": _STOP,
        }
    )

    def transform(self, batch: Batch, params: Mapping[str, Tensor], draws: Draws) -> Batch:
        """The batch with dropout at the targeted layer."""
        kept = 1 - params["rate"]
        return _at_layer(batch, params, lambda h: h * draws.bernoulli(kept, h.shape[1], h.shape[2]) / kept)


@dataclass(frozen=True)
class DeepPca:
    """Deep Augmentation by projection on the batch's leading components at one targeted layer; the target is kept.

    The components are those of the batch in hand, and count as constants to the gradient.

    References:
        Brüel-Gabrielsson et al., "Deep Augmentation: Self-Supervised Learning with Transformations in Activation Space"
        (2023), https://arxiv.org/abs/2303.14537. Only the abstract was at hand: the formulation is ours.
    """

    name: str = "deep_pca"
    hyperparameters: Mapping[str, Hyperparameter] = field(
        default_factory=lambda: {
            "layer": _LAYER,
            "components": Hyperparameter(default=32, low=1, high=65536, whole=True),
            "stop_gradient": _STOP,
        }
    )

    def transform(self, batch: Batch, params: Mapping[str, Tensor], draws: Draws) -> Batch:
        """The batch projected at the targeted layer."""
        return _at_layer(batch, params, lambda h: project(h, params["components"]))


def project(h: Tensor, components: Tensor) -> Tensor:
    """Rows projected on their own leading principal components.

    Args:
        h: (lanes, rows, width).
        components: How many components each lane keeps (lanes, 1, 1).
    """
    import torch

    mean = h.mean(1, keepdim=True)
    centred = h - mean
    with torch.no_grad():
        # Components by way of the rows' Gram matrix: batches are shorter than layers are wide. Ascending order.
        vectors = torch.linalg.eigh((centred @ centred.mT).double())[1]
        rank = torch.arange(h.shape[1] - 1, -1, -1, device=h.device)
        onto = ((vectors * (rank < components)) @ vectors.mT).to(h.dtype)
    projected: Tensor = mean + onto @ centred
    return projected


METHODS: dict[str, Method] = {
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
        DeepDropout(),
        DeepPca(),
    )
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
    raise MethodError(f"`{name}` is not a method; the methods are {', '.join(method_names())}.")
