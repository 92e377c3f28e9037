"""Whether trainings have converged, defined here alone, for the report, comparisons, labelling and export.

Trainings of one method, with what its splits have chosen, have not converged if any of these holds of their mean:

- Near chance: balanced accuracy over known items is below twice chance and less than 0.1 above it. Chance is 1 / number
  of known classes, which a classifier gets that answers one class for everything. So does a good classifier of two
  classes of 95 % and 5 %, which it ranks well: the weighted AUC must be below 0.8 besides.
- Still falling: over the last quarter of the epochs, the training loss fell by more than a tenth of its whole fall
  since the first point of its curve. The mean of a quarter is compared with that of the quarter before; both are
  lengthened to whole cycles of the learning rate. A training that early stopping ended is left out: its held-out loss
  fell no more.
- Too short: the training was planned to end while the learning rate still rises for the first time.

Where the evaluations are too few to see whether the loss still falls, and no other rule holds, that is said instead.

Measured on 44,446 product titles of 143 classes, a tenth for training. One epoch leads to a balanced accuracy of 1.0
times chance and a weighted AUC of 0.51, 96 epochs at a learning rate of 1e-5 to 1.5 times and 0.76, and 12 epochs at
the default rate to 51 times and 0.99. At 1e-7, 29 % of the loss's fall are in the last quarter of 96 epochs; at the
default rate 2 % or less of 48, 96 and 576, whether mixed, softened or neither.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from analysis.format import plural
from trainables.records.types import CONTRASTIVE, Candidate, TrialRecord

_TIMES_CHANCE = 2.0
_ABOVE_CHANCE = 0.1
_RANKS_WELL = 0.8
_STEEP_FALL = 0.1

# Points that a learning curve needs to have quarters, and cycles of the learning rate. `_N_ENOUGH` points of equal
# distance have quarters of whole cycles, however the two meet.
_N_POINTS, _N_CYCLES, _N_ENOUGH = 4, 3, 12


@dataclass(frozen=True)
class Reason:
    """Why trainings have not converged.

    Attributes:
        rule: One of the three rules.
        value: The figure that the rule is on: balanced accuracy, share of the fall, or epochs.
        limit: What the value should have reached, or not exceeded.
        text: The same in words.
    """

    rule: Literal["near_chance", "still_falling", "too_short"]
    value: float
    limit: float
    text: str


@dataclass(frozen=True)
class NotConverged:
    """A method whose trainings have not converged.

    Attributes:
        name: Its candidate; the method's name where its trials have several.
        reasons: At least one.
    """

    name: str
    reasons: tuple[Reason, ...]

    def __str__(self) -> str:
        reasons = "; ".join(reason.text for reason in self.reasons)
        return (
            f"Not converged: {self.name}. {reasons[:1].upper()}{reasons[1:]}. Its figures say nothing about the "
            "method: raise `training.epochs` or the learning rate, or give it more labelled items."
        )


def not_converged(records: Sequence[TrialRecord], training: Mapping[str, Any]) -> NotConverged | None:
    """Return why the trainings of one method have not converged; None if they have.

    Args:
        records: Its trials in one phase, at least one, with their learning curves.
        training: The study's settings of the training.
    """
    candidates = list(dict.fromkeys(record.config.candidate for record in records))
    short = (ends_while_rising(candidate, training) for candidate in candidates)
    found = [_near_chance(records), _still_falling(records, training), next(filter(None, short), None)]
    reasons = tuple(reason for reason in found if reason is not None)
    name = str(candidates[0]) if len(candidates) == 1 else candidates[0].method
    return NotConverged(name, reasons) if reasons else None


def not_judged(records: Sequence[TrialRecord], training: Mapping[str, Any]) -> str | None:
    """Return why the loss of one method's trainings does not show whether they have converged.

    None where it does, or another rule tells that they have not. Arguments are those of `not_converged`.
    """
    if records[0].config.candidate.is_reference:
        return None
    whole = _whole(records, training)
    cycles = [_cycle(record.config.candidate, training) for record in whole]
    if not whole or any(map(_n_last, whole, cycles)) or not_converged(records, training):
        return None
    cycle = max(cycles)
    n_epochs, n_points = training["epochs"], len(_classifier_curve(whole[0])[0])
    least = max(_N_POINTS, math.ceil(_N_CYCLES * cycle))
    longer = f"`training.epochs` of {least} or more and " if n_epochs < least else ""
    every = max(1, max(n_epochs, least) // _N_ENOUGH)
    return (
        f"{plural(n_points, 'evaluation')} in {plural(n_epochs, 'epoch')} cannot show whether the loss still falls; "
        f"use {longer}`training.evaluate_every_epochs` of {every} or less"
    )


def remarks(trials: Mapping[str, Sequence[TrialRecord]], training: Mapping[str, Any]) -> list[str]:
    """Return what to say before all figures: which methods have not converged, and of which that could not be judged.

    Args:
        trials: Those of each method, as `not_converged` takes them, by method.
        training: The study's settings of the training.
    """
    found = [str(one) for records in trials.values() if (one := not_converged(records, training)) is not None]
    unjudged: dict[str, list[str]] = {}
    for method, records in trials.items():
        if why := not_judged(records, training):
            unjudged.setdefault(why, []).append(method)
    for why, methods in unjudged.items():
        have = "has" if len(methods) == 1 else "have"
        found.append(f"Whether {', '.join(methods)} {have} converged could not be judged: {why}.")
    return found


def _near_chance(records: Sequence[TrialRecord]) -> Reason | None:
    accuracy = _mean([record.metrics.get("balanced_accuracy", math.nan) for record in records])
    chance = _mean([1 / record.metrics.get("n_known_classes", math.nan) for record in records])
    limit = min(_TIMES_CHANCE * chance, chance + _ABOVE_CHANCE, 1.0)  # with one known class it is always 1
    auc = _mean([record.metrics.get("auc_weighted", math.nan) for record in records])
    if not accuracy < limit or auc >= _RANKS_WELL:  # also where it or chance is undefined
        return None
    text = f"balanced accuracy is {accuracy:.4f}, and chance {chance:.4f}; weighted AUC is {auc:.4f}"
    return Reason("near_chance", accuracy, limit, text)


def _still_falling(records: Sequence[TrialRecord], training: Mapping[str, Any]) -> Reason | None:
    whole = _whole(records, training)
    share = _mean([_last_fall(record, _cycle(record.config.candidate, training)) for record in whole])
    if not share > _STEEP_FALL:
        return None
    text = f"the training loss still falls: {share:.0%} of its whole fall are in the last quarter of the epochs"
    return Reason("still_falling", share, _STEEP_FALL, text)


def _whole(records: Sequence[TrialRecord], training: Mapping[str, Any]) -> list[TrialRecord]:
    """Return the trials that early stopping did not end."""
    n_epochs = sum(_stages(records[0].config.candidate, training))
    return [record for record in records if record.curves.epoch[-1:] == n_epochs]


def _classifier_curve(record: TrialRecord) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float32]]:
    """Return the training loss (points,) while the classifier trained, and its epochs."""
    there = ~np.isnan(record.curves.epoch_accuracy)
    return record.curves.epoch_loss[there].astype(np.float64), record.curves.epoch[there]


def _n_last(record: TrialRecord, cycle: float) -> int:
    """Return how many points of the loss are its last part; 0 where there are too few.

    The part is a quarter of the points, lengthened to whole cycles of the learning rate of `cycle` epochs.
    """
    _, epochs = _classifier_curve(record)
    if len(epochs) < _N_POINTS:
        return 0
    of_cycle = max(1, round(cycle / float(np.diff(epochs).max())))  # points of a cycle; the last may follow sooner
    n: int = of_cycle * math.ceil(len(epochs) // 4 / of_cycle)
    return n if 3 * n <= len(epochs) else 0  # else the steep beginning would be in what the part is compared with


def _last_fall(record: TrialRecord, cycle: float) -> float:
    """Return the last part's share of the fall of the loss; NaN where that has too few points, or has not fallen."""
    (loss, _), n = _classifier_curve(record), _n_last(record, cycle)
    if not n or loss[0] <= loss[-1]:
        return math.nan
    return float((loss[-2 * n : -n].mean() - loss[-n:].mean()) / (loss[0] - loss[-1]))


