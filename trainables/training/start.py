"""Choose the kind of training that the methods of a pack need."""

from __future__ import annotations

from trainables.methods.registry import Contrastive
from trainables.records.types import AUTO
from trainables.training.auto_layer import ScoutedTraining
from trainables.training.engine import Training
from trainables.training.pretraining import ContrastiveTraining
from trainables.training.protocol import LaneTraining, PackInputs, TrainingError


def start_training(inputs: PackInputs) -> LaneTraining:
    """Return a pack in training.

    Raises:
        TrainingError: There is no lane, a batch is larger than a lane's training items, or the methods do not train
            together.
    """
    if any(lane.params.get("layer") == AUTO for lane in inputs.lanes):
        return ScoutedTraining(inputs, _start)
    return _start(inputs)


def _start(inputs: PackInputs) -> LaneTraining:
    """Start lanes that all know their layer."""
    if not any(isinstance(lane.method, Contrastive) for lane in inputs.lanes):
        return Training(inputs)
    names = sorted({lane.method.name for lane in inputs.lanes})
    if len(names) > 1:
        raise TrainingError(
            f"Lanes of a contrastive method must train without lanes of other methods, got {', '.join(names)}: give "
            "each method its own pack."
        )
    return ContrastiveTraining(inputs)
