"""Methods that reach below the input: they change the activations of a hidden layer while the classifier trains."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from trainables.methods.protocol import Batch, Draws, Hyperparameter

if TYPE_CHECKING:
    from torch import Tensor

_LAYER = Hyperparameter(default=1, low=0, high=8, whole=True, auto=True)

_RATE = Hyperparameter(default=0.3, low=0, high=0.99)

_STOP = Hyperparameter(default=0, low=0, high=1, whole=True)

Change = Callable[["Tensor", Mapping[str, "Tensor"], Draws], "Tensor"]

"""What is done to activations (lanes, rows, width), under the hyperparameters of these lanes, (lanes, 1, 1) each."""


def _at_layer(batch: Batch, params: Mapping[str, Tensor], draws: Draws, change: Change) -> Batch:
    """A batch changed at each lane's targeted layer, with a stop-gradient below it where a lane asks for one."""
    layers = params["layer"].flatten().tolist()

    def at(layer: int, h: Tensor) -> Tensor:
        # Of the lanes that target this layer alone: the others must not draw, or they would depend on their company.
        lanes = [lane for lane, targeted in enumerate(layers) if targeted == layer]
        if not lanes:
            return h
        own = {name: values[lanes] for name, values in params.items()}
        below = h if len(lanes) == len(layers) else h[lanes]
        changed = change(below.detach().where(own["stop_gradient"] > 0, below), own, draws.of(lanes))
        if len(lanes) == len(layers):
            return changed
        import torch

        return h.index_copy(0, torch.tensor(lanes, device=h.device), changed.to(h.dtype))

    return replace(batch, x=at(0, batch.x), at_layer=at)


def _canonical(params: Mapping[str, float]) -> dict[str, float]:
    """The hyperparameters of a targeted method: below the input there is no gradient to stop."""
    return {**params, "stop_gradient": 0.0} if params["layer"] == 0 else dict(params)


@dataclass(frozen=True)
class DeepDropout:
    """Deep Augmentation by dropout at one targeted layer (0 is the input); the target is kept.

    In supervised training a stop-gradient leaves the layers below at their initial weights. The layer `auto` is that
    of `trainables.scout`.

    References:
        Brüel-Gabrielsson et al., "Deep Augmentation: Self-Supervised Learning with Transformations in Activation Space"
        (2023), https://arxiv.org/abs/2303.14537. Only the abstract was at hand: the formulation is ours.
    """

    name: str = "deep_dropout"
    hyperparameters: Mapping[str, Hyperparameter] = field(
        default_factory=lambda: {
            "layer": _LAYER,
            "rate": _RATE,
            "stop_gradient": _STOP,
        }
    )
    label_free: bool = True

    def transform(self, batch: Batch, params: Mapping[str, Tensor], draws: Draws) -> Batch:
        """The batch with dropout at the targeted layer."""
        return _at_layer(batch, params, draws, _drop)

    def canonical(self, params: Mapping[str, float]) -> dict[str, float]:
        """The hyperparameters that stand for all that train the same."""
        return _canonical(params)


@dataclass(frozen=True)
class DeepPca:
    """Deep Augmentation by projection on the batch's leading components at one targeted layer; the target is kept.

    The components are those of the batch in hand, and count as constants to the gradient. The layer `auto` is that of
    `trainables.scout`.

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
    label_free: bool = True

    def transform(self, batch: Batch, params: Mapping[str, Tensor], draws: Draws) -> Batch:
        """The batch projected at the targeted layer."""
        return _at_layer(batch, params, draws, lambda h, own, _: project(h, own["components"]))

    def canonical(self, params: Mapping[str, float]) -> dict[str, float]:
        """The hyperparameters that stand for all that train the same."""
        return _canonical(params)


def _drop(h: Tensor, params: Mapping[str, Tensor], draws: Draws) -> Tensor:
    """Activations (lanes, rows, width) with a share `rate` set to 0 and the others scaled up."""
    kept = 1 - params["rate"]
    return h * draws.bernoulli(kept, h.shape[1], h.shape[2]) / kept


def project(h: Tensor, components: Tensor) -> Tensor:
    """Rows projected on their own leading principal components.

    Args:
        h: (lanes, rows, width).
        components: How many components each lane keeps (lanes, 1, 1).
    """
    import torch

    mean = h.mean(1, keepdim=True)
    centred = h - mean
    with torch.no_grad(), torch.autocast(h.device.type, enabled=False):
        # Components by way of the rows' Gram matrix: batches are shorter than layers are wide. Ascending order.
        wide = centred.float()
        vectors = torch.linalg.eigh((wide @ wide.mT).double())[1]
        rank = torch.arange(h.shape[1] - 1, -1, -1, device=h.device)
        onto = ((vectors * (rank < components)) @ vectors.mT).to(h.dtype)
    projected: Tensor = mean + onto @ centred
    return projected
