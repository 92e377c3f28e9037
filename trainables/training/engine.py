"""Train the lanes of a pack in lockstep, on one device. Plain PyTorch, without Ray or the study file.

A lane is one trial. Lanes of one method form a stack, which is trained as one model. Each lane has its own items,
initial weights, batch order and random streams, so that its result is the same as when it trains alone, up to rounding.
A lane that ends early leaves its stack, and the others get faster. `trainables.training.start` chooses what trains in
lockstep.
"""

from __future__ import annotations

import hashlib
import math
import time
from collections.abc import Iterable, Mapping
from functools import partial

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.nn.functional import binary_cross_entropy_with_logits, one_hot

from trainables.evaluation.calibration import choose_threshold, fit_temperature, scaled_scores
from trainables.evaluation.metrics import (
    ROC_GRID,
    THRESHOLDS,
    WeightedAuc,
    accuracies,
    accuracy_curves,
    correct_at,
    figures,
    nll_of_items,
    weighted_auc,
)
from trainables.evaluation.scores import LayerValues, layer_scores, logit_scores
from trainables.methods.references import Reference
from trainables.records.figures import item_metrics, places
from trainables.records.types import TEMPERATURE, THRESHOLD, Calibration, Curves, ItemResults
from trainables.training.model import Trunk
from trainables.training.protocol import (
    Evaluation,
    LaneFailure,
    LaneProgress,
    LaneResult,
    PackInputs,
    TrainingError,
    cka_metrics,
    diverged,
    drop,
    ready,
)
from trainables.training.references import ReferenceStack
from trainables.training.settings import Lane
from trainables.training.supervised import SupervisedStack


