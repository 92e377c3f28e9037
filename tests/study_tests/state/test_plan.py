"""What a study asks for of each split, and what each split chooses."""

from __future__ import annotations

import dataclasses
import math
from pathlib import Path
from typing import Any

import pytest

from study.state.description import plan_of, proposed, search_names
from tests.study_tests.state.test_description import NESTED, PROPOSED, described, spec_of
from trainables.records.choice import score_of
from trainables.records.description import read_description, write_description
from trainables.records.types import SEARCH, TEST, Candidate, SplitId, TrialConfig


@pytest.mark.parametrize(
    ("changed", "names"),
    [
        ({}, ["e_mixup on split 7", "e_mixup on split 8"]),
        ({"sampler": "gp"}, ["e_mixup on split 7", "e_mixup on split 8"]),
        ({"sampler": "random"}, ["e_mixup"]),
        ({"sampler": "random", "pruning": {"asha": {"grace_epochs": 3}}}, ["e_mixup on split 7", "e_mixup on split 8"]),
        ({"selection": "reported"}, ["e_mixup"]),
        ({"n_candidates": 2, "methods": {"control": {}, "e_mixup": {"alpha": [0.1, 0.2]}}}, ["e_mixup"]),
    ],
)
def test_a_split_has_a_search_of_its_own_where_scores_decide_what_is_tried(
    tmp_path: Path, changed: dict[str, Any], names: list[str]
) -> None:
    spec = spec_of(tmp_path, splits={"seed": 7}, search={**NESTED, **changed})
    found = search_names(spec, "e_mixup")
    assert list(found) == names
    assert [split for splits in found.values() for split in splits] == list(spec.planned_splits(spec.phases[0]))
    assert set(plan_of(spec, None).candidates) >= set(names)


def test_a_candidate_is_asked_for_on_the_splits_whose_search_proposed_it(tmp_path: Path) -> None:
    spec = spec_of(tmp_path, search=NESTED)
    empty = plan_of(spec, None)
    assert not empty.asks_for(PROPOSED[0], SplitId(0)), "nothing is proposed yet"
    own = {"e_mixup on split 0": PROPOSED[:2], "e_mixup on split 1": PROPOSED[1:]}
    plan = dataclasses.replace(empty, candidates={**empty.candidates, **proposed(spec, own)})
    for candidate, seeds in ((PROPOSED[0], {0}), (PROPOSED[1], {0, 1}), (PROPOSED[3], {1})):
        for seed in (0, 1):
            assert plan.asks_for(candidate, SplitId(seed)) == (seed in seeds)
            assert plan.includes(TrialConfig(SEARCH, candidate, SplitId(seed, 1))) == (seed in seeds)
            assert plan.includes(TrialConfig(TEST, candidate, SplitId(seed))) == (seed in seeds)
    control = Candidate("control")
    assert plan.includes(TrialConfig(SEARCH, control, SplitId(1, 0)))
    for phase, split in ((SEARCH, SplitId(1)), (SEARCH, SplitId(1, 2)), (SEARCH, SplitId(2, 0)), (TEST, SplitId(1, 0))):
        assert not plan.includes(TrialConfig(phase, control, split))
    kept = plan_of(spec, plan)
    assert {name: kept.proposed[name] for name in own} == own
    more = plan_of(spec_of(tmp_path, search=NESTED, splits={"n_splits": 3}), plan)
    assert {name: more.proposed[name] for name in own} == own
    assert more.proposed["e_mixup on split 2"] == []
    write_description(tmp_path, described(spec, plan))
    assert read_description(tmp_path) == described(spec, plan)
    assert read_description(tmp_path).splits[SEARCH] == tuple(SplitId(seed, i) for seed in (0, 1) for i in (0, 1))


def test_each_split_chooses_among_the_candidates_that_have_met_its_own_inner_splits(tmp_path: Path) -> None:
    methods = {"control": {}, "e_mixup": {"alpha": [0.1, 0.2, 0.4]}}
    spec = spec_of(tmp_path, search={"selection": "nested", "n_inner_splits": 2, "methods": methods})
    plan = plan_of(spec, None)
    first, second, third = plan.proposed["e_mixup"]
    of_split = {  # scores on the two inner splits of splits 0 and 1
        first: (0.8, 0.8, 0.7, 0.7),
        second: (0.9, 0.5, 0.9, math.nan),
        third: (0.7, 0.7, 0.6, 0.8),
        Candidate.of("e_mixup", {"alpha": 0.9}): (1.0, 1.0, 1.0, 1.0),  # not asked for any more
    }
    inner = spec.planned_splits(SEARCH)
    scores = {
        TrialConfig(SEARCH, candidate, split): score
        for candidate, found in of_split.items()
        for split, score in zip(inner, found, strict=True)
        if split != SplitId(1, 1) or candidate != third
    }
    scores[TrialConfig(TEST, third, SplitId(0))] = 5.0  # a figure that is reported has no say
    assert plan.chosen(scores) == {"control": {}, "e_mixup": dict.fromkeys(map(SplitId, (0, 1)), first)}
    scores[TrialConfig(SEARCH, third, SplitId(1, 1))] = 0.9
    assert plan.chosen(scores)["e_mixup"] == {SplitId(0): first, SplitId(1): third}

    reported = plan_of(spec_of(tmp_path, search={"methods": methods}), None)
    scores = {TrialConfig(TEST, one, SplitId(split)): 0.5 for one in (first, third) for split in (0, 1)}
    scores[TrialConfig(TEST, third, SplitId(1))] = 0.6
    scores[TrialConfig(TEST, second, SplitId(0))] = 0.9  # and not trained on split 1
    assert reported.chosen(scores)["e_mixup"] == {SplitId(0): third, SplitId(1): third}


def test_the_lowest_negative_log_likelihood_is_chosen(tmp_path: Path) -> None:
    methods = {"e_mixup": {"alpha": [0.1, 0.2]}}
    spec = spec_of(tmp_path, objective={"metric": "nll"}, search={"selection": "nested", "methods": methods})
    plan = plan_of(spec, None)
    best, worse = plan.proposed["e_mixup"]
    scores = {
        TrialConfig(SEARCH, one, split): score_of({"nll": nll, "top1": nll}, spec.objective.metric)
        for one, nll in ((worse, 0.7), (best, 0.3))
        for split in spec.planned_splits(SEARCH)
    }
    assert plan.chosen(scores)["e_mixup"] == {SplitId(0): best, SplitId(1): best}
