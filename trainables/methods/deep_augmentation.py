"""Deep Augmentation: methods that change the activations at one targeted layer while the model trains.

Layer 0 is the input. Targets are kept. In supervised training a stop-gradient leaves the layers below the targeted one
at their initial weights. `trainables.training.auto_layer` finds the layer where it is `auto`.

References:
    Brüel-Gabrielsson et al., "Deep Augmentation: Self-Supervised Learning with Transformations in Activation Space"
    (2023), https://arxiv.org/abs/2303.14537. The formulation is ours: only the paper's abstract was available.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import TYPE_CHECKING

from trainables.methods.protocol import Batch, Draws

if TYPE_CHECKING:
    from torch import Tensor

# Changes activations (lanes, rows, width), given these lanes' hyperparameters, (lanes, 1, 1) each.
_Change = Callable[["Tensor", Mapping[str, "Tensor"], Draws], "Tensor"]


def deep_dropout(batch: Batch, params: Mapping[str, Tensor], draws: Draws) -> Batch:
    """Apply dropout at the targeted layer."""
    return _change_at_layer(batch, params, draws, drop_units)


def deep_pca(batch: Batch, params: Mapping[str, Tensor], draws: Draws) -> Batch:
    """Project the activations of the targeted layer on the leading components of the same batch.

    The components count as constants to the gradient.
    """
    return _change_at_layer(batch, params, draws, lambda h, own, _: project(h, own["components"]))


def canonical_target(params: Mapping[str, float]) -> dict[str, float]:
    """Return the hyperparameters of a targeted method in canonical form: the input has no gradient to stop."""
    return {**params, "stop_gradient": 0.0} if params["layer"] == 0 else dict(params)


def drop_units(h: Tensor, params: Mapping[str, Tensor], draws: Draws) -> Tensor:
    """Set a fraction `rate` of the activations (lanes, rows, width) to 0 and scale up the others."""
    kept = 1 - params["rate"]
    return h * draws.bernoulli(kept, h.shape[1], h.shape[2]) / kept


def project(h: Tensor, components: Tensor) -> Tensor:
    """Project rows on their own leading principal components.

    Args:
        h: (lanes, rows, width).
        components: Number of components that each lane keeps (lanes, 1, 1).
    """
    import torch

    mean = h.mean(1, keepdim=True)
    centred = h - mean
    with torch.no_grad(), torch.autocast(h.device.type, enabled=False):
        # Components from the rows' Gram matrix: batches are shorter than layers are wide. Ascending order.
        wide = centred.float()
        vectors = torch.linalg.eigh((wide @ wide.mT).double())[1]
        rank = torch.arange(h.shape[1] - 1, -1, -1, device=h.device)
        onto = ((vectors * (rank < components)) @ vectors.mT).to(h.dtype)
    projected: Tensor = mean + onto @ centred
    return projected


def _change_at_layer(batch: Batch, params: Mapping[str, Tensor], draws: Draws, change: _Change) -> Batch:
    """Change a batch at each lane's targeted layer, with a stop-gradient below it where a lane asks for one."""
    layers = params["layer"].flatten().tolist()

    def at(layer: int, h: Tensor) -> Tensor:
        # Only the lanes that target this layer draw; if the others drew too, a lane would depend on its company.
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
