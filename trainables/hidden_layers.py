"""Methods that reach below the input: they change the activations of a hidden layer while the classifier trains."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from trainables.batch import Batch, Draws, Hyperparameter

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
