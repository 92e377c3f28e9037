"""The settings of the training: plain values, free of torch, declared once.

`TrainingSettings` is also the study file's `training` section. Its classes are frozen dataclasses; the bounds in their
annotations hold where pydantic reads a study file.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Literal

from pydantic import AfterValidator, ConfigDict, Field, with_config

from trainables.methods.protocol import Method
from trainables.records.types import CONTRASTIVE, NOT_CALIBRATED, Calibration
from trainables.sampling.splits import Split

Precision = Literal["float32", "tf32", "bfloat16"]

_KNOWN_KEYS = ConfigDict(extra="forbid")

_Count = Annotated[int, Field(ge=1)]


def _even(value: int) -> int:
    if value % 2:
        raise ValueError("must be even, since methods pair its items")
    return value


def _positive_widths(value: tuple[int, ...]) -> tuple[int, ...]:
    if any(width < 1 for width in value):
        raise ValueError("must be widths of at least 1")
    return value


_Widths = Annotated[tuple[int, ...], AfterValidator(_positive_widths)]


@with_config(_KNOWN_KEYS)
@dataclass(frozen=True)
class LearningRate:
    """The triangular learning rate (Smith 2017, https://arxiv.org/abs/1506.01186).

    Attributes:
        low: Learning rate at the start and end of a cycle.
        high: Learning rate in the middle of a cycle.
        step_size_epochs: Epochs from low to high; a cycle has two such steps.
    """

    low: Annotated[float, Field(gt=0)] = 3e-4
    high: Annotated[float, Field(gt=0)] = 3e-3
    step_size_epochs: _Count = 12


@with_config(_KNOWN_KEYS)
@dataclass(frozen=True)
class HoldOut:
    """Early stopping on a share of the training items, which also chooses the lane's final weights.

    Attributes:
        fraction: Share of the training items held out, in (0, 1).
        patience: Evaluations without a lower loss on the held-out items after which a lane stops.
    """

    fraction: Annotated[float, Field(gt=0, lt=1)] = 0.1
    patience: _Count = 3


@with_config(_KNOWN_KEYS)
@dataclass(frozen=True)
class Pretraining:
    """How a contrastive method trains the hidden layers before a classifier is put on them.

    Attributes:
        epochs: Passes over the training items.
        projection: Width of the projection head's hidden layer and of its output.
        classifier_hidden: Width of each hidden layer of the classifier on the frozen hidden layers.
    """

    epochs: _Count = 96
    projection: _Count = 128
    classifier_hidden: _Widths = (250, 250)


@with_config(_KNOWN_KEYS)
@dataclass(frozen=True)
class TrainingSettings:
    """The classifier and its training (defaults: Wolfe & Lundgaard 2019, sections 3.3 and 3.4).

    Attributes:
        epochs: Passes over the training items.
        batch_size: Items per step, even; an epoch's last, incomplete batch is left out, so that all steps are alike.
        hidden: Width of each hidden layer.
        residual: Whether a hidden layer's input is added to its output where the two are equally wide.
        dropout: Share of hidden activations dropped, in [0, 1).
        weight_decay: AdamW's decoupled weight decay.
        learning_rate: The learning rate's cycle.
        evaluate_every_epochs: Epochs between two points of the learning curves.
        standardize: Whether inputs are standardised with the mean and deviation of the lane's training items.
        class_balanced: Whether an epoch draws items, with replacement, so that its classes are equally likely.
        early_stopping: When a lane stops before the last epoch; None for never.
        precision: What the matrix products of training compute in. Lower ones are for GPUs: a CPU has no `tf32`, and
            most are slower in `bfloat16`.
        pretraining: The first stage of contrastive methods.
    """

    epochs: _Count = 576
    batch_size: Annotated[int, Field(ge=2), AfterValidator(_even)] = 128
    hidden: _Widths = (250, 250)
    residual: bool = False
    dropout: Annotated[float, Field(ge=0, lt=1)] = 0.3
    weight_decay: Annotated[float, Field(ge=0)] = 1e-4
    learning_rate: LearningRate = LearningRate()
    evaluate_every_epochs: _Count = 24
    standardize: bool = False
    class_balanced: bool = False
    early_stopping: HoldOut | None = None
    precision: Precision = "float32"
    pretraining: Pretraining = Pretraining()

    @property
    def held_out_fraction(self) -> float:
        """Share of the training items that early stopping holds out; 0 without early stopping."""
        return self.early_stopping.fraction if self.early_stopping else 0.0

    def steps_per_epoch(self, n_train: int) -> int:
        """Return the steps of an epoch: the whole batches of a split's training items, at least one."""
        return max(1, int(n_train * (1 - self.held_out_fraction)) // self.batch_size)

    def n_epochs(self, objective: str) -> int:
        """Return the epochs of a whole trial, pretraining included, as its learning curves count them."""
        return self.epochs + (self.pretraining.epochs if objective == CONTRASTIVE else 0)


@dataclass(frozen=True)
class Settings(TrainingSettings):
    """How every lane is trained and evaluated: the training settings, and two of other sections of the study file.

    Attributes:
        threshold: Confidence below which "none" is predicted, in [0, 1].
        cuda_graph: Whether training steps on a GPU are captured as a CUDA graph, for methods that allow it.
    """

    threshold: float = 0.6
    cuda_graph: bool = False


@dataclass(frozen=True)
class Lane:
    """One trial to train.

    Attributes:
        method: The augmentation of its batches.
        params: The method's hyperparameters, and any of `LANE_SETTINGS`, which override the settings.
        seed: Keys every random stream of the lane.
        split: Its training and validation items.
        calibration: What its figures at a chosen threshold and temperature rest on.
    """

    method: Method
    params: Mapping[str, float]
    seed: int
    split: Split
    calibration: Calibration = NOT_CALIBRATED