def ends_while_rising(candidate: Candidate, training: Mapping[str, Any]) -> Reason | None:
    """Return why a candidate's training is too short by its settings alone; None if it is not."""
    epochs, rise = min(_stages(candidate, training)), _cycle(candidate, training) / 2
    if candidate.is_reference or not epochs <= rise:
        return None
    text = f"its epochs ({epochs:g}) end while the learning rate rises for the first time, for {rise:g} epochs"
    return Reason("too_short", epochs, rise, text)


def _cycle(candidate: Candidate, training: Mapping[str, Any]) -> float:
    """Return the epochs in which the learning rate rises and falls once; 0 where it is constant."""
    rate = training.get("learning_rate", {})
    low, high = (dict(candidate.params).get(f"learning_rate_{end}", rate.get(end, math.nan)) for end in ("low", "high"))
    return 2.0 * rate["step_size_epochs"] if low < high else 0.0


def _stages(candidate: Candidate, training: Mapping[str, Any]) -> list[float]:
    """Return the planned epochs of each stage of a training."""
    stages = [training, training.get("pretraining", {})][: 2 if candidate.objective == CONTRASTIVE else 1]
    return [stage.get("epochs", math.nan) for stage in stages]


def _mean(values: Sequence[float]) -> float:
    """Return the mean of the values that are not NaN; NaN if none is."""
    finite = [value for value in values if not math.isnan(value)]
    return sum(finite) / len(finite) if finite else math.nan
