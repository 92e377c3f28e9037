"""The layer `auto`: that which an un-augmented run of the same trial shows to be most co-adapted with the next.

Deep Augmentation is said to alleviate co-adaptation between layers, and the layer to target to be found by it. Our
measure is the linear CKA of neighbouring layers at the end of a scout's training: the same split, seed, objective and
settings, and no augmentation. Targeted is the layer, the input being 0, whose CKA with the next is highest; the last
hidden layer's next is the output. The scout belongs to the trial, so that its result depends on its coordinates alone,
and its time is the trial's.

References:
    Brüel-Gabrielsson et al., "Deep Augmentation: Self-Supervised Learning with Transformations in Activation Space"
    (2023), https://arxiv.org/abs/2303.14537. Only the abstract was at hand: the formulation is ours.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import replace

import torch
from torch import Tensor

from trainables.methods.protocol import LANE_SETTINGS
from trainables.methods.registry import METHODS, Contrastive
from trainables.records.types import AUTO
from trainables.training.contrastive import ContrastiveStack
from trainables.training.engine import Training
from trainables.training.pretraining import ContrastiveTraining
from trainables.training.protocol import (
    Evaluation,
    LaneFailure,
    LaneResult,
    LaneTraining,
    TrainingError,
    diverged,
    ready,
)
from trainables.training.settings import Lane, Settings
from trainables.training.stack import Stack
from trainables.training.supervised import SupervisedStack


def start_training(
    embeddings: Tensor,
    labels: Tensor,
    lanes: Sequence[Lane],
    settings: Settings,
    steps_per_epoch: int | None = None,
) -> LaneTraining:
    """A pack in training, by whatever its lanes' methods ask for.

    Args:
        embeddings: float32 (items, features), on the device to train on.
        labels: int64 class of each item (items,), on the same device.
        lanes: The trials; of contrastive methods, only lanes of the same one train together.
        settings: Shared by all lanes.
        steps_per_epoch: Steps of an epoch; None for as many whole batches as the smallest lane's training items give.

    Raises:
        TrainingError: There is no lane, a batch is larger than a lane's training items, or methods do not go together.
    """
    if any(lane.params.get("layer") == AUTO for lane in lanes):
        return ScoutedTraining(embeddings, labels, lanes, settings, steps_per_epoch)
    if not any(isinstance(lane.method, Contrastive) for lane in lanes):
        return Training(embeddings, labels, lanes, settings, steps_per_epoch)
    names = sorted({lane.method.name for lane in lanes})
    if len(names) > 1:
        raise TrainingError(
            f"Lanes of a contrastive method must train without those of others, got {', '.join(names)}. Give each its "
            "own pack."
        )
    return ContrastiveTraining(embeddings, labels, lanes, settings, steps_per_epoch)


class ScoutedTraining:
    """A pack with lanes whose layer is `auto`, as `engine.LaneTraining`: scouts first, then the lanes themselves.

    Args:
        embeddings: float32 (items, features), on the device to train on.
        labels: int64 class of each item (items,), on the same device.
        lanes: The trials.
        settings: Shared by all lanes; at least one hidden layer.
        steps_per_epoch: Steps of an epoch; None for as many whole batches as the smallest lane's training items give.

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
        self._progress, self._steps = ready(lanes, settings, steps_per_epoch)
        self._embeddings, self._labels, self._settings = embeddings, labels, settings
        self._lanes = list(lanes)
        self._training: LaneTraining | None = None
        self._failures: dict[int, LaneFailure] = {}
        self._scouted_s: dict[int, float] = {}

    @property
    def finished(self) -> bool:
        """Whether no lane is left to train."""
        return self._training is not None and self._training.finished

    @property
    def stacks(self) -> list[SupervisedStack]:
        """The classifiers in training; the scouts go first, where they have not yet."""
        return self._scouted().stacks

    def advance(self) -> Evaluation:
        """Trains every lane to the next evaluation, the scouts before the first; lanes that end there leave."""
        return self._scouted().advance()

    def stop(self, lanes: Iterable[int]) -> None:
        """Takes lanes out without a result.

        Args:
            lanes: Their places in the pack.
        """
        self._scouted().stop(lanes)

    def results(self) -> list[LaneResult | LaneFailure | None]:
        """What each lane of the pack gave; None for one that was stopped from outside.

        Raises:
            TrainingError: Lanes are still in training.
        """
        found = self._scouted().results()
        for index, scouted_s in self._scouted_s.items():
            result = found[index]
            if isinstance(result, LaneResult):
                metrics = {**result.metrics, "layer_targeted": self._lanes[index].params["layer"]}
                metrics["seconds_to_99"] += scouted_s
                found[index] = replace(result, metrics=metrics, device_s=result.device_s + scouted_s)
        return [self._failures.get(index, result) for index, result in enumerate(found)]

    def _scouted(self) -> LaneTraining:
        """The training of the lanes themselves, with the layers that their scouts have found."""
        if self._training is None:
            places = [index for index, lane in enumerate(self._lanes) if lane.params.get("layer") == AUTO]
            for objective in (True, False):
                own = [p for p in places if isinstance(self._lanes[p].method, Contrastive) is objective]
                if own:
                    self._scout(own, contrastive=objective)
            self._training = start_training(self._embeddings, self._labels, self._lanes, self._settings, self._steps)
            self._training.stop(self._failures)
        return self._training

    def _scout(self, places: Sequence[int], *, contrastive: bool) -> None:
        """Trains the scouts of some lanes of one objective, and gives those lanes their layers."""
        settings = self._settings
        control = METHODS["contrastive_control" if contrastive else "control"]
        scouts = []
        for place in places:
            lane = self._progress[place].lane
            kept = {name: v for name, v in lane.params.items() if name in {*LANE_SETTINGS, *control.hyperparameters}}
            scouts.append(replace(lane, method=control, params=kept))
        stack: Stack
        if contrastive:
            stack = ContrastiveStack(self._embeddings, scouts, self._steps, settings)
            epochs = settings.pretraining.epochs
        else:
            stack = SupervisedStack(self._embeddings, self._labels, scouts, self._steps, settings)
            epochs = settings.epochs
        stack.train(epochs)
        for place, loss, cka, spent_s in zip(places, stack.mean_loss(), stack.cka(), stack.device_s, strict=True):
            failure = diverged(self._lanes[place], loss, epochs)
            layer = int(torch.nan_to_num(cka, nan=-math.inf).argmax())
            params = {**self._lanes[place].params, "layer": float(layer)}
            self._lanes[place] = replace(self._lanes[place], params=params)
            self._scouted_s[place] = spent_s
            if failure is not None:
                self._failures[place] = LaneFailure(f"without augmentation, {failure.reason}")
        stack.release()
