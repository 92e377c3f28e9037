"""Contrastive training of a stack: the two views of an item become similar, and different from other items' views.

The first view is the plain embedding; the second is augmented by the method, at the input or at a hidden layer. Both
pass through the hidden layers and a projection head, `Linear -> ReLU -> Linear`, and NT-Xent compares the outputs.
Labels are not used. With `contrastive_control` the two views are equal, and the loss only separates items. The study's
dropout is off: it would be a second augmentation.

References:
    Chen et al., "A Simple Framework for Contrastive Learning of Visual Representations" (2020),
    https://arxiv.org/abs/2002.05709; Brüel-Gabrielsson et al., "Deep Augmentation: Self-Supervised Learning with
    Transformations in Activation Space" (2023), https://arxiv.org/abs/2303.14537, of which only the abstract
    was available: the formulation, such as the plain first view, is ours.
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
    """Compute the normalised temperature-scaled cross-entropy of two views: (lanes,).

    The positive of each of the 2 x rows views is the other view of its item; all other views are negatives. Similarity
    is the cosine.

    Args:
        a: First views (lanes, rows, width), at least two rows.
        b: Second views of the same items, row by row.
        temperature: Divisor of the similarities (lanes, 1, 1).

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
    """Hidden layers in contrastive training, with a projection head per lane.

    The initial hidden layers are the same as in supervised training of the same split seed. Every item is used once per
    epoch: drawing classes equally would need labels.

    Args:
        embeddings: float32 (items, features), on the device to train on.
        lanes: The lanes, all of one `Contrastive` method.
        steps_per_epoch: Steps per epoch.
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
        """Return the hidden layers as they are now, frozen, without the projection head."""
        return Trunk(self.model, len(self.settings.hidden))

    def _lane_loss(self, items: Tensor) -> Tensor:
        x = self._inputs(items)
        y, is_class = x.new_zeros((*items.shape, 1)), x.new_ones((len(x), 1, 1))
        batch = Batch(x, y, is_class, self._deviation, len(self.settings.hidden))
        view = self.method.transform(batch, self._params, self._augment)
        plain, augmented = self._outputs(x), self._outputs(view.x, at_layer=self._below_head(view.at_layer))
        return nt_xent(plain, augmented, self._params["temperature"])

    def _below_head(self, at_layer: AtLayer | None) -> AtLayer | None:
        """Restrict a method to the hidden layers: the projection head is not augmented."""
        if at_layer is None:
            return None
        inner, n_layers = at_layer, len(self.settings.hidden)
        return lambda layer, h: inner(layer, h) if layer <= n_layers else h
