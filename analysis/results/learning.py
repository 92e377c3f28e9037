"""How fast methods learn, measured against the control."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from trainables.records.types import TrialRecord

# Share of the control's final top-1 that counts as reached. A share of a method's own final value would make the worst
# method look fast.
_SHARE = 0.99


def epochs_to_control(records: Sequence[TrialRecord], control: Sequence[TrialRecord]) -> list[float]:
    """Return the epoch at which each trial first has 99 % of the control's final top-1 on the same split.

    Args:
        records: A method's trials, one for each split.
        control: The control's trials on the same splits, in the same order.

    Returns:
        Epochs (splits,); NaN where no evaluation reaches it, and where the curves are not known.
    """
    return [_first_epoch(own, other) for own, other in zip(records, control, strict=True)]


def _first_epoch(own: TrialRecord, control: TrialRecord) -> float:
    final = control.curves.epoch_top1[-1:]
    (reached,) = np.nonzero(own.curves.epoch_top1 >= _SHARE * final) if final.size else (np.empty(0, np.int64),)
    return float(own.curves.epoch[reached[0]]) if reached.size else math.nan
