"""The rule by which a study chooses the best of several candidates."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from statistics import fmean, median

from trainables.records.figures import LOWER_IS_BETTER
from trainables.records.types import Calibration, Candidate


def choose_best(means: Mapping[Candidate, float]) -> Candidate | None:
    """Return the candidate of the highest mean objective; of equal ones, the first in candidate order.

    Search, report, figures and retraining choose by this rule, each among the candidates that the study asks for now
    and that have met every split, so that all of them name the same candidate.

    Args:
        means: Mean objective of each candidate, from `mean_score`.

    Returns:
        The best candidate; None where there is none.
    """
    return max(sorted(means), key=lambda candidate: means[candidate], default=None)


def score_of(metrics: Mapping[str, float], objective: str) -> float:
    """Return what candidates are compared by, higher is better: the objective, or its negative."""
    return -metrics[objective] if objective in LOWER_IS_BETTER else metrics[objective]


def figure_of(score: float, objective: str) -> float:
    """Return the objective of a score, the reverse of `score_of`."""
    return score_of({objective: score}, objective)


def mean_score(scores: Iterable[float]) -> float:
    """Return a mean that is rounded once, so that it does not depend on the order of the scores."""
    return fmean(scores)


def median_calibration(inner: Sequence[Calibration]) -> Calibration:
    """Return the medians of what the inner splits of a split have chosen; NaN where none of them has a value."""
    return Calibration(_median(one.threshold for one in inner), _median(one.temperature for one in inner))


def _median(values: Iterable[float]) -> float:
    return median(there) if (there := [value for value in values if math.isfinite(value)]) else math.nan
