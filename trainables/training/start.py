"""Choose the kind of training that the methods of a pack need."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from trainables.methods.registry import Contrastive
from trainables.records.types import AUTO
from trainables.training.auto_layer import ScoutedTraining
from trainables.training.engine import Training
from trainables.training.pretraining import ContrastiveTraining
from trainables.training.protocol import LaneTraining, TrainingError
from trainables.training.settings import Lane, Settings


def start_training(
    embeddings: Tensor,
    labels: Tensor,
    lanes: Sequence[Lane],
    settings: Settings,
    steps_per_epoch: int | None = None,
) -> LaneTraining:
    """Return a pack in training.

    Args:
        embeddings: float32 (items, features), on the device to train on.
        labels: int64 class of each item (items,), on the same device.
        lanes: The trials; contrastive lanes must all be of the same method.
        settings: Shared by all lanes.
        steps_per_epoch: Steps per epoch; None for as many whole batches as the smallest lane's training items give.
            A study gives it, so that it does not depend on the other lanes.

    Raises:
        TrainingError: There is no lane, a batch is larger than a lane's training items, or the methods do not train
            together.
    """
    if any(lane.params.get("layer") == AUTO for lane in lanes):
        return ScoutedTraining(embeddings, labels, lanes, settings, steps_per_epoch, _start)
    return _start(embeddings, labels, lanes, settings, steps_per_epoch)


def _start(
    embeddings: Tensor, labels: Tensor, lanes: Sequence[Lane], settings: Settings, steps_per_epoch: int | None
) -> LaneTraining:
    """Start lanes that all know their layer."""
    if not any(isinstance(lane.method, Contrastive) for lane in lanes):
        return Training(embeddings, labels, lanes, settings, steps_per_epoch)
    names = sorted({lane.method.name for lane in lanes})
    if len(names) > 1:
        raise TrainingError(
            f"Lanes of a contrastive method must train without lanes of other methods, got {', '.join(names)}: give "
            "each method its own pack."
        )
    return ContrastiveTraining(embeddings, labels, lanes, settings, steps_per_epoch)
