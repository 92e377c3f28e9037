"""Proposals and the queue: deterministic, budgeted, nothing twice."""

import pytest

from study.config.schema import Search
from study.search.proposals import FixedProposals
from study.search.queue import PackQueue
from study.search.space import combinations, n_candidates, unguided
from tests.study_tests.search.searching import drain, listed, named, queue_of, score, searches, splits_of
from trainables.records.types import SEARCH, TEST, Candidate, SplitId, TrialConfig

METHODS = {
    "control": {},
    "e_mixup": {"alpha": {"low": 0.05, "high": 2.0, "log": True}},
    "soft_e_mixup": {"alpha": {"low": 0.05, "high": 2.0, "log": True}, "softness": 0.02},
}


def search(sampler: str = "tpe", **changed: object) -> Search:
    values = {"selection": "reported", "sampler": sampler, "n_candidates": 10, "batch_size": 4, "methods": METHODS}
    return Search.model_validate(values | changed)


def test_what_trains_the_same_is_one_candidate() -> None:
    wanted = search("grid", methods={"deep_dropout": {"layer": [0, 2, "auto"], "stop_gradient": [1, 0]}})
    candidates = list(combinations(wanted, "deep_dropout"))
    assert [str(one) for one in candidates] == [
        "deep_dropout(layer=0, rate=0.3, stop_gradient=0)",
        "deep_dropout(layer=2, rate=0.3, stop_gradient=1)",
        "deep_dropout(layer=2, rate=0.3, stop_gradient=0)",
        "deep_dropout(layer=auto, rate=0.3, stop_gradient=1)",
        "deep_dropout(layer=auto, rate=0.3, stop_gradient=0)",
    ]
    assert n_candidates(wanted, "deep_dropout") == 5
    sampling = search("tpe", methods=wanted.methods)
    queue = queue_of(sampling, {})
    drain(queue, {})
    assert {str(one) for one in named(queue, "deep_dropout").candidates} <= {str(one) for one in candidates}


# Its model of the scores takes seconds for each candidate.
GP = pytest.param("gp", marks=pytest.mark.slow)


@pytest.mark.parametrize("sampler", ["tpe", "random", "qmc", "gp"])
def test_equal_budgets_whatever_the_number_of_workers(sampler: str) -> None:
    queues = []
    for at_once in (1, 4):
        queue = queue_of(search(sampler), {})
        drain(queue, {}, at_once=at_once)
        assert queue.exhausted
        queues.append(queue)
    assert [one.candidates for one in queues[0].searches] == [one.candidates for one in queues[1].searches]
    assert len(named(queues[0], "control").candidates) == 1, "there is nothing to choose"
    assert [len(named(queues[0], name).candidates) for name in ("e_mixup", "soft_e_mixup")] == [10, 10]
    for candidate in named(queues[0], "soft_e_mixup").candidates:
        assert dict(candidate.params)["softness"] == 0.02
        assert 0.05 <= dict(candidate.params)["alpha"] <= 2


@pytest.mark.parametrize("interrupted_after", [0, 1, 3, 7, 12])
def test_a_restart_trains_only_what_is_missing(interrupted_after: int) -> None:
    whole: dict[TrialConfig, float] = {}
    packs = drain(queue_of(search(), whole), whole)
    known: dict[TrialConfig, float] = {}
    first = drain(queue_of(search(), known), known, stop_after=interrupted_after)
    second = drain(queue_of(search(), known), known, at_once=3)
    assert known == whole
    assert len(first) + len(second) == len(packs)


def test_more_splits_train_only_the_new_ones() -> None:
    fixed = search("grid", methods={"control": {}, "e_mixup": {"alpha": [0.1, 0.2]}})
    known: dict[TrialConfig, float] = {}
    drain(queue_of(fixed, known), known)
    queue = queue_of(fixed, known, splits_of(5))
    assert [pack.splits for pack in drain(queue, known)] == [splits_of(5)[3:]] * 3


def test_a_grid_is_every_combination_in_order() -> None:
    fixed = search("grid", methods={"soft_e_mixup": {"alpha": [0.1, 0.2], "softness": [0.01, 0.05]}})
    queue = queue_of(fixed, {})
    found = [tuple(dict(candidate.params).values()) for candidate in named(queue, "soft_e_mixup").candidates]
    assert found == [(0.1, 0.01), (0.1, 0.05), (0.2, 0.01), (0.2, 0.05)]


def test_lanes_per_pack_cuts_candidates() -> None:
    alone, splits = FixedProposals([Candidate("control")]), splits_of(5)
    queue = PackQueue(TEST, [listed(alone, splits, "control")], {}, lanes_per_pack=2)
    assert [pack.splits for pack in drain(queue, {})] == [splits[:2], splits[2:4], splits[4:]]
    assert queue.score(named(queue, "control"), Candidate("control")) == pytest.approx(1.02)


