"""Whether trainings have converged, defined here alone, for the report, comparisons, labelling and export.

Trainings of one candidate have not converged if any of these holds of their mean:

- Near chance: top-1 over known items, averaged over their classes, is below twice chance and less than 0.1 above it.
  Chance is 1 / number of known classes, which a classifier gets that answers one class for everything.
- Still falling: over the last quarter of the epochs, the training loss fell by more than a tenth of its whole fall
  since the first point of its curve. The mean of a quarter is compared with that of the quarter before; both are
  lengthened to whole cycles of the learning rate. A training that early stopping ended is left out: its held-out loss
  fell no more.
- Too short: the training was planned to end while the learning rate still rises for the first time.

Measured on 44,446 product titles of 143 classes, a tenth for training. By top-1, one epoch leads to 1.0 times chance,
96 epochs at a learning rate of 1e-5 to 1.4 times, and 12 epochs at the default rate to 51 times. At 1e-7, 29 % of the
loss's fall are in the last quarter of 96 epochs; at the default rate 2 % or less of 48, 96 and 576, whether mixed,
softened or neither.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from trainables.records.types import CONTRASTIVE, Candidate, TrialRecord

_TIMES_CHANCE = 2.0
_ABOVE_CHANCE = 0.1
_STEEP_FALL = 0.1

# Points that a learning curve needs to have quarters.
_N_POINTS = 4


@dataclass(frozen=True)
class Reason:
    """Why trainings have not converged.

    Attributes:
        rule: One of the three rules.
        value: The figure that the rule is on: top-1, share of the fall, or epochs.
        limit: What the value should have reached, or not exceeded.
        text: The same in words.
    """

    rule: Literal["near_chance", "still_falling", "too_short"]
    value: float
    limit: float
    text: str


@dataclass(frozen=True)
class NotConverged:
    """A candidate whose trainings have not converged.

    Attributes:
        splits: Split seeds of the trials that it was judged by.
        reasons: At least one.
    """

    candidate: Candidate
    phase: str
    splits: tuple[int, ...]
    reasons: tuple[Reason, ...]

    def __str__(self) -> str:
        reasons = "; ".join(reason.text for reason in self.reasons)
        return (
            f"Not converged: {self.candidate}. {reasons[:1].upper()}{reasons[1:]}. Its figures say nothing about the "
            "method: raise `training.epochs` or the learning rate, or give it more labelled items."
        )


def not_converged(records: Sequence[TrialRecord], training: Mapping[str, Any]) -> NotConverged | None:
    """Return why the trainings of one candidate have not converged; None if they have.

    Args:
        records: Its trials in one phase, at least one, with their learning curves.
        training: The study's settings of the training.
    """
    config = records[0].config
    found = [_near_chance(records), _still_falling(records, training), _too_short(config.candidate, training)]
    reasons = tuple(reason for reason in found if reason is not None)
    splits = tuple(record.config.split for record in records)
    return NotConverged(config.candidate, config.phase, splits, reasons) if reasons else None


def _near_chance(records: Sequence[TrialRecord]) -> Reason | None:
    top1 = _mean([record.metrics.get("balanced_accuracy", math.nan) for record in records])
    chance = _mean([1 / record.metrics.get("n_known_classes", math.nan) for record in records])
    limit = min(_TIMES_CHANCE * chance, chance + _ABOVE_CHANCE, 1.0)  # with one known class, top-1 is always 1
    if not top1 < limit:  # also where either is undefined
        return None
    text = f"top-1, averaged over the known classes, is {top1:.4f}, and chance {chance:.4f}"
    return Reason("near_chance", top1, limit, text)


def _still_falling(records: Sequence[TrialRecord], training: Mapping[str, Any]) -> Reason | None:
    n_epochs = sum(_stages(records[0].config.candidate, training))
    cycle = 2 * training.get("learning_rate", {}).get("step_size_epochs", 0.0)
    share = _mean([_last_fall(record, cycle) for record in records if record.curves.epoch[-1:] == n_epochs])
    if not share > _STEEP_FALL:
        return None
    text = f"the training loss still falls: {share:.0%} of its whole fall are in the last quarter of the epochs"
    return Reason("still_falling", share, _STEEP_FALL, text)


def _last_fall(record: TrialRecord, cycle: float) -> float:
    """Return the last part's share of the fall of the loss, while the classifier trained; NaN with few points.

    The part is a quarter of the points, lengthened to whole cycles of the learning rate of `cycle` epochs.
    """
    curves = record.curves
    there = ~np.isnan(curves.epoch_accuracy)
    loss, epochs = curves.epoch_loss[there].astype(np.float64), curves.epoch[there]
    if len(loss) < _N_POINTS or loss[0] <= loss[-1]:
        return math.nan
    of_cycle = max(1, round(cycle / float(epochs[-1] - epochs[-2])))  # points of a cycle
    n = of_cycle * math.ceil(len(loss) // 4 / of_cycle)
    if 3 * n > len(loss):  # the steep beginning would be in what the last part is compared with
        return math.nan
    return float((loss[-2 * n : -n].mean() - loss[-n:].mean()) / (loss[0] - loss[-1]))


def _too_short(candidate: Candidate, training: Mapping[str, Any]) -> Reason | None:
    rate = training.get("learning_rate", {})
    low, high = (dict(candidate.params).get(f"learning_rate_{end}", rate.get(end, math.nan)) for end in ("low", "high"))
    if not low < high:
        return None
    epochs, rise = min(_stages(candidate, training)), rate["step_size_epochs"]
    if not epochs <= rise:
        return None
    text = f"its epochs ({epochs:g}) end while the learning rate rises for the first time, for {rise:g} epochs"
    return Reason("too_short", epochs, rise, text)


def _stages(candidate: Candidate, training: Mapping[str, Any]) -> list[float]:
    """Return the planned epochs of each stage of a training."""
    stages = [training, training.get("pretraining", {})][: 2 if candidate.objective == CONTRASTIVE else 1]
    return [stage.get("epochs", math.nan) for stage in stages]


def _mean(values: Sequence[float]) -> float:
    """Return the mean of the values that are not NaN; NaN if none is."""
    finite = [value for value in values if not math.isnan(value)]
    return sum(finite) / len(finite) if finite else math.nan
