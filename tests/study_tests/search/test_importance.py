"""Which hyperparameters matter: a made-up objective that one of them decides."""

import dataclasses

import numpy as np
import pytest

from study.config.schema import Range, Search
from study.search.importance import importances
from trainables.records.types import SEARCH, TEST, Candidate, SplitId, TrialConfig


def searched(n: int, **methods: dict[str, object]) -> tuple[Search, dict[TrialConfig, float]]:
    rng = np.random.default_rng(0)
    search = Search(sampler="random", methods=methods)  # type: ignore[arg-type]
    candidates = [
        Candidate.of("soft_e_mixup", {"alpha": float(alpha), "softness": float(softness)})
        for alpha, softness in zip(rng.uniform(0.1, 2, n), rng.uniform(0.01, 0.2, n), strict=True)
    ]
    return search, {TrialConfig(SEARCH, one, SplitId(0, 0)): -abs(dict(one.params)["alpha"] - 1) for one in candidates}


SPACE = {"alpha": Range(low=0.1, high=2.0), "softness": Range(low=0.01, high=0.2)}


def test_what_decides_matters_most() -> None:
    search, scores = searched(60, soft_e_mixup=SPACE)
    found = importances(search, scores)["soft_e_mixup"]
    assert sum(found.values()) == pytest.approx(1)
    assert found["alpha"] > 0.7


def test_splits_that_try_other_candidates_are_compared_within_themselves() -> None:
    """A split with a level of its own says nothing about its candidates."""
    search, scores = searched(60, soft_e_mixup=SPACE)
    moved = {}
    for trial, score in scores.items():
        harder = dict(trial.candidate.params)["softness"] > 0.1
        moved[dataclasses.replace(trial, split=SplitId(int(harder), 0))] = score - 5 * harder
    found = importances(search, moved)["soft_e_mixup"]
    assert found["alpha"] > 0.7


def test_a_grid_has_importances_too() -> None:
    search = Search(methods={"soft_e_mixup": {"alpha": (0.2, 0.4, 0.8), "softness": (0.01, 0.02, 0.05, 0.1)}})
    scores = {
        TrialConfig(TEST, Candidate.of("soft_e_mixup", {"alpha": alpha, "softness": softness}), SplitId(split)): (
            alpha + 0.01 * softness + split
        )
        for split in (0, 1)
        for alpha in (0.2, 0.4, 0.8)
        for softness in (0.01, 0.02, 0.05, 0.1)
    }
    found = importances(search, scores)["soft_e_mixup"]
    assert found["alpha"] > found["softness"]


@pytest.mark.parametrize(
    ("n", "space"),
    [
        (9, SPACE),
        (60, {"alpha": Range(low=0.1, high=2.0), "softness": 0.05}),
        (60, {**SPACE, "alpha": Range(low=5, high=6)}),
    ],
)
def test_too_few_candidates_or_nothing_to_weigh(n: int, space: dict[str, object]) -> None:
    search, scores = searched(n, soft_e_mixup=space)
    assert importances(search, scores) == {}
