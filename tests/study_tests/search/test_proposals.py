"""Proposals and the queue: deterministic, budgeted, nothing twice."""

import pytest

from study.config.schema import Search
from study.search.proposals import FixedProposals, proposals
from study.search.queue import PackQueue
from study.search.space import combinations, n_candidates, unguided
from trainables.records.types import Candidate, Pack, TrialConfig

SEARCH = {
    "control": {},
    "e_mixup": {"alpha": {"low": 0.05, "high": 2.0, "log": True}},
    "soft_e_mixup": {"alpha": {"low": 0.05, "high": 2.0, "log": True}, "softness": 0.02},
}


def search(sampler: str = "tpe", **changed: object) -> Search:
    values = {"sampler": sampler, "n_candidates": 10, "batch_size": 4, "methods": SEARCH} | changed
    return Search.model_validate(values)


def score(trial: TrialConfig) -> float:
    """A made-up response: best near alpha 0.3, a little luck a split."""
    alpha = dict(trial.candidate.params).get("alpha", 0.3)
    return 1 - (alpha - 0.3) ** 2 + 0.01 * trial.split


def drain(
    queue: PackQueue, known: dict[TrialConfig, float], *, at_once: int = 1, stop_after: int = 10**6
) -> list[Pack]:
    """Trains packs, `at_once` in flight, the last taken finished first, noting scores in `known`."""
    trained: list[Pack] = []
    flying: list[Pack] = []
    while len(trained) < stop_after:
        while len(flying) < at_once and (pack := queue.take()) is not None:
            flying.append(pack)
        if not flying:
            break
        pack = flying.pop()
        scores = {trial: score(trial) for trial in pack.trials}
        known |= scores
        queue.finish(pack, scores)
        trained.append(pack)
    return trained


def make_queue(wanted: Search, known: dict[TrialConfig, float]) -> PackQueue:
    return PackQueue("paper", {name: proposals(wanted, name) for name in wanted.methods}, [0, 1, 2], known)


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
    queue = make_queue(sampling, {})
    drain(queue, {})
    assert {str(one) for one in queue.candidates["deep_dropout"]} <= {str(one) for one in candidates}


@pytest.mark.parametrize("sampler", ["tpe", "random", "qmc", "gp"])
def test_equal_budgets_whatever_the_number_of_workers(sampler: str) -> None:
    queues = []
    for at_once in (1, 4):
        queue = make_queue(search(sampler), {})
        drain(queue, {}, at_once=at_once)
        assert queue.exhausted
        queues.append(queue)
    assert queues[0].candidates == queues[1].candidates
    assert len(queues[0].candidates["control"]) == 1, "there is nothing to choose"
    assert [len(queues[0].candidates[name]) for name in ("e_mixup", "soft_e_mixup")] == [10, 10]
    for candidate in queues[0].candidates["soft_e_mixup"]:
        assert dict(candidate.params)["softness"] == 0.02
        assert 0.05 <= dict(candidate.params)["alpha"] <= 2


@pytest.mark.parametrize("interrupted_after", [0, 1, 3, 7, 12])
def test_a_restart_trains_only_what_is_missing(interrupted_after: int) -> None:
    whole: dict[TrialConfig, float] = {}
    packs = drain(make_queue(search(), whole), whole)
    known: dict[TrialConfig, float] = {}
    first = drain(make_queue(search(), known), known, stop_after=interrupted_after)
    second = drain(make_queue(search(), known), known, at_once=3)
    assert known == whole
    assert len(first) + len(second) == len(packs)


def test_more_splits_train_only_the_new_ones() -> None:
    fixed = search("grid", methods={"control": {}, "e_mixup": {"alpha": [0.1, 0.2]}})
    known: dict[TrialConfig, float] = {}
    drain(make_queue(fixed, known), known)
    queue = PackQueue("paper", {name: proposals(fixed, name) for name in fixed.methods}, [0, 1, 2, 3, 4], known)
    assert [pack.splits for pack in drain(queue, known)] == [(3, 4)] * 3


def test_a_grid_is_every_combination_in_order() -> None:
    fixed = search("grid", methods={"soft_e_mixup": {"alpha": [0.1, 0.2], "softness": [0.01, 0.05]}})
    queue = make_queue(fixed, {})
    found = [tuple(dict(candidate.params).values()) for candidate in queue.candidates["soft_e_mixup"]]
    assert found == [(0.1, 0.01), (0.1, 0.05), (0.2, 0.01), (0.2, 0.05)]


