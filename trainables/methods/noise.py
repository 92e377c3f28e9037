"""Methods that leave the targets as they are and change the inputs."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from trainables.methods.deep_augmentation import _RATE, _drop
from trainables.methods.protocol import Batch, Draws, Hyperparameter

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class UniformDropout:
    """Dropout at the input and at the output of every hidden layer alike; the target is kept.

    The baseline to Deep Augmentation, which targets one layer. It comes on top of the study's own dropout.

    References:
        Srivastava et al., "Dropout: A Simple Way to Prevent Neural Networks from Overfitting" (2014),
        https://jmlr.org/papers/v15/srivastava14a.html
    """

    name: str = "uniform_dropout"
    hyperparameters: Mapping[str, Hyperparameter] = field(default_factory=lambda: {"rate": _RATE})
    label_free: bool = True
    static: bool = True

    def transform(self, batch: Batch, params: Mapping[str, Tensor], draws: Draws) -> Batch:
        """The batch with dropout at every layer."""
        return replace(batch, x=_drop(batch.x, params, draws), at_layer=lambda _, h: _drop(h, params, draws))


@dataclass(frozen=True)
class Control:
    """No augmentation: the batch as it is, not halved."""

    name: str = "control"
    hyperparameters: Mapping[str, Hyperparameter] = field(default_factory=dict)
    label_free: bool = True
    static: bool = True

    def transform(self, batch: Batch, params: Mapping[str, Tensor], draws: Draws) -> Batch:
        """The batch itself."""
        return batch


@dataclass(frozen=True)
class GaussianNoise:
    """Adds noise in units of each feature's deviation over the training items; the target is kept.

    References:
        DeVries & Taylor, "Dataset Augmentation in Feature Space" (2017), https://arxiv.org/abs/1702.05538
    """

    name: str = "gaussian_noise"
    hyperparameters: Mapping[str, Hyperparameter] = field(
        default_factory=lambda: {"sigma": Hyperparameter(default=0.3, low=0, high=10)}
    )
    label_free: bool = True
    static: bool = True

    def transform(self, batch: Batch, params: Mapping[str, Tensor], draws: Draws) -> Batch:
        """The batch with noisy embeddings."""
        noise = draws.normal(batch.x.shape[1], batch.x.shape[2])
        return replace(batch, x=batch.x.addcmul(noise, params["sigma"] * batch.deviation))


@dataclass(frozen=True)
class FeatureCorruption:
    """Replaces a share of the elements by those of another item of the batch; the target is kept.

    References:
        Bahri et al., "SCARF: Self-Supervised Contrastive Learning using Random Feature Corruption" (2021),
        https://arxiv.org/abs/2106.15147
    """

    name: str = "feature_corruption"
    hyperparameters: Mapping[str, Hyperparameter] = field(
        default_factory=lambda: {"rate": Hyperparameter(default=0.2, low=0, high=1)}
    )
    label_free: bool = True
    static: bool = True

    def transform(self, batch: Batch, params: Mapping[str, Tensor], draws: Draws) -> Batch:
        """The batch with corrupted embeddings."""
        rows, features = batch.x.shape[1:]
        other = batch.x.roll(rows // 2, dims=1)  # the batch is in random order: any other item will do
        return replace(batch, x=other.where(draws.bernoulli(params["rate"], rows, features), batch.x))
