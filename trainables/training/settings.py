"""The settings that the engine needs, free of torch."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from trainables.methods.protocol import Method
from trainables.sampling.splits import Split

Precision = Literal["float32", "tf32", "bfloat16"]


@dataclass(frozen=True)
class Pretraining:
    """How a contrastive method trains the hidden layers before a classifier is put on them.

    Attributes:
        epochs: Passes over the training items.
        projection: Width of the projection head's hidden layer and of its output.
        classifier_hidden: Width of each hidden layer of the classifier on the frozen hidden layers.
    """

    epochs: int = 96
    projection: int = 128
    classifier_hidden: tuple[int, ...] = (250, 250)


@dataclass(frozen=True)
class Settings:
    """How every lane is trained and judged (Wolfe & Lundgaard 2019, sections 3.3 and 3.4).

    Attributes:
        epochs: Passes over the training items.
        batch_size: Items a step, even; the last, incomplete batch of an epoch is left out, so that steps are alike.
        hidden: Width of each hidden layer.
        residual: Whether a hidden layer's input is added to its output where the two are equally wide.
        dropout: Share of hidden activations dropped, in [0, 1).
        weight_decay: AdamW's decoupled weight decay.
        learning_rate_low: Learning rate at the start and end of a cycle.
        learning_rate_high: Learning rate in its middle.
        step_size_epochs: Epochs from low to high; a cycle has two such steps.
        evaluate_every_epochs: Epochs between two points of the learning curves.
        standardize: Whether inputs are standardised with the mean and deviation of the lane's training items.
        class_balanced: Whether an epoch draws items, with replacement, so that its classes are equally likely.
        early_stopping_fraction: Share of the training items held out to stop a lane and choose its weights; 0 for none.
        early_stopping_patience: Evaluations without a lower held-out loss after which a lane stops.
        threshold: Confidence below which "none" is predicted, in [0, 1].
        precision: What the matrix products of training compute in. Lower ones are for GPUs: a CPU has no `tf32`, and
            most are slower in `bfloat16`.
        pretraining: What contrastive methods do first.
        cuda_graph: Whether training steps on a GPU are captured as a CUDA graph, of methods that allow it.
    """

    epochs: int = 576
    batch_size: int = 128
    hidden: tuple[int, ...] = (250, 250)
    residual: bool = False
    dropout: float = 0.3
    weight_decay: float = 1e-4
    learning_rate_low: float = 3e-4
    learning_rate_high: float = 3e-3
    step_size_epochs: int = 12
    evaluate_every_epochs: int = 24
    standardize: bool = False
    class_balanced: bool = False
    early_stopping_fraction: float = 0.0
    early_stopping_patience: int = 3
    threshold: float = 0.6
    precision: Precision = "float32"
    pretraining: Pretraining = field(default_factory=Pretraining)
    cuda_graph: bool = False


@dataclass(frozen=True)
class Lane:
    """One trial to train.

    Attributes:
        method: What is done to its batches.
        params: The method's hyperparameters, and any of `batch.LANE_SETTINGS`, which override the settings.
        seed: Split seed, which keys every random stream of the lane.
        split: Its training and validation items.
    """

    method: Method
    params: Mapping[str, float]
    seed: int
    split: Split

    def setting(self, name: str, settings: Settings) -> float:
        """One of `batch.LANE_SETTINGS`, as this lane has it."""
        return self.params.get(name, getattr(settings, name))
