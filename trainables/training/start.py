"""Choose the kind of training that the methods of a pack need."""

from __future__ import annotations

from dataclasses import replace

from trainables.methods.registry import Contrastive
from trainables.records.types import AUTO
from trainables.training.auto_layer import ScoutedTraining
from trainables.training.engine import Training
from trainables.training.pretraining import ContrastiveTraining
from trainables.training.protocol import LaneTraining, PackInputs, TrainingError, ready
from trainables.training.solo import SoloTrainings


def start_training(inputs: PackInputs) -> LaneTraining:
    """Return a pack in training: its lanes in lockstep on a GPU, one after the other on a CPU.

    Raises:
        TrainingError: There is no lane, a batch is larger than a lane's training items, or the methods do not train
            together.
    """
    _, steps = ready(inputs)
    names = sorted({lane.method.name for lane in inputs.lanes})
    if len(names) > 1 and any(isinstance(lane.method, Contrastive) for lane in inputs.lanes):
        raise TrainingError(
            f"Lanes of a contrastive method must train without lanes of other methods, got {', '.join(names)}: give "
            "each method its own pack."
        )
    if inputs.embeddings.is_cpu:
        alone = [replace(inputs, lanes=[lane], steps_per_epoch=steps) for lane in inputs.lanes]
        return SoloTrainings([start_lockstep(own) for own in alone])
    return start_lockstep(inputs)


def start_lockstep(inputs: PackInputs) -> LaneTraining:
    """Return a pack whose lanes train together, step by step; arguments and errors as for `start_training`."""
    if any(lane.params.get("layer") == AUTO for lane in inputs.lanes):
        return ScoutedTraining(inputs, _with_known_layers)
    return _with_known_layers(inputs)


def _with_known_layers(inputs: PackInputs) -> LaneTraining:
    is_contrastive = any(isinstance(lane.method, Contrastive) for lane in inputs.lanes)
    return ContrastiveTraining(inputs) if is_contrastive else Training(inputs)
