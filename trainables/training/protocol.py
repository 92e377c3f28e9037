"""The contract of a training of a pack, its results, and what all trainings share."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Protocol

import numpy as np
import numpy.typing as npt
from torch import Tensor

from embedding_jobs.errors import StudyError
from trainables.records.types import Curves, ItemResults, TrialConfig, TrialRecord
from trainables.sampling.splits import Indices, hold_out
from trainables.training.settings import Lane, Settings
from trainables.training.stack import Stack
from trainables.training.supervised import SupervisedStack

Floats = npt.NDArray[np.float64]

# Fields of per-item results that only a split determines, by its digest.
InputScores = dict[bytes, Mapping[str, npt.NDArray[np.int32]]]


class TrainingError(StudyError):
    """A pack that cannot be trained as given."""


@dataclass(frozen=True)
class PackInputs:
    """What a pack is trained on, and how.

    Attributes:
        embeddings: float32 (items, features), on the device to train on.
        labels: int64 class of each item (items,), on the same device.
        lanes: The trials; contrastive lanes must all be of the same method.
        settings: Shared by all lanes.
        steps_per_epoch: Steps per epoch; None for as many whole batches as the smallest lane's training items give.
            A study gives it, so that it does not depend on the other lanes.
        searches: Whether the trials score candidates: every evaluation computes the weighted AUC, which else only the
            last one does, since on many items it takes as long as several epochs; and each trial chooses a threshold
            and a temperature on its own validation items.
        input_scores: The scores on the input that trainings of these items have computed so far, by split, as per-item
            results hold them. None for no scores on any layer.
    """

    embeddings: Tensor
    labels: Tensor
    lanes: Sequence[Lane]
    settings: Settings
    steps_per_epoch: int | None = None
    searches: bool = False
    input_scores: InputScores | None = None


@dataclass(frozen=True)
class Evaluation:
    """One point of the learning curves; every array is (lanes of the pack,), NaN for lanes that have left.

    Attributes:
        loss: Mean training loss since the previous evaluation.
        accuracy: Accuracy over all validation items, at the settings' threshold.
        accuracy_known: Accuracy over items of known classes.
        accuracy_none: Accuracy over "none" items; NaN where there are none.
        top1: Accuracy over items of known classes, without a threshold.
        auc_weighted: Weighted AUC; NaN where it was not computed.
    """

    epoch: int
    loss: Floats
    accuracy: Floats
    accuracy_known: Floats
    accuracy_none: Floats
    top1: Floats
    auc_weighted: Floats


@dataclass(frozen=True)
class LaneResult:
    """The result of one lane.

    Attributes:
        metrics: Metrics by name, and counts.
        curves: Learning, threshold and ROC curves.
        items: Per-item results on the validation items.
        device_s: The lane's share of the time of training and prediction.
    """

    metrics: dict[str, float]
    curves: Curves
    items: ItemResults
    device_s: float

    def record(self, trial: TrialConfig, started_at_s: float, provenance: Mapping[str, str]) -> TrialRecord:
        """Return the record of a trial with this result."""
        return TrialRecord(trial, self.metrics, self.curves, self.items, started_at_s, self.device_s, provenance)


@dataclass(frozen=True)
class LaneFailure:
    """The reason why a lane gives no result."""

    reason: str


class LaneTraining(Protocol):
    """A pack in training; `trainables.training.start.start_training` returns one."""

    @property
    def finished(self) -> bool:
        """Whether no lane is left to train."""
        ...

    @property
    def stacks(self) -> list[SupervisedStack]:
        """The classifiers in training; a stack that has ended keeps the weights of its last lanes."""
        ...

    def advance(self) -> Evaluation:
        """Train every lane to the next evaluation; lanes that end there leave with their results."""
        ...

    def stop(self, lanes: Iterable[int]) -> None:
        """Remove lanes without a result, given their positions in the pack."""
        ...

    def results(self) -> list[LaneResult | LaneFailure | None]:
        """Return each lane's result; None for one that was stopped from outside.

        Raises:
            TrainingError: Lanes are still in training.
        """
        ...


@dataclass
class LaneProgress:
    """The state of a lane while it trains.

    Attributes:
        lane: The lane, without the held-out items.
        held_out: Training items that early stopping uses (items,).
        rows: The points of its curves.
        cka: Linear CKA of neighbouring layers at each point.
        best_loss: Lowest loss on the held-out items.
        best_weights: The weights at that point.
        n_worse: Evaluations since that point.
    """

    lane: Lane
    held_out: Indices
    rows: list[dict[str, float]] = field(default_factory=list)
    cka: list[npt.NDArray[np.float32]] = field(default_factory=list)
    best_loss: float = math.inf
    best_weights: list[Tensor] = field(default_factory=list)
    n_worse: int = 0


def ready(inputs: PackInputs) -> tuple[list[LaneProgress], int]:
    """Return the lanes without the items that early stopping holds out, and the steps per epoch.

    Raises:
        TrainingError: There is no lane, or a batch is larger than a lane's training items.
    """
    settings = inputs.settings
    if not inputs.lanes:
        raise TrainingError("A pack must have at least one lane, got none.")
    for lane in inputs.lanes:
        if problem := too_short(lane, settings):
            raise TrainingError(problem)
    progress = []
    for lane in inputs.lanes:
        split, held_out = hold_out(lane.split, settings.held_out_fraction, lane.seed)
        progress.append(LaneProgress(replace(lane, split=split), held_out))
    smallest = min(len(one.lane.split.train) for one in progress)
    return progress, inputs.steps_per_epoch or smallest // settings.batch_size


def too_short(lane: Lane, settings: Settings) -> str | None:
    """Return why a lane has too few items for a batch, or none to be judged or stopped by; None if it has enough."""
    if len(lane.split.validation) == 0:
        return "The split has no item to judge by: give more items, or smaller groups"
    split, held_out = hold_out(lane.split, settings.held_out_fraction, lane.seed)
    if settings.early_stopping and not len(held_out):
        return "Early stopping holds out no item: raise its fraction, or give more items, or smaller groups"
    n_train = len(split.train)
    if settings.batch_size <= n_train:
        return None
    return f"The batch ({settings.batch_size}) must not exceed the {n_train} training items of the split: lower it"


def diverged(lane: Lane, loss: float, epoch: int) -> LaneFailure | None:
    """Return the failure of a lane whose mean training loss is not finite after some epochs; None if it is finite."""
    if math.isfinite(loss):
        return None
    return LaneFailure(
        f"the loss of {lane.method.name} {dict(lane.params)} is {loss} by epoch {epoch}; lower "
        "the learning rate, or standardise the inputs"
    )


def drop(members: list[int], stack: Stack, places: Sequence[int]) -> None:
    """Remove lanes from a stack, and from the list of its members.

    Args:
        members: Position in the pack of each of the stack's lanes; changed.
        stack: The stack; if no lane remains, it keeps the weights of the last ones.
        places: Positions in the stack of the lanes that leave.
    """
    if not places:
        return
    kept = [place for place in range(len(members)) if place not in places]
    members[:] = [members[place] for place in kept]
    if kept:
        stack.keep(kept)
    else:
        stack.release()


def cka_metrics(cka: npt.NDArray[np.float32]) -> dict[str, float]:
    """Return metrics by name from the linear CKA of each layer with the next (hidden layers + 1,)."""
    return {f"cka_{layer}": float(value) for layer, value in enumerate(cka)}
