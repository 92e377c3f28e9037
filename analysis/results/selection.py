"""What the splits of a study have chosen, in short, and the luck of choosing by what is reported."""

from __future__ import annotations

import statistics
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from analysis.results.aggregate import StudyResults
from trainables.records.types import AUTO, SEARCH, Candidate


@dataclass(frozen=True)
class ChosenValues:
    """The values of one hyperparameter that the splits have chosen.

    Attributes:
        median: Their median; `AUTO` where all splits chose that.
        low: The smallest.
        high: The largest.
        n_auto: How many splits chose `auto`, which is left out of the median and the range.
        n: How many splits chose a value.
    """

    median: float
    low: float
    high: float
    n_auto: int
    n: int


def chosen_values(choices: Iterable[Candidate]) -> dict[str, ChosenValues]:
    """Return the median and the range of each hyperparameter over the candidates that the splits have chosen."""
    values: dict[str, list[float]] = {}
    for candidate in choices:
        for name, value in candidate.params:
            values.setdefault(name, []).append(value)
    found = {}
    for name, own in values.items():
        fixed = [value for value in own if not (name == "layer" and value == AUTO)]
        shown = fixed or own
        middle = statistics.median(shown)
        found[name] = ChosenValues(middle, min(shown), max(shown), len(own) - len(fixed), len(own))
    return found


@dataclass(frozen=True)
class Luck:
    """What a method would seem to score if its candidate were chosen by the scores that are reported.

    Attributes:
        claimed: The best mean score over all splits, chosen and reported on the same scores.
        honest: The mean score if each split has the best candidate of the other splits.
    """

    claimed: float
    honest: float

    @property
    def excess(self) -> float:
        """By how much the claim exceeds the honest score; never negative."""
        return self.claimed - self.honest


def luck_of_choosing(scores: npt.NDArray[np.float64]) -> Luck:
    """Return what choosing by the reported scores would claim, and the same without its luck.

    Args:
        scores: Higher is better (candidates, splits), at least two splits.

    The claim is max_c mean_j s[c, j]. The honest score is mean_j s[c(j), j], where c(j) is best on the mean of all
    splits but j, so that no score is both chosen by and reported. No term of it exceeds the claim's on the same split.
    It is chosen on one split fewer, which costs little beyond a few splits. Where splits share the items that they
    score on, the luck of those items is in both, and the excess is too small.
    """
    total = scores.sum(axis=1)
    of_others = (total[:, None] - scores).argmax(axis=0)
    honest = np.take_along_axis(scores, of_others[None], axis=0)
    return Luck(float(scores[total.argmax()].mean()), float(honest[0].mean()))


def luck_by_method(results: StudyResults) -> dict[str, Luck]:
    """Return the luck of choosing for each method of a nested study, on the inner items of its search.

    Candidates that no split has left out count; a method is left out where its splits do not try the same candidates,
    where there is one candidate, and where fewer than two splits are finished.
    """
    found = {}
    if results.description.choosing_phase == SEARCH and not results.own_searches:
        splits = sorted({split.outer for split in results.description.splits[SEARCH]})
        for method, scores in results.scores.items():
            whole = [[own[split] for split in splits] for own in scores.values() if len(own) == len(splits)]
            if len(whole) > 1 and len(splits) > 1:
                found[method] = luck_of_choosing(np.array(whole))
    return found