def test_lanes_per_pack_cuts_candidates() -> None:
    queue = PackQueue("paper", {"control": FixedProposals([Candidate("control")])}, range(5), {}, lanes_per_pack=2)
    assert [pack.splits for pack in drain(queue, {})] == [(0, 1), (2, 3), (4,)]
    assert queue.score(Candidate("control")) == pytest.approx(1.02)


def test_a_failed_pack_ends_its_method_and_no_other() -> None:
    queue = make_queue(search(), {})
    first = [pack for _ in range(3) if (pack := queue.take()) is not None]
    lost = next(pack for pack in first if pack.candidate.method == "e_mixup")
    for pack in first:
        queue.finish(pack, {trial: score(trial) for trial in pack.trials if pack != lost})
    drain(queue, {})
    assert queue.exhausted
    assert len(queue.candidates["soft_e_mixup"]) == 10
    assert queue.has_ended("soft_e_mixup")
    assert len(queue.candidates["e_mixup"]) == 4, "its first batch stays incomplete"
    assert queue.score(lost.candidate) is None
    assert not queue.has_ended("e_mixup")


def test_the_best_is_of_complete_candidates() -> None:
    candidates = [Candidate.of("e_mixup", {"alpha": alpha}) for alpha in (1.0, 0.3, 0.31)]
    known = {TrialConfig("paper", candidate, split): score(TrialConfig("paper", candidate, split))
             for candidate in candidates for split in (0, 1)}  # fmt: skip
    del known[TrialConfig("paper", candidates[1], 1)]
    queue = PackQueue("paper", {"e_mixup": FixedProposals(candidates)}, [0, 1], known)
    assert queue.best("e_mixup") == candidates[2]


def test_of_equals_the_best_is_the_first_in_candidate_order_as_in_the_report() -> None:
    candidates = [Candidate.of("e_mixup", {"alpha": alpha}) for alpha in (1.0, 0.3)]
    known = {TrialConfig("paper", candidate, split): 0.95 for candidate in candidates for split in (0, 1)}
    queue = PackQueue("paper", {"e_mixup": FixedProposals(candidates)}, [0, 1], known)
    assert queue.best("e_mixup") == min(candidates) == candidates[1]


def test_a_space_within_the_budget_is_gone_through_whole() -> None:
    wanted = search("tpe", methods={"e_mixup": {"alpha": [0.1, 0.3, 1.0]}, "control": {}})
    assert [n_candidates(wanted, method) for method in wanted.methods] == [3, 1]
    queue = make_queue(wanted, {})
    drain(queue, {})
    assert [dict(one.params)["alpha"] for one in queue.candidates["e_mixup"]] == [0.1, 0.3, 1.0]


@pytest.mark.parametrize("sampler", ["tpe", "random", "qmc", "gp"])
def test_sampled_candidates_are_all_different(sampler: str) -> None:
    values = {"alpha": [round(0.05 * step, 2) for step in range(1, 13)]}
    wanted = search(sampler, methods={"e_mixup": values}, n_candidates=11)
    queue = make_queue(wanted, {})
    drain(queue, {})
    assert len(queue.candidates["e_mixup"]) == len(set(queue.candidates["e_mixup"])) == 11


@pytest.mark.parametrize("sampler", ["tpe", "gp"])
def test_what_was_proposed_stands_whatever_the_scores_say_now(sampler: str) -> None:
    wanted = search(sampler, n_candidates=14)
    first = make_queue(wanted, {})
    drain(first, {})
    proposed = first.candidates["e_mixup"]

    def again(before: list[Candidate], sign: int) -> list[Candidate]:
        queue = PackQueue("paper", {"e_mixup": proposals(wanted, "e_mixup", before)}, [0, 1, 2], {})
        while (pack := queue.take()) is not None:
            queue.finish(pack, {trial: sign * score(trial) for trial in pack.trials})
        return queue.candidates["e_mixup"]

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
    queue = make_queue(wanted, {})
    drain(queue, {})
    found = [dict(candidate.params) for candidate in queue.candidates["deep_pca"]]
    assert all(params["components"] in range(2, 10) for params in found)
    assert {params["dropout"] for params in found} == {0.1, 0.5}
    assert {params["weight_decay"] for params in found} == {0.01}
    assert {params["layer"] for params in found} == {1}
