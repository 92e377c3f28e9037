"""One trial of a study, trained in this process: its result, and the classifier that gave it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from torch import Tensor

from trainables.methods.registry import get_method
from trainables.packs.pack import Pack, PackContext
from trainables.packs.trainable import on_device, pack_training
from trainables.records.types import Candidate, TrialConfig
from trainables.sampling.splits import Split
from trainables.training.auto_layer import start_training
from trainables.training.protocol import LaneFailure, LaneResult, LaneTraining, TrainingError
from trainables.training.settings import Lane

Floats = npt.NDArray[np.float32]


@dataclass(frozen=True)
class TrainedLane:
    """A trained lane.

    Attributes:
        result: Its figures, curves and per-item results.
        weights: Of each layer (inputs, outputs).
        biases: Of each layer (outputs,).
        residual: Whether each layer's input is added to its output, after the ReLU.
        shift: What is subtracted from the inputs (features,).
        scale: What they are then divided by (features,).
        known: Label index of each output (classes,).
        hardware: What it was trained on, as records name it.
    """

    result: LaneResult
    weights: tuple[Floats, ...]
    biases: tuple[Floats, ...]
    residual: tuple[bool, ...]
    shift: Floats
    scale: Floats
    known: npt.NDArray[np.int64]
    hardware: str


def train_trial(context: PackContext, trial: TrialConfig) -> TrainedLane:
    """Trains one trial as a study does, through the same engine.

    Args:
        context: What all packs of the study share.
        trial: Its coordinates.

    Raises:
        TrainingError: The trial gives no result.
    """
    embeddings, labels, hardware = on_device(context)
    pack = Pack(trial.phase, trial.candidate, (trial.split,))
    return _finish(pack_training(context, pack, embeddings, labels), hardware)


def train_on_all(context: PackContext, candidate: Candidate, seed: int) -> TrainedLane:
    """Trains a candidate on every item of a class that is not unknown; its figures are of the items it has seen.

    Args:
        context: What all packs of the study share.
        candidate: The method and its hyperparameters.
        seed: Of the weights, the order and every other draw.

    Raises:
        TrainingError: The training gives no result.
    """
    embeddings, labels, hardware = on_device(context)
    items = np.arange(len(context.labels))
    train = items[~np.isin(context.labels, context.unknown_classes)]
    lane = Lane(get_method(candidate.method), dict(candidate.params), seed, Split(train, items))
    return _finish(start_training(embeddings, labels, [lane], context.settings), hardware)


def _finish(training: LaneTraining, hardware: str) -> TrainedLane:
    stacks = training.stacks
    while not training.finished:
        training.advance()
        stacks = training.stacks or stacks
    (result,) = training.results()
    if not isinstance(result, LaneResult):
        reason = result.reason if isinstance(result, LaneFailure) else "it was stopped"
        raise TrainingError(f"The trial gives no result: {reason}.")
    (stack,) = stacks
    layers = stack.layers(0)
    shift, scale = stack.standardization(0)
    return TrainedLane(
        result=result,
        weights=tuple(_numpy(layer.weight) for layer in layers),
        biases=tuple(_numpy(layer.bias) for layer in layers),
        residual=tuple(layer.residual for layer in layers),
        shift=_numpy(shift),
        scale=_numpy(scale),
        known=_numpy(stack.known[0]),
        hardware=hardware,
    )


def _numpy(tensor: Tensor) -> Any:
    return tensor.detach().cpu().numpy()