def test_a_failed_pack_ends_its_method_and_no_other() -> None:
    queue = queue_of(search(), {})
    first = [pack for _ in range(3) if (pack := queue.take()) is not None]
    lost = next(pack for pack in first if pack.candidate.method == "e_mixup")
    for pack in first:
        queue.finish(pack, {trial: score(trial) for trial in pack.trials if pack != lost})
    drain(queue, {})
    assert queue.exhausted
    assert len(named(queue, "soft_e_mixup").candidates) == 10
    assert named(queue, "soft_e_mixup").ended
    assert len(named(queue, "e_mixup").candidates) == 4, "its first batch stays incomplete"
    assert queue.score(queue.search_of(lost), lost.candidate) is None
    assert not named(queue, "e_mixup").ended


def test_the_best_is_of_complete_candidates() -> None:
    candidates = [Candidate.of("e_mixup", {"alpha": alpha}) for alpha in (1.0, 0.3, 0.31)]
    trials = [TrialConfig(TEST, candidate, split) for candidate in candidates for split in splits_of(2)]
    known = {trial: score(trial) for trial in trials}
    del known[TrialConfig(TEST, candidates[1], SplitId(1))]
    queue = PackQueue(TEST, [listed(FixedProposals(candidates), splits_of(2))], known)
    assert queue.best(named(queue, "e_mixup")) == candidates[2]


def test_of_equals_the_best_is_the_first_in_candidate_order_as_in_the_report() -> None:
    candidates = [Candidate.of("e_mixup", {"alpha": alpha}) for alpha in (1.0, 0.3)]
    known = {TrialConfig(TEST, candidate, split): 0.95 for candidate in candidates for split in splits_of(2)}
    queue = PackQueue(TEST, [listed(FixedProposals(candidates), splits_of(2))], known)
    assert queue.best(named(queue, "e_mixup")) == min(candidates) == candidates[1]


def test_a_space_within_the_budget_is_gone_through_whole() -> None:
    wanted = search("tpe", methods={"e_mixup": {"alpha": [0.1, 0.3, 1.0]}, "control": {}})
    assert [n_candidates(wanted, method) for method in wanted.methods] == [3, 1]
    queue = queue_of(wanted, {})
    drain(queue, {})
    assert [dict(one.params)["alpha"] for one in named(queue, "e_mixup").candidates] == [0.1, 0.3, 1.0]


@pytest.mark.parametrize("sampler", ["tpe", "random", "qmc", GP])
def test_sampled_candidates_are_all_different(sampler: str) -> None:
    values = {"alpha": [round(0.05 * step, 2) for step in range(1, 13)]}
    wanted = search(sampler, methods={"e_mixup": values}, n_candidates=11)
    queue = queue_of(wanted, {})
    drain(queue, {})
    assert len(named(queue, "e_mixup").candidates) == len(set(named(queue, "e_mixup").candidates)) == 11


@pytest.mark.parametrize("sampler", ["tpe", GP])
def test_what_was_proposed_stands_whatever_the_scores_say_now(sampler: str) -> None:
    wanted = search(sampler, n_candidates=14)
    first = queue_of(wanted, {})
    drain(first, {})
    proposed = named(first, "e_mixup").candidates

    def again(before: list[Candidate], sign: int) -> list[Candidate]:
        queue = queue_of(wanted, {}, before={"e_mixup": before})
        while (pack := queue.take()) is not None:
            queue.finish(pack, {trial: sign * score(trial) for trial in pack.trials})
        return named(queue, "e_mixup").candidates

    assert again([], -1) != proposed, "other scores, other proposals"
    assert again(proposed, -1) == proposed
    assert again(proposed[:5], 1) == proposed, "and where the sampler would say the same, nothing has changed"


def test_a_search_that_learns_nothing_is_told() -> None:
    assert unguided(search("tpe", n_candidates=12)) is not None
    assert "All 12 candidates of e_mixup, soft_e_mixup will be random" in str(unguided(search("tpe", n_candidates=12)))
    assert unguided(search("tpe", n_candidates=13)) is None
    assert unguided(search("tpe", n_candidates=8, n_startup=4)) is None
    assert unguided(search("random", n_candidates=4)) is None


def test_training_settings_and_whole_numbers_are_searched_too() -> None:
    wanted = search(
        "random",
        methods={"deep_pca": {"components": {"low": 2, "high": 9}, "dropout": [0.1, 0.5], "weight_decay": 0.01}},
    )
    queue = queue_of(wanted, {})
    drain(queue, {})
    found = [dict(candidate.params) for candidate in named(queue, "deep_pca").candidates]
    assert all(params["components"] in range(2, 10) for params in found)
    assert {params["dropout"] for params in found} == {0.1, 0.5}
    assert {params["weight_decay"] for params in found} == {0.01}
    assert {params["layer"] for params in found} == {1}


def nested(sampler: str = "tpe", **changed: object) -> Search:
    return search(sampler, selection="nested", n_startup=4, **changed)


@pytest.mark.parametrize("sampler", ["grid", "random", "qmc"])
def test_without_learning_all_splits_try_the_same_candidates(sampler: str) -> None:
    methods = {"control": {}, "e_mixup": {"alpha": [0.1, 0.3, 1.0]}} if sampler == "grid" else METHODS
    queue = queue_of(nested(sampler, methods=methods), {})
    assert [one.name for one in queue.searches] == list(methods)
    packs = drain(queue, {}, at_once=2)
    assert all(pack.splits == splits_of(3, 2) for pack in packs)
    assert len(named(queue, "e_mixup").candidates) == (3 if sampler == "grid" else 10)


