"""The rule by which a study chooses the best of several candidates."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from statistics import fmean

from trainables.records.types import Candidate


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


def mean_score(scores: Iterable[float]) -> float:
    """Return a mean that is rounded once, so that it does not depend on the order of the scores."""
    return fmean(scores)
