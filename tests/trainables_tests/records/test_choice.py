"""The one rule by which search, report and retraining choose."""

from __future__ import annotations

import itertools
import operator
from functools import reduce

from trainables.records.choice import choose_best, mean_score
from trainables.records.types import Candidate

MIXUP, STITCHUP = Candidate.of("e_mixup", {"alpha": 0.2}), Candidate.of("e_stitchup", {})


def test_the_highest_mean_is_the_best_and_the_first_of_equals() -> None:
    assert choose_best({MIXUP: 0.7, STITCHUP: 0.8}) == STITCHUP
    for order in itertools.permutations([STITCHUP, Candidate("e_mixup"), MIXUP]):
        assert choose_best(dict.fromkeys(order, 0.7)) == Candidate("e_mixup")
    assert choose_best({}) is None


def test_a_mean_does_not_depend_on_the_order_of_the_scores() -> None:
    scores = [0.1, 0.7, 0.3, 1e-17]
    assert len({mean_score(order) for order in itertools.permutations(scores)}) == 1
    # As a loop does; since Python 3.12 `sum` makes up for what each addition rounds off.
    assert len({reduce(operator.add, order) for order in itertools.permutations(scores)}) > 1
