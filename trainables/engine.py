"""Trains the lanes of a pack in lockstep, on one device. Plain PyTorch: knows neither Ray nor the study file.

A lane is one trial. Lanes of one method form a stack, trained as one model; each lane has its own items, initial
weights, batch order and random streams, so that its result is that of its solo run. A lane that ends early leaves its
stack, and the others speed up.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.nn.functional import binary_cross_entropy_with_logits

from trainables.metrics import ROC_GRID, THRESHOLDS, accuracies, accuracy_curves, correct_at, figures, weighted_auc
from trainables.records import Curves, ItemResults
from trainables.splits import Indices, Split, stream
from trainables.stack import Lane, Settings, Stack

__all__ = ["Evaluation", "Lane", "LaneFailure", "LaneResult", "Settings", "Training", "TrainingError"]

Floats = npt.NDArray[np.float64]


class TrainingError(RuntimeError):
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


@dataclass
class _Progress:
    """What is kept of a lane while it trains."""

    lane: Lane
    held_out: Indices
    rows: list[dict[str, float]] = field(default_factory=list)
    best_loss: float = math.inf
    best_weights: list[Tensor] = field(default_factory=list)
    n_worse: int = 0


class Training:
    """A pack in training.

    Args:
        embeddings: float32 (items, features), on the device to train on.
        labels: int64 class of each item (items,), on the same device.
        lanes: The trials.
        settings: Shared by all lanes.
        steps_per_epoch: Steps of an epoch; None for as many whole batches as the smallest lane's training items give. A
            study gives it, so that it depends on no other lane.

    Raises:
        TrainingError: There is no lane, or a batch is larger than a lane's training items.
    """

    def __init__(
        self,
        embeddings: Tensor,
        labels: Tensor,
        lanes: Sequence[Lane],
        settings: Settings,
        steps_per_epoch: int | None = None,
    ) -> None:
        if not lanes:
            raise TrainingError("A pack must have at least one lane, got none.")
        self._settings = settings
        self._labels = labels
        self._progress = [_hold_out(lane, settings.early_stopping_fraction) for lane in lanes]
        smallest = min(len(progress.lane.split.train) for progress in self._progress)
        if settings.batch_size > smallest:
            raise TrainingError(
                f"The batch ({settings.batch_size}) must not exceed the training items ({smallest}). Lower it."
            )
        self._outcome: dict[int, LaneResult | LaneFailure | None] = {}
        self.epoch = 0
        groups: dict[str, list[int]] = {}
        for index, lane in enumerate(lanes):
            groups.setdefault(lane.method.name, []).append(index)
        steps = steps_per_epoch or smallest // settings.batch_size
        self._stacks = [
            (members, Stack(embeddings, labels, [self._progress[index].lane for index in members], steps, settings))
            for members in groups.values()
        ]

    @property
    def finished(self) -> bool:
        """Whether no lane is left to train."""
        return not self._stacks

    @property
    def stacks(self) -> list[Stack]:
        """The stacks in training; one that has ended keeps the weights of the lanes that ended last."""
        return [stack for _, stack in self._stacks]

    def advance(self) -> Evaluation:
        """Trains every lane to the next evaluation; lanes that end there leave with their results.

        Returns:
            The figures of the lanes that trained.
        """
        every = self._settings.evaluate_every_epochs
        epochs = min(every - self.epoch % every, self._settings.epochs - self.epoch)
        self.epoch += epochs
        trained = []
        for members, stack in self._stacks:
            stack.train(epochs)
            self._evaluate(members, stack)
            trained += members
        self._stacks = [(members, stack) for members, stack in self._stacks if members]
        columns = {name: np.full(len(self._progress), np.nan) for name in _LEARNING}
        for index in trained:
            last = self._progress[index].rows[-1:]
            for name in columns:
                columns[name][index] = last[0][name] if last else math.nan
        return Evaluation(epoch=self.epoch, **columns)

    def stop(self, lanes: Iterable[int]) -> None:
        """Takes lanes out without a result.

        Args:
            lanes: Their places in the pack.
        """
        gone = set(lanes)
        for members, stack in self._stacks:
            leaving = [place for place, index in enumerate(members) if index in gone]
            for place in leaving:
                self._outcome[members[place]] = None
            _drop(members, stack, leaving)
        self._stacks = [(members, stack) for members, stack in self._stacks if members]

    def results(self) -> list[LaneResult | LaneFailure | None]:
        """What each lane of the pack gave; None for one that was stopped from outside.

        Raises:
            TrainingError: Lanes are still in training.
        """
        if not self.finished:
            raise TrainingError("The pack is still in training; call `advance` until it is finished.")
        return [self._outcome[index] for index in range(len(self._progress))]

    def _evaluate(self, members: list[int], stack: Stack) -> None:
        """Adds a point to every lane's curves; lanes that fail or end leave the stack."""
        leaving = []
        for place, (index, loss) in enumerate(zip(members, stack.mean_loss(), strict=True)):
            if not math.isfinite(loss):
                lane = stack.lanes[place]
                self._outcome[index] = LaneFailure(
                    f"the loss of {lane.method.name} {dict(lane.params)} on split {lane.seed} is {loss} by epoch "
                    f"{self.epoch}; lower the learning rate, or standardise the inputs"
                )
                leaving.append(place)
            else:
                self._progress[index].rows.append({"loss": loss})
        _drop(members, stack, leaving)
        if not members:
            return
        ends = self._ending(members, stack)
        for place in ends:
            if self._progress[members[place]].best_weights:
                stack.restore(place, self._progress[members[place]].best_weights)
        logits = stack.predict([lane.split.validation for lane in stack.lanes])
        for place, index in enumerate(members):
            lane, rows = stack.lanes[place], self._progress[index].rows
            target = stack.target(place, lane.split.validation)
            confidence, predicted = _top(logits[place])
            correct = correct_at(confidence, predicted, target, self._settings.threshold)
            point = accuracies(correct, target)
            rows[-1] |= {"epoch": self.epoch, "steps": stack.n_steps, "seconds": stack.device_s[place]}
            rows[-1] |= {"accuracy": float(point.all), "accuracy_known": float(point.known)}
            rows[-1] |= {"accuracy_none": float(point.none)}
            if place in ends:
                self._outcome[index] = self._result(stack, place, logits[place], target, rows)
        _drop(members, stack, ends)

    def _ending(self, members: list[int], stack: Stack) -> list[int]:
        """Places of the lanes that end now: all at the last epoch, before it those stopped early."""
        last = self.epoch == self._settings.epochs
        if self._settings.early_stopping_fraction == 0:
            return list(range(len(members))) if last else []
        ends = []
        logits = stack.predict([self._progress[index].held_out for index in members])
        for place, index in enumerate(members):
            progress = self._progress[index]
            loss = _held_out_loss(logits[place], stack.target(place, progress.held_out))
            if loss < progress.best_loss:
                progress.best_loss, progress.best_weights, progress.n_worse = loss, stack.weights(place), 0
            else:
                progress.n_worse += 1
            if last or progress.n_worse >= self._settings.early_stopping_patience:
                ends.append(place)
        return ends

    @torch.inference_mode()
    def _result(
        self, stack: Stack, place: int, logits: Tensor, target: Tensor, rows: Sequence[dict[str, float]]
    ) -> LaneResult:
        lane = stack.lanes[place]
        confidence, predicted = _top(logits)
        correct = correct_at(confidence, predicted, target, self._settings.threshold)
        against = accuracy_curves(confidence, predicted, target)
        auc = weighted_auc(logits, target)
        validation = lane.split.validation
        last = rows[-1]
        reached = next(row for row in rows if row["accuracy"] >= 0.99 * last["accuracy"])
        metrics = {
            "auc_weighted": auc.auc,
            "accuracy": last["accuracy"],
            "accuracy_known": last["accuracy_known"],
            "accuracy_none": last["accuracy_none"],
            **figures(logits, target, against),
            "epochs_to_99": reached["epoch"],
            "steps_to_99": reached["steps"],
            "seconds_to_99": reached["seconds"],
            "epochs": float(self.epoch),
            "n_train": float(len(lane.split.train)),
            "n_validation": float(len(validation)),
            "n_known_classes": float(len(stack.known[place])),
            "n_none": float((target == -1).sum()),
        }
        learning = {name: np.array([row[name] for row in rows], np.float32) for name in ("epoch", *_LEARNING)}
        return LaneResult(
            metrics=metrics,
            curves=Curves(
                epoch=learning["epoch"],
                epoch_loss=learning["loss"],
                epoch_accuracy=learning["accuracy"],
                epoch_accuracy_known=learning["accuracy_known"],
                epoch_accuracy_none=learning["accuracy_none"],
                threshold=THRESHOLDS,
                threshold_accuracy=_float32(against.all),
                threshold_accuracy_known=_float32(against.known),
                threshold_accuracy_none=_float32(against.none),
                roc_fpr=ROC_GRID,
                roc_tpr=_float32(auc.roc_tpr),
            ),
            items=ItemResults(
                item=validation.astype(np.int32),
                label=self._labels.cpu().numpy()[validation].astype(np.int32),
                known=(target >= 0).cpu().numpy(),
                predicted=stack.known[place][predicted].cpu().numpy().astype(np.int32),
                confidence=confidence.cpu().numpy(),
                correct=correct.cpu().numpy(),
                auc_influence=_float32(auc.influence),
            ),
            device_s=stack.device_s[place],
        )


