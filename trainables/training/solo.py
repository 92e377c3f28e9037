"""Lanes that each train alone, as a `LaneTraining`: what a pack is on a CPU.

Lanes that share tensors are rounded by their company. A vector kernel leaves the last elements of a tensor, and of each
thread's part of it, to other instructions; a matrix product divides its work by the sizes of the whole. The difference
is the last bit of a number, and after some thousand steps it is other predictions. A lane that trains alone has
tensors of the same sizes in every pack, so its result is the same to the bit.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import fields

import numpy as np

from trainables.training.protocol import Evaluation, LaneFailure, LaneResult, LaneTraining
from trainables.training.supervised import SupervisedStack


class SoloTrainings:
    """A `LaneTraining` of trainings of one lane each, which are advanced in turn.

    Args:
        trainings: One for each lane of the pack.
    """

    def __init__(self, trainings: Sequence[LaneTraining]) -> None:
        self._trainings = list(trainings)

    @property
    def finished(self) -> bool:
        """Whether no lane is left to train."""
        return all(training.finished for training in self._trainings)

    @property
    def stacks(self) -> list[SupervisedStack]:
        """The classifiers in training, one of each lane."""
        return [stack for training in self._trainings for stack in training.stacks]

    def advance(self) -> Evaluation:
        """Train every lane to the next evaluation; lanes that end there leave with their results."""
        columns = {
            field.name: np.full(len(self._trainings), np.nan) for field in fields(Evaluation) if field.name != "epoch"
        }
        epoch = 0
        for place, training in enumerate(self._trainings):
            if training.finished:
                continue
            found = training.advance()
            epoch = max(epoch, found.epoch)
            for name, values in columns.items():
                values[place] = getattr(found, name)[0]
        return Evaluation(epoch=epoch, **columns)

    def stop(self, lanes: Iterable[int]) -> None:
        """Remove lanes without a result, given their positions in the pack."""
        for lane in lanes:
            self._trainings[lane].stop([0])

    def results(self) -> list[LaneResult | LaneFailure | None]:
        """Return each lane's result; None for one that was stopped from outside."""
        return [result for training in self._trainings for result in training.results()]
