"""Choose what to train for use: a candidate, its threshold and its temperature, on inner splits of all given items."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from study.errors import RunError
from study.model.retrain import FinishedStudy
from trainables.packs.pack import PackContext
from trainables.packs.single import score_within
from trainables.records.choice import choose_best, mean_score, median_calibration, score_of
from trainables.records.types import TEMPERATURE, THRESHOLD, Calibration, Candidate, Design
from trainables.sampling.splits import Split, inner_of, split_of_all
from trainables.sampling.streams import stream
from trainables.training.protocol import TrainingError

Say = Callable[[str], None]


def calibration_split(context: PackContext, seed: int) -> Split:
    """Return the split whose validation items calibrate sets of labels: a fifth of all items.

    They are drawn at random from all classes but those unknown by name, also where the study's splits are stratified or
    official: sets rest on items that were drawn as new ones are. Groups stay together.
    """
    rules = replace(context.rules, design=Design.RANDOM, stratify=False, inner_unknown_fraction=0.0)
    of_all = split_of_all(context.items, context.rules)
    return inner_of(context.items, rules, of_all.train, stream(seed, "calibration of all"))


@dataclass(frozen=True)
class Choice:
    """A candidate that was chosen on inner splits, or the only one there was.

    Attributes:
        objective: The metric that candidates were compared by.
        tried: Mean objective of each candidate over the inner splits.
        n_inner_splits: Number of inner splits.
        calibration: Medians of the thresholds and temperatures that the inner splits chose for the candidate.
    """

    candidate: Candidate
    objective: str
    tried: dict[Candidate, float]
    n_inner_splits: int
    calibration: Calibration

    def __str__(self) -> str:
        parts = ["candidate"] * (len(self.tried) > 1) + ["threshold"] * math.isfinite(self.calibration.threshold)
        what = " and ".join(filter(None, (", ".join(parts), "temperature")))
        splits = "inner split" if self.n_inner_splits == 1 else "inner splits"
        scores = ", ".join(f"{candidate} {score:.4f}" for candidate, score in sorted(self.tried.items()))
        return f"{what} chosen on {self.n_inner_splits} {splits} of them ({self.objective} there: {scores})"

    def described(self) -> dict[str, Any]:
        """Return it as plain values."""
        return {
            "objective": self.objective,
            "n_inner_splits": self.n_inner_splits,
            "tried": [
                {"method": one.method, "params": dict(one.params), "score": score if math.isfinite(score) else None}
                for one, score in self.tried.items()
            ],
        }


def choose(study: FinishedStudy, candidates: Sequence[Candidate], within: npt.NDArray[np.int64], say: Say) -> Choice:
    """Choose on inner splits of some items, as a split of the study chooses on inner splits of its training items.

    A candidate whose training gives no result is left out.

    Args:
        study: The study.
        candidates: What to choose from.
        within: Sorted indices of the items (some items,).
        say: Called with a line before each training; it counts the training on all of them, which follows.

    Raises:
        RunError: The objective of several candidates is not defined on the inner splits.
        TrainingError: No candidate gives a result.
    """
    objective, n_inner = study.spec.objective.metric, study.spec.search.n_inner_splits
    means: dict[Candidate, float] = {}
    calibrations: dict[Candidate, Calibration] = {}
    for number, candidate in enumerate(candidates):
        found = []
        try:
            for inner in range(n_inner):
                place = number * n_inner + inner + 1
                say(f"Training {place} of {len(candidates) * n_inner + 1}: {candidate} on inner split {inner}")
                found.append(score_within(study.context, candidate, study.spec.splits.seed, within, inner).metrics)
        except TrainingError as error:
            if candidate == candidates[-1] and not means:
                raise
            say(f"{candidate} is left out: {error}")
            continue
        means[candidate] = mean_score(score_of(one, objective) for one in found)
        calibrations[candidate] = median_calibration([Calibration(one[THRESHOLD], one[TEMPERATURE]) for one in found])
    if len(means) > 1 and not all(map(math.isfinite, means.values())):
        raise RunError(
            f"{objective} is not defined on every inner split of the items, so it cannot choose between "
            f"{', '.join(map(str, means))}. Name one of them, as in `study export '{candidates[0]}'`."
        )
    best = choose_best(means) or next(iter(means))
    sign = score_of({objective: 1.0}, objective)
    tried = {one: sign * mean for one, mean in means.items()}
    return Choice(best, objective, tried, n_inner, calibrations[best])
