"""Methods that mix the inputs and the targets of two items."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from trainables.methods.protocol import Batch, Draws, Hyperparameter

if TYPE_CHECKING:
    from torch import Tensor


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
    hyperparameters: Mapping[str, Hyperparameter] = field(
        default_factory=lambda: {"alpha": Hyperparameter(default=0.3, low=0, high=10, low_included=False)}
    )
    n_layers: int = 3
    static: bool = True

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
