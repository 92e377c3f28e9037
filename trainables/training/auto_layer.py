"""The layer `auto`: the layer that, in an un-augmented training of the same trial, is most co-adapted with the next.

Deep Augmentation is reported to reduce the co-adaptation of layers, and to find its target layer by it. The measure
here is the linear CKA of neighbouring layers at the end of a scout's training, which has the same split, seed,
objective and settings, and no augmentation. The target is the layer with the highest CKA with the next one; layer 0 is
the input, and the layer after the last hidden one is the output. The scout is part of the trial: the trial's result
depends on its coordinates alone, and its time includes the scout's.

References:
    Brüel-Gabrielsson et al., "Deep Augmentation: Self-Supervised Learning with Transformations in Activation Space"
    (2023), https://arxiv.org/abs/2303.14537. The formulation is ours: only the paper's abstract was available.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace

import torch

from trainables.methods.protocol import LANE_SETTINGS
from trainables.methods.registry import METHODS, Contrastive
from trainables.records.types import AUTO
from trainables.training.contrastive import ContrastiveStack
from trainables.training.protocol import Evaluation, LaneFailure, LaneResult, LaneTraining, PackInputs, diverged, ready
from trainables.training.stack import Stack
from trainables.training.supervised import SupervisedStack


class ScoutedTraining:
    """A `LaneTraining` of a pack with lanes whose layer is `auto`: first the scouts train, then the lanes.

    `inputs` and errors are those of `start_training`; `start` starts the lanes once their layers are known.
    """

    def __init__(self, inputs: PackInputs, start: Callable[[PackInputs], LaneTraining]) -> None:
        self._progress, self._steps = ready(inputs)
        self._inputs, self._lanes, self._start = inputs, list(inputs.lanes), start
        self._training: LaneTraining | None = None
        self._failures: dict[int, LaneFailure] = {}
        self._scouted_s: dict[int, float] = {}

    @property
    def finished(self) -> bool:
        """Whether no lane is left to train."""
        return self._training is not None and self._training.finished

    @property
    def stacks(self) -> list[SupervisedStack]:
        """The classifiers in training; trains the scouts first if they have not been trained."""
        return self._scouted().stacks

    def advance(self) -> Evaluation:
        """Train every lane to the next evaluation, the scouts before the first; lanes that end there leave."""
        return self._scouted().advance()

    def stop(self, lanes: Iterable[int]) -> None:
        """Remove lanes without a result, given their positions in the pack."""
        self._scouted().stop(lanes)

    def results(self) -> list[LaneResult | LaneFailure | None]:
        """Return each lane's result; None for one that was stopped from outside."""
        found = self._scouted().results()
        for index, scouted_s in self._scouted_s.items():
            result = found[index]
            if isinstance(result, LaneResult):
                metrics = {**result.metrics, "layer_targeted": self._lanes[index].params["layer"]}
                found[index] = replace(result, metrics=metrics, device_s=result.device_s + scouted_s)
        return [self._failures.get(index, result) for index, result in enumerate(found)]

    def _scouted(self) -> LaneTraining:
        """Return the training of the lanes themselves, with the layers that their scouts have found."""
        if self._training is None:
            places = [index for index, lane in enumerate(self._lanes) if lane.params.get("layer") == AUTO]
            for objective in (True, False):
                own = [p for p in places if isinstance(self._lanes[p].method, Contrastive) is objective]
                if own:
                    self._scout(own, contrastive=objective)
            self._training = self._start(replace(self._inputs, lanes=self._lanes, steps_per_epoch=self._steps))
            self._training.stop(self._failures)
        return self._training

    def _scout(self, places: Sequence[int], *, contrastive: bool) -> None:
        """Train the scouts of some lanes of one objective, and give those lanes their layers."""
        inputs, settings = self._inputs, self._inputs.settings
        control = METHODS["contrastive_control" if contrastive else "control"]
        scouts = []
        for place in places:
            lane = self._progress[place].lane
            kept = {name: v for name, v in lane.params.items() if name in {*LANE_SETTINGS, *control.hyperparameters}}
            scouts.append(replace(lane, method=control, params=kept))
        stack: Stack
        if contrastive:
            stack = ContrastiveStack(inputs.embeddings, scouts, self._steps, settings)
            epochs = settings.pretraining.epochs
        else:
            stack = SupervisedStack(inputs.embeddings, inputs.labels, scouts, self._steps, settings)
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