@pytest.mark.parametrize(("sampler", "n_candidates"), [("tpe", 8), ("gp", 5)])
def test_each_split_learns_from_its_own_scores_only(sampler: str, n_candidates: int) -> None:
    wanted, splits = nested(sampler, n_candidates=n_candidates), splits_of(3, 2)
    queue = queue_of(wanted, {})
    packs = drain(queue, {}, at_once=3)
    names = [f"{method} on split {seed}" for method in ("e_mixup", "soft_e_mixup") for seed in range(3)]
    assert [one.name for one in queue.searches] == ["control", *names], "there is nothing to choose for control"
    proposed = {name: named(queue, name).candidates for name in names}
    assert {len(candidates) for candidates in proposed.values()} == {n_candidates}, "the same budget"
    alphas = {name: tuple(dict(one.params)["alpha"] for one in found[:4]) for name, found in proposed.items()}
    assert len(set(alphas.values())) == len(names), "both the method and the split seed the sampler"
    assert all(len({split.seed for split in pack.splits}) == 1 for pack in packs if pack.candidate.method != "control")

    def again(sign: int, before: dict[str, list[Candidate]] | None = None) -> PackQueue:
        """Trains with other scores on split 1."""
        queue = queue_of(wanted, {}, before=before)
        while (pack := queue.take()) is not None:
            queue.finish(pack, {one: (sign if one.split.seed == 1 else 1) * score(one) for one in pack.trials})
        return queue

    changed = {one.name: one.candidates for one in again(-1).searches}
    assert {name for name in names if changed[name] != proposed[name]} == {n for n in names if n.endswith(" 1")}
    kept = again(-1, proposed)
    assert {one.name: one.candidates for one in kept.searches if one.name in proposed} == proposed
    alone = queue_of(wanted, {}, splits[2:4])
    drain(alone, {})
    assert {one.name: one.candidates for one in alone.searches if one.name != "control"} == {
        name: proposed[name] for name in names if name.endswith(" 1")
    }, "nor does it depend on which other splits there are"


@pytest.mark.parametrize("interrupted_after", [1, 20])
def test_a_restart_of_searches_of_single_splits_proposes_the_same(interrupted_after: int) -> None:
    whole: dict[TrialConfig, float] = {}
    queue = queue_of(nested(n_candidates=6), whole)
    packs = drain(queue, whole)
    known: dict[TrialConfig, float] = {}
    first = drain(queue_of(nested(n_candidates=6), known), known, stop_after=interrupted_after)
    second = queue_of(nested(n_candidates=6), known)
    assert len(first) + len(drain(second, known, at_once=3)) == len(packs)
    assert known == whole
    assert second.choices() == queue.choices()


def test_each_split_chooses_its_own_best() -> None:
    alphas = 0.1, 0.2, 0.4
    candidates = [Candidate.of("e_mixup", {"alpha": alpha}) for alpha in alphas]
    queue = PackQueue(SEARCH, [listed(FixedProposals(candidates), splits_of(2, 2))], {})
    assert queue.choices() == {}, "nothing is chosen before the search has ended"
    scores = {  # by alpha: inner splits 0 and 1 of split 0, then those of split 1
        0.1: (0.8, 0.8, 0.5, 0.5),
        0.2: (0.9, 0.6, 0.9, 0.9),
        0.4: (0.7, 0.7, 0.9, 0.9),
    }
    while (pack := queue.take()) is not None:
        of_alpha = scores[dict(pack.candidate.params)["alpha"]]
        queue.finish(pack, dict(zip(pack.trials, of_alpha, strict=True)))
    assert queue.exhausted
    assert queue.choices() == {
        ("e_mixup", SplitId(0)): candidates[0],
        ("e_mixup", SplitId(1)): candidates[1],  # of equals the first
    }


def test_a_failed_trial_keeps_only_its_own_search_from_ending() -> None:
    queue = queue_of(nested(n_candidates=6), {})
    lost = TrialConfig(SEARCH, named(queue, "e_mixup on split 1").candidates[2], SplitId(1, 0))
    known: dict[TrialConfig, float] = {}
    while (pack := queue.take()) is not None:
        scores = {trial: score(trial) for trial in pack.trials if trial != lost}
        known |= scores
        queue.finish(pack, scores)
    assert queue.exhausted
    assert [one.name for one in queue.searches if not one.ended] == ["e_mixup on split 1"]
    assert len(named(queue, "e_mixup on split 1").candidates) == 4
    assert {len(one.candidates) for one in queue.searches if one.ended and one.method != "control"} == {6}
    every = {(method, SplitId(seed)) for method in METHODS for seed in range(3)}
    assert set(queue.choices()) == every - {("e_mixup", SplitId(1))}
    wanted = nested(n_candidates=6)
    again = PackQueue(SEARCH, searches(wanted, splits_of(3, 2)), known, failed={lost})
    assert again.take() is None, "it is not tried again"
    assert again.choices() == queue.choices()
