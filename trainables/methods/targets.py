"""Methods that leave the inputs as they are and soften the targets."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from trainables.methods.mixing import _SOFTNESS, soften
from trainables.methods.protocol import Batch, Draws, Hyperparameter

if TYPE_CHECKING:
    from torch import Tensor


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
