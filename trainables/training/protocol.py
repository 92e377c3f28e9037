"""What every training of a pack has in common: what it is asked for, what it reports, and what its lanes give."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from typing import Protocol

import numpy as np
import numpy.typing as npt
from torch import Tensor

from embedding_jobs.errors import StudyError
from trainables.records.types import Curves, ItemResults
from trainables.sampling.splits import Indices, Split, n_held_out
from trainables.sampling.streams import stream
from trainables.training.settings import Lane, Settings
from trainables.training.stack import Stack
from trainables.training.supervised import SupervisedStack

Floats = npt.NDArray[np.float64]


class TrainingError(StudyError):
    """A pack that cannot be trained as it was given."""


@dataclass(frozen=True)
class Evaluation:
    """One point of the learning curves; every array is (lanes of the pack,), NaN for lanes that have left.

    Attributes:
        epoch: Epochs trained.
        loss: Mean training loss since the evaluation before.
        accuracy: Over all validation items, at the settings' threshold.
        accuracy_known: Over items of known classes.
        accuracy_none: Over "none" items; NaN where there are none.
    """

    epoch: int
    loss: Floats
    accuracy: Floats
    accuracy_known: Floats
    accuracy_none: Floats


@dataclass(frozen=True)
class LaneResult:
    """What one lane gives.

    Attributes:
        metrics: Figures by name, and counts.
        curves: Learning, threshold and ROC curves.
        items: Per-item results on the validation items.
        device_s: The lane's share of the training and prediction time.
    """

    metrics: dict[str, float]
    curves: Curves
    items: ItemResults
    device_s: float


@dataclass(frozen=True)
class LaneFailure:
    """Why a lane gives no result."""

    reason: str


class LaneTraining(Protocol):
    """A pack in training, whatever its objective; `trainables.scout.start_training` starts one."""

    @property
    def finished(self) -> bool:
        """Whether no lane is left to train."""
        ...

    @property
    def stacks(self) -> list[SupervisedStack]:
        """The classifiers in training; a stack that has ended keeps the weights of the lanes that ended last."""
        ...

    def advance(self) -> Evaluation:
        """Trains every lane to the next evaluation; lanes that end there leave with their results."""
        ...

    def stop(self, lanes: Iterable[int]) -> None:
        """Takes lanes out without a result, given their places in the pack."""
        ...

    def results(self) -> list[LaneResult | LaneFailure | None]:
        """What each lane of the pack gave; None for one that was stopped from outside."""
        ...


@dataclass
class Progress:
    """What is kept of a lane while it trains.

    Attributes:
        lane: The lane, without what is held out.
        held_out: Training items that early stopping judges it by (items,).
        rows: The points of its curves.
        cka: Linear CKA of neighbouring layers at each of them.
        best_loss: Lowest loss on the held-out items.
        best_weights: The weights then.
        n_worse: Evaluations since then.
    """

    lane: Lane
    held_out: Indices
    rows: list[dict[str, float]] = field(default_factory=list)
    cka: list[npt.NDArray[np.float32]] = field(default_factory=list)
    best_loss: float = math.inf
    best_weights: list[Tensor] = field(default_factory=list)
    n_worse: int = 0


def ready(lanes: Sequence[Lane], settings: Settings, steps_per_epoch: int | None) -> tuple[list[Progress], int]:
    """The lanes without what early stopping holds out, and the steps of an epoch.

    Args:
        lanes: The lanes of a pack.
        settings: Shared by all of them.
        steps_per_epoch: None for as many whole batches as the smallest lane's training items give.

    Raises:
        TrainingError: There is no lane, or a batch is larger than a lane's training items.
    """
    if not lanes:
        raise TrainingError("A pack must have at least one lane, got none.")
    for lane in lanes:
        if problem := too_short(lane, settings):
            raise TrainingError(problem)
    progress = [_hold_out(lane, settings.held_out_fraction) for lane in lanes]
    smallest = min(len(one.lane.split.train) for one in progress)
    return progress, steps_per_epoch or smallest // settings.batch_size


def too_short(lane: Lane, settings: Settings) -> str | None:
    """Why a lane cannot be trained: it has fewer items than a batch; None where it can."""
    n_train = len(lane.split.train)
    n_train -= n_held_out(n_train, settings.held_out_fraction)
    if settings.batch_size <= n_train:
        return None
    return (
        f"The batch ({settings.batch_size}) must not exceed the {n_train} training items of split {lane.seed}: lower it"
    )


def diverged(lane: Lane, loss: float, epoch: int) -> LaneFailure | None:
    """The failure of a lane whose training loss is no number; None where it is one.

    Args:
        lane: The lane.
        loss: Its mean loss since the evaluation before.
        epoch: Epochs trained.
    """
    if math.isfinite(loss):
        return None
    return LaneFailure(
        f"the loss of {lane.method.name} {dict(lane.params)} on split {lane.seed} is {loss} by epoch {epoch}; lower "
        "the learning rate, or standardise the inputs"
    )


def drop(members: list[int], stack: Stack, places: Sequence[int]) -> None:
    """Takes lanes out of a stack, and out of the list of its members.

    Args:
        members: Place in the pack of each of the stack's lanes; changed.
        stack: Where no lane remains, it keeps the weights of the last ones.
        places: Places in the stack of the lanes that leave.
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
    """Figures by name of the linear CKA of each layer with the next (hidden layers + 1,)."""
    return {f"cka_{layer}": float(value) for layer, value in enumerate(cka)}


def _hold_out(lane: Lane, fraction: float) -> Progress:
    """A lane without the training items that early stopping holds out, and those items."""
    train = lane.split.train
    n = n_held_out(len(train), fraction)
    if n == 0:
        return Progress(lane, train[:0])
    shuffled = stream(lane.seed, "early_stopping").permutation(train)
    split = Split(np.sort(shuffled[n:]), lane.split.validation)
    return Progress(replace(lane, split=split), np.sort(shuffled[:n]))