class Training:
    """A `LaneTraining` of a pack in supervised training.

    Args:
        inputs: As for `start_training`, which names the errors too.
        trunk: Frozen layers between the embeddings and the classifiers, with the same lanes, all of one method.
        stage: Prefix of the purpose of every random stream.
    """

    def __init__(self, inputs: PackInputs, trunk: Trunk | None = None, stage: str = "") -> None:
        self._settings, self._labels, self._searches = inputs.settings, inputs.labels, inputs.searches
        self._input_scores = inputs.input_scores
        self._progress, steps = ready(inputs)
        self._outcome: dict[int, LaneResult | LaneFailure | None] = {}
        self.epoch = 0
        groups: dict[str, list[int]] = {}
        for index, lane in enumerate(inputs.lanes):
            groups.setdefault(lane.method.name, []).append(index)
        self._stacks: list[tuple[list[int], SupervisedStack]] = []
        for members in groups.values():
            own = [self._progress[index].lane for index in members]
            if isinstance(own[0].method, Reference):
                stack: SupervisedStack = ReferenceStack(inputs.embeddings, inputs.labels, own, steps, inputs.settings)
            else:
                stack = SupervisedStack(inputs.embeddings, inputs.labels, own, steps, inputs.settings, trunk, stage)
            self._stacks.append((members, stack))

    @property
    def finished(self) -> bool:
        """Whether no lane is left to train."""
        return not self._stacks

    @property
    def stacks(self) -> list[SupervisedStack]:
        """The stacks in training; a stack that has ended keeps the weights of its last lanes."""
        return [stack for _, stack in self._stacks]

    def advance(self) -> Evaluation:
        """Train every lane to the next evaluation; lanes that end there leave with their results."""
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
        """Remove lanes without a result, given their positions in the pack."""
        gone = set(lanes)
        for members, stack in self._stacks:
            leaving = [place for place, index in enumerate(members) if index in gone]
            for place in leaving:
                self._outcome[members[place]] = None
            drop(members, stack, leaving)
        self._stacks = [(members, stack) for members, stack in self._stacks if members]

    def results(self) -> list[LaneResult | LaneFailure | None]:
        """Return each lane's result; None for one that was stopped from outside."""
        if not self.finished:
            raise TrainingError("The pack is still in training; call `advance` until it is finished.")
        return [self._outcome[index] for index in range(len(self._progress))]

    def _evaluate(self, members: list[int], stack: SupervisedStack) -> None:
        """Add a point to every lane's curves; lanes that fail or end leave the stack."""
        leaving = []
        for place, (index, loss) in enumerate(zip(members, stack.mean_loss(), strict=True)):
            failure = diverged(stack.lanes[place], loss, self.epoch)
            if failure is not None:
                self._outcome[index] = failure
                leaving.append(place)
            else:
                self._progress[index].rows.append({"loss": loss})
        drop(members, stack, leaving)
        if not members:
            return
        ends = self._ending(members, stack)
        for place in ends:
            if self._progress[members[place]].best_weights:
                stack.restore(place, self._progress[members[place]].best_weights)
        if not stack.is_on_a_trunk:  # frozen layers were compared in their own training
            for index, cka in zip(members, stack.cka(), strict=True):
                self._progress[index].cka.append(cka.cpu().numpy().astype(np.float32))
        logits = stack.predict([lane.split.validation for lane in stack.lanes])
        for place, index in enumerate(members):
            lane, rows = stack.lanes[place], self._progress[index].rows
            target = stack.target(place, lane.split.validation)
            confidence, predicted = _top(logits[place])
            correct = correct_at(confidence, predicted, target, self._settings.threshold)
            point = accuracies(correct, target)
            rows[-1] |= {"epoch": self.epoch}
            rows[-1] |= {"accuracy": float(point.all), "accuracy_known": float(point.known)}
            rows[-1] |= {"top1": float((predicted == target)[target >= 0].double().mean())}
            auc = weighted_auc(logits[place], target) if self._searches or place in ends else None
            rows[-1] |= {"accuracy_none": float(point.none), "auc_weighted": auc.auc if auc else math.nan}
            if auc and place in ends:
                self._outcome[index] = self._result(stack, place, logits[place], target, auc, self._progress[index])
        drop(members, stack, ends)

    def _ending(self, members: list[int], stack: SupervisedStack) -> list[int]:
        """Return the positions of the lanes that end now: all at the last epoch, before it those stopped early."""
        last = self.epoch == self._settings.epochs
        rule = self._settings.early_stopping
        if rule is None:
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
            if last or progress.n_worse >= rule.patience:
                ends.append(place)
        return ends

    @torch.inference_mode()
    def _result(
        self,
        stack: SupervisedStack,
        place: int,
        logits: Tensor,
        target: Tensor,
        auc: WeightedAuc,
        progress: LaneProgress,
    ) -> LaneResult:
        started_s = time.perf_counter()
        lane, rows = progress.lane, progress.rows
        confidence, predicted = _top(logits)
        correct = correct_at(confidence, predicted, target, self._settings.threshold)
        against = accuracy_curves(confidence, predicted, target)
        validation = lane.split.validation
        items = ItemResults(
            item=validation.astype(np.int32),
            label=self._labels.cpu().numpy()[validation].astype(np.int32),
            known=(target >= 0).cpu().numpy(),
            predicted=stack.known[place][predicted].cpu().numpy().astype(np.int32),
            logit=logits.amax(-1).cpu().numpy(),
            correct=correct.cpu().numpy(),
            auc_influence=_float32(auc.influence),
            nll=nll_of_items(logits, target).bfloat16().float().cpu().numpy(),
            **_places(logit_scores(logits), target),
            **self._layer_places(stack, place, target),
        )
        chosen = self._chosen(lane, items, logits, target)
        stack.device_s[place] += time.perf_counter() - started_s
        metrics = {
            **item_metrics(items, chosen),
            **figures(logits, target, against),
            **scaled_scores(logits, target, chosen[TEMPERATURE]),
            **chosen,
            "auc_weighted": auc.auc,  # the mean of influences that are not rounded to float32
            "epochs": float(self.epoch),
            "n_train": float(len(lane.split.train)),
            "n_validation": float(len(validation)),
            "n_known_classes": float(len(stack.known[place])),
            "n_none": float((target == -1).sum()),
            **(cka_metrics(progress.cka[-1]) if progress.cka else {}),
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
                epoch_top1=learning["top1"],
                epoch_auc_weighted=learning["auc_weighted"],
                threshold=THRESHOLDS,
                threshold_accuracy=_float32(against.all),
                threshold_accuracy_known=_float32(against.known),
                threshold_accuracy_none=_float32(against.none),
                roc_fpr=ROC_GRID,
                roc_tpr=_float32(auc.roc_tpr),
                epoch_cka=np.array(progress.cka or np.empty((0, 0)), np.float32),
            ),
            items=items,
            device_s=stack.device_s[place],
        )

    def _chosen(self, lane: Lane, items: ItemResults, logits: Tensor, target: Tensor) -> dict[str, float]:
        """Return the threshold and temperature that the lane is given or, in a search, that its own items choose."""
        given = lane.calibration
        if self._searches:
            right = items.predicted == items.label
            given = Calibration(choose_threshold(items.logit, right, items.known), fit_temperature(logits, target))
        return {THRESHOLD: given.threshold, TEMPERATURE: given.temperature}

    def _layer_places(self, stack: SupervisedStack, place: int, target: Tensor) -> dict[str, npt.NDArray[np.int32]]:
        """Return what a record holds of the scores on the last hidden layer, if there is one, and on the input."""
        if self._input_scores is None:
            return {}
        split = stack.lanes[place].split
        train, validation = (torch.from_numpy(items).to(target.device) for items in (split.train, split.validation))
        *hidden, _ = stack.layers(place)

        def activations(items: Tensor) -> Tensor:
            h = stack.embedded(place, items)
            for layer in hidden:
                h = layer.hidden(h)
            return h

        def scored(ending: str, values: LayerValues) -> dict[str, npt.NDArray[np.int32]]:
            scores = layer_scores(values, train, stack.target(place, split.train), validation)
            return _places({f"{name}_{ending}": score for name, score in scores.items()}, target)

        key = hashlib.sha256(split.train.tobytes() + split.validation.tobytes()).digest()
        if key not in self._input_scores:
            self._input_scores[key] = scored("input", partial(stack.embedded, place))
        return {**self._input_scores[key], **(scored("hidden", activations) if hidden else {})}


_LEARNING = ("loss", "accuracy", "accuracy_known", "accuracy_none", "top1", "auc_weighted")


def _held_out_loss(logits: Tensor, target: Tensor) -> float:
    """Return the mean binary cross-entropy; the target of an item of an unknown class is 0 for every class."""
    y = one_hot(target + 1, logits.shape[1] + 1)[:, 1:].float()
    return float(binary_cross_entropy_with_logits(logits, y))


def _places(scores: Mapping[str, Tensor], target: Tensor) -> dict[str, npt.NDArray[np.int32]]:
    """Return each item's place among the "none" items, by score."""
    none = (target == -1).cpu().numpy()
    return {name: places(score.cpu().numpy(), none) for name, score in scores.items()}


def _top(logits: Tensor) -> tuple[Tensor, Tensor]:
    """Return the highest probability of each item, and its class."""
    highest, predicted = logits.max(-1)
    return highest.sigmoid(), predicted


def _float32(values: Tensor) -> npt.NDArray[np.float32]:
    return values.cpu().numpy().astype(np.float32)
