"""Contrastive training of a stack: two views of each item are to be alike, and unlike those of the batch's others.

The first view is the plain embedding, the second what the method makes of it, at the input or at a hidden layer. Both
pass through the hidden layers and a projection head, `Linear -> ReLU -> Linear`; NT-Xent compares what comes out.
Labels have no part in it. With `contrastive_control` the views are the same, and the loss only drives items apart. The
study's dropout does not act here: it would be a second augmentation.

References:
    Chen et al., "A Simple Framework for Contrastive Learning of Visual Representations" (2020),
    https://arxiv.org/abs/2002.05709; Brüel-Gabrielsson et al., "Deep Augmentation: Self-Supervised Learning with
    Transformations in Activation Space" (2023), https://arxiv.org/abs/2303.14537, of which only the abstract was at
    hand: that the first view is plain, and everything else here, is our formulation.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy, normalize

from trainables.methods.protocol import Batch
from trainables.training.model import AtLayer, LaneMLP, Trunk
from trainables.training.settings import Lane, Settings
from trainables.training.stack import Stack

STAGE = "pretraining_"


def nt_xent(a: Tensor, b: Tensor, temperature: Tensor) -> Tensor:
    """The normalised temperature-scaled cross-entropy of two views: (lanes,).

    Each of the 2 x rows views has one positive, its item's other view, among all but itself; similarity is the cosine.

    Args:
        a: First views (lanes, rows, width), at least two rows.
        b: Second views of the same items, row by row.
        temperature: What similarities are divided by (lanes, 1, 1).

    References:
        Chen et al., "A Simple Framework for Contrastive Learning of Visual Representations" (2020), section 2.1,
        https://arxiv.org/abs/2002.05709
    """
    rows = a.shape[1]
    views = normalize(torch.cat([a, b], dim=1), dim=-1)
    itself = torch.eye(2 * rows, dtype=torch.bool, device=a.device)
    similarity = (views @ views.mT / temperature).masked_fill(itself, -torch.inf)
    positive = torch.arange(2 * rows, device=a.device).roll(rows).expand(len(a), -1)
    loss: Tensor = cross_entropy(similarity.transpose(1, 2), positive, reduction="none").mean(1)
    return loss


class ContrastiveStack(Stack):
    """Hidden layers in contrastive training, each lane with a projection head of its own.

    The initial hidden layers are those that supervised training of the same split seed starts from. Every item is taken
    once an epoch: drawing classes equally would need labels.

    Args:
        embeddings: float32 (items, features), on the device to train on.
        lanes: The lanes, of a `trainables.methods.Contrastive`.
        steps_per_epoch: Steps of an epoch.
        settings: Shared by all lanes; at least one hidden layer.
    """

    def __init__(self, embeddings: Tensor, lanes: Sequence[Lane], steps_per_epoch: int, settings: Settings) -> None:
        projection = settings.pretraining.projection
        model = LaneMLP(
            n_features=embeddings.shape[1],
            hidden=(*settings.hidden, projection),  # the head's hidden layer comes last
            n_outputs=[projection] * len(lanes),
            seeds=[lane.seed for lane in lanes],
            n_residual=len(settings.hidden) if settings.residual else 0,
        )
        super().__init__(embeddings, lanes, steps_per_epoch, settings, model, STAGE)

    def trunk(self) -> Trunk:
        """The hidden layers as they are now, frozen, without the projection head."""
        return Trunk(self.model, len(self.settings.hidden))

    def _lane_loss(self, items: Tensor) -> Tensor:
        x = self._inputs(items)
        nothing = x.new_zeros((*items.shape, 1))
        view = self.method.transform(
            Batch(x, nothing, x.new_ones((len(x), 1, 1)), self._deviation), self._params, self._augment
        )
        plain, augmented = self._outputs(x), self._outputs(view.x, at_layer=self._below_head(view.at_layer))
        return nt_xent(plain, augmented, self._params["temperature"])

    def _below_head(self, at_layer: AtLayer | None) -> AtLayer | None:
        """What a method does, kept from the projection head, which is not a layer to be augmented."""
        if at_layer is None:
            return None
        inner, n_layers = at_layer, len(self.settings.hidden)
        return lambda layer, h: inner(layer, h) if layer <= n_layers else h
