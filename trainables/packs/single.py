"""Train one trial of a study in this process, and keep its classifier."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from torch import Tensor

from trainables.methods.registry import get_method
from trainables.packs.pack import PackContext
from trainables.packs.trainable import on_device, pack_training
from trainables.records.types import NOT_CALIBRATED, Calibration, Candidate, Pack, SplitId, TrialConfig
from trainables.sampling.splits import Split, inner_of
from trainables.sampling.streams import stream
from trainables.training.protocol import LaneFailure, LaneResult, LaneTraining, PackInputs, TrainingError
from trainables.training.settings import Lane
from trainables.training.start import start_training

_Floats = npt.NDArray[np.float32]


@dataclass(frozen=True)
class TrainedLane:
    """A trained lane.

    Attributes:
        result: Its metrics, curves and per-item results.
        weights: Weights of each layer (inputs, outputs).
        biases: Biases of each layer (outputs,).
        residual: Whether each layer's input is added to its output, after the ReLU.
        shift: Subtracted from the inputs (features,).
        scale: The shifted inputs are divided by it (features,).
        known: Label index of each output (classes,).
        hardware: Device that it was trained on, as records name it.
    """

    result: LaneResult
    weights: tuple[_Floats, ...]
    biases: tuple[_Floats, ...]
    residual: tuple[bool, ...]
    shift: _Floats
    scale: _Floats
    known: npt.NDArray[np.int64]
    hardware: str


def train_trial(context: PackContext, trial: TrialConfig, calibration: Calibration = NOT_CALIBRATED) -> TrainedLane:
    """Train one trial exactly as a study trains it.

    Raises:
        TrainingError: The trial gives no result.
    """
    embeddings, labels, hardware = on_device(context)
    pack = Pack(trial.phase, trial.candidate, (trial.split,))
    training = pack_training(context, pack, embeddings, labels, [calibration])
    return finish_training(training, hardware)


def train_on(context: PackContext, candidate: Candidate, seed: int, split: Split) -> TrainedLane:
    """Train a candidate on a split that is none of the study's, such as `split_of_all`.

    Args:
        context: Shared by all packs of the study.
        candidate: The method and its hyperparameters.
        seed: Keys the weights, the order and every other random draw.
        split: What is trained on, and what the metrics are of.

    Raises:
        TrainingError: The training gives no result.
    """
    embeddings, labels, hardware = on_device(context)
    lane = Lane(get_method(candidate.method), dict(candidate.params), seed, split)
    return finish_training(start_training(PackInputs(embeddings, labels, [lane], context.settings)), hardware)


def score_within(
    context: PackContext, candidate: Candidate, seed: int, within: npt.NDArray[np.int64], inner: int
) -> LaneResult:
    """Train a candidate on an inner split of some items, as a search does on one of a split's training items.

    Args:
        context: Shared by all packs of the study.
        candidate: The method and its hyperparameters.
        seed: Seed of the splits.
        within: Sorted indices of the items (some items,).
        inner: Number of the inner split.

    Raises:
        TrainingError: The training gives no result.
    """
    embeddings, labels, hardware = on_device(context)
    split = inner_of(context.items, context.rules, within, stream(seed, f"inner {inner} of all"))
    lane = Lane(get_method(candidate.method), dict(candidate.params), SplitId(seed, inner).stream_seed, split)
    inputs = PackInputs(embeddings, labels, [lane], context.settings, searches=True)
    return finish_training(start_training(inputs), hardware).result


def finish_training(training: LaneTraining, hardware: str) -> TrainedLane:
    """Train a pack of one lane to its end.

    Raises:
        TrainingError: The training gives no result.
    """
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
