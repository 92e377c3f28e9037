"""Methods that leave the targets as they are and change the inputs."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING

from trainables.methods.deep_augmentation import drop_units
from trainables.methods.protocol import Batch, Draws

if TYPE_CHECKING:
    from torch import Tensor


def control(batch: Batch, params: Mapping[str, Tensor], draws: Draws) -> Batch:
    """Return the batch as it is, not halved: no augmentation."""
    return batch


def gaussian_noise(batch: Batch, params: Mapping[str, Tensor], draws: Draws) -> Batch:
    """Add noise in units of each feature's standard deviation over the training items.

    References:
        DeVries & Taylor, "Dataset Augmentation in Feature Space" (2017), https://arxiv.org/abs/1702.05538
    """
    noise = draws.normal(batch.x.shape[1], batch.x.shape[2])
    return replace(batch, x=batch.x.addcmul(noise, params["sigma"] * batch.deviation))


def feature_corruption(batch: Batch, params: Mapping[str, Tensor], draws: Draws) -> Batch:
    """Replace a fraction `rate` of the elements by those of another item of the batch.

    References:
        Bahri et al., "SCARF: Self-Supervised Contrastive Learning using Random Feature Corruption" (2021),
        https://arxiv.org/abs/2106.15147
    """
    rows, features = batch.x.shape[1:]
    other = batch.x.roll(rows // 2, dims=1)  # the batch is in random order, so any other item is a random one
    return replace(batch, x=other.where(draws.bernoulli(params["rate"], rows, features), batch.x))


def uniform_dropout(batch: Batch, params: Mapping[str, Tensor], draws: Draws) -> Batch:
    """Apply the same dropout at the input and at the output of every hidden layer.

    It is the baseline for Deep Augmentation, which targets one layer. It comes on top of the study's own dropout.

    References:
        Srivastava et al., "Dropout: A Simple Way to Prevent Neural Networks from Overfitting" (2014),
        https://jmlr.org/papers/v15/srivastava14a.html
    """
    return replace(batch, x=drop_units(batch.x, params, draws), at_layer=lambda _, h: drop_units(h, params, draws))
