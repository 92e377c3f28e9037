"""Methods that leave the inputs as they are and soften the targets."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING

from trainables.methods.mixing import soften
from trainables.methods.protocol import Batch, Draws

if TYPE_CHECKING:
    from torch import Tensor


def soft_control(batch: Batch, params: Mapping[str, Tensor], draws: Draws) -> Batch:
    """Soften the one-hot targets and mix nothing: separates the effect of softening from that of mixing."""
    return replace(batch, y=soften(batch.y, batch.y, batch.is_class, params["softness"]))


def label_smoothing(batch: Batch, params: Mapping[str, Tensor], draws: Draws) -> Batch:
    """Mix the targets with the uniform distribution over the lane's K classes: (1 - epsilon) y + epsilon / K.

    References:
        Szegedy et al., "Rethinking the Inception Architecture for Computer Vision" (2016),
        https://arxiv.org/abs/1512.00567
    """
    uniform = batch.is_class / batch.is_class.sum(-1, keepdim=True)
    return replace(batch, y=batch.y + params["epsilon"] * (uniform - batch.y))
