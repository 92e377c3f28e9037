"""Methods that mix the inputs and the targets of two items."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING

from trainables.methods.protocol import Batch, Draws

if TYPE_CHECKING:
    from torch import Tensor

# Hidden layers that `manifold_mixup` mixes at, from the first; it also mixes at the input.
_MANIFOLD_LAYERS = 2


def manifold_mixup(batch: Batch, params: Mapping[str, Tensor], draws: Draws) -> Batch:
    """Mix pairs at one layer of {input, hidden 1, hidden 2}, or of those that exist, drawn anew for each step and lane.

    Lanes of a stack draw different layers, so both items of a pair are carried to the end, and a step costs as much as
    one of `control`.

    Returns:
        `rows / 2` targets for `rows` embeddings.

    References:
        Verma et al., "Manifold Mixup: Better Representations by Interpolating Hidden States" (2019),
        https://arxiv.org/abs/1806.05236
    """
    rows = batch.x.shape[1] // 2
    lam = draws.beta(params["alpha"], rows)
    chosen = (draws.uniform(1, 1) * (1 + min(_MANIFOLD_LAYERS, batch.n_hidden))).floor()

    def mix_at(layer: int, h: Tensor) -> Tensor:
        weight = h.new_ones((*h.shape[:2], 1))  # 1 leaves an item as it is
        weight[:, :rows] = lam.where(chosen == layer, weight[:, :rows])
        return h.roll(-rows, dims=1).lerp(h, weight)

    y = batch.y[:, rows : 2 * rows].lerp(batch.y[:, :rows], lam)
    return replace(batch, x=mix_at(0, batch.x), y=y, at_layer=mix_at)


def mix_pairs(
    batch: Batch, params: Mapping[str, Tensor], draws: Draws, *, stitch: bool = False, soft: bool = False
) -> Batch:
    """Combine pairs of items into one, halving the batch: E-Mixup, E-Stitchup and their soft variants.

    The first half of the batch, which is in random order, is paired with the second. Each pair draws its own
    lambda ~ Beta(alpha, alpha): the weight of its first item in the target, whatever the realised share of elements.

    Args:
        batch: The batch.
        params: `alpha`, and for a soft variant `softness`.
        draws: The lanes' random streams.
        stitch: Take each element from either item (E-Stitchup) instead of averaging the two (E-Mixup).
        soft: Soften the mixed targets.

    Returns:
        One row per pair: (lanes, rows / 2, ...).

    References:
        Wolfe & Lundgaard, "Data Augmentation for Deep Transfer Learning" (2019), sections 2.2 to 2.4,
        https://arxiv.org/abs/1912.00772
    """
    rows = batch.x.shape[1] // 2
    x_a, x_b = batch.x[:, :rows], batch.x[:, rows : 2 * rows]
    y_a, y_b = batch.y[:, :rows], batch.y[:, rows : 2 * rows]
    lam = draws.beta(params["alpha"], rows)
    x = x_a.where(draws.bernoulli(lam, rows, x_a.shape[-1]), x_b) if stitch else x_b.lerp(x_a, lam)
    y = y_b.lerp(y_a, lam)
    if soft:
        y = soften(y, y_a.maximum(y_b), batch.is_class, params["softness"])
    return replace(batch, x=x, y=y)


def soften(mixed: Tensor, positive: Tensor, is_class: Tensor, softness: Tensor) -> Tensor:
    """Soften a target: each positive class loses `softness`, the negative ones together gain 1.

    Subtracts the softness from every positive class, clamps at 0, and gives every negative class 1 / (number of
    negatives). Example: 12 classes, a mix of 0.2 and 0.8, and softness 0.05 give 0.15, 0.75 and ten times 0.1.

    Args:
        mixed: Targets (lanes, rows, classes).
        positive: 1 where a class is positive, else 0 (lanes, rows, classes). It does not follow from `mixed`: a drawn
            lambda can round to 0 or 1, and its class is still a positive one.
        is_class: 1 where a lane has the class (lanes, 1, classes).
        softness: (lanes, 1, 1).

    References:
        Wolfe & Lundgaard, "Data Augmentation for Deep Transfer Learning" (2019), section 2.4,
        https://arxiv.org/abs/1912.00772
    """
    negative = is_class - positive
    n_negative = negative.sum(-1, keepdim=True).clamp(min=1)
    return (mixed - softness).clamp(min=0) * positive + negative / n_negative