_LEARNING = ("loss", "accuracy", "accuracy_known", "accuracy_none")


def _hold_out(lane: Lane, fraction: float) -> _Progress:
    """A lane without the training items that early stopping holds out, and those items."""
    train = lane.split.train
    n_held_out = round(len(train) * fraction)
    if n_held_out == 0:
        return _Progress(lane, train[:0])
    shuffled = stream(lane.seed, "early_stopping").permutation(train)
    split = Split(np.sort(shuffled[n_held_out:]), lane.split.validation)
    return _Progress(replace(lane, split=split), np.sort(shuffled[:n_held_out]))


def _held_out_loss(logits: Tensor, target: Tensor) -> float:
    """Mean binary cross-entropy; an item whose class is not trained on should get no class at all."""
    y = torch.zeros((len(target), logits.shape[1] + 1), device=logits.device)
    y = y.scatter_(1, (target + 1)[:, None], 1.0)[:, 1:]
    return float(binary_cross_entropy_with_logits(logits, y))


def _drop(members: list[int], stack: Stack, places: Sequence[int]) -> None:
    """Takes lanes out of a stack, and out of the list of its members."""
    if not places:
        return
    kept = [place for place in range(len(members)) if place not in places]
    members[:] = [members[place] for place in kept]
    if kept:
        stack.keep(kept)


def _top(logits: Tensor) -> tuple[Tensor, Tensor]:
    """Highest probability of each item and its class."""
    highest, predicted = logits.max(-1)
    return highest.sigmoid(), predicted


def _float32(values: Tensor) -> npt.NDArray[np.float32]:
    return values.cpu().numpy().astype(np.float32)
