"""What is checked before a study is begun: held against made-up nodes, and asked of a real one."""

import re
from dataclasses import replace
from pathlib import Path

import pytest

from study.cluster.estimate import Phase, inspect, measure_costs, needs_of, plan_lines
from study.cluster.nodes import FoundEncoder, Node, NodeFacts, alive_nodes, slots_of, software_versions
from study.cluster.preflight import Check, Needs, judge
from study.config.load import load_spec
from study.config.schema import StudySpec
from tests.study_tests.conftest import MakeStudy

HEAD, WORKER = Node("a", "10.0.0.1", 4, 0, 8e9), Node("b", "10.0.0.2", 4, 0, 8e9)


VALID = NodeFacts(
    versions=software_versions(),
    n_gpus=0,
    gpu_bytes=0,
    gpus_are_busy=False,
    encoders={"title": FoundEncoder({"model": "m", "weights_sha256": "1"}, 384)},
    storage_problem="",
    table_bytes=1000,
    table_problem="",
    free_disk_bytes=10**10,
    free_memory_bytes=10**11,
    auth_mode="token",
    token_is_open=False,
)

NEEDS = Needs(to_write_bytes=10**9, matrix_bytes=10**9, pack_bytes=10**9)


@pytest.fixture
def spec(make_study: MakeStudy) -> StudySpec:
    return load_spec(make_study())


def failed(checks: list[Check]) -> dict[str, Check]:
    return {check.what: check for check in checks if not check.ok}


def test_a_valid_cluster_passes(spec: StudySpec) -> None:
    checks = judge(spec, [HEAD, WORKER], {"a": VALID, "b": VALID}, {"a": [], "b": []}, NEEDS)
    assert failed(checks) == {}
    assert {check.node for check in checks} == {"10.0.0.1", "10.0.0.2"}


@pytest.mark.parametrize(
    ("change", "what", "pattern"),
    [
        ({"versions": {**software_versions(), "torch": "1.0"}}, "versions", r"torch 1.0 instead of 2\."),
        ({"n_gpus": 2}, "devices", r"torch finds 2 GPUs, Ray counts 0"),
        ({"encoders": {"title": FoundEncoder(problem="not available")}}, "encoders", r"title: not available"),
        (
            {"encoders": {"title": FoundEncoder({"model": "m", "weights_sha256": "2"}, 384)}},
            "encoders",
            r"title: other weights_sha256",
        ),
        ({"storage_problem": "/x: Permission denied"}, "storage", r"Permission denied"),
        ({"table_bytes": 999}, "table", r"999 bytes instead of 1,000"),
        ({"table_problem": "the table must exist"}, "table", r"must exist"),
        ({"free_disk_bytes": 10**8}, "disk", r"100.0 MB free, 1.0 GB needed"),
        ({"free_memory_bytes": 10**9}, "memory", r"1.0 GB free, 5.0 GB needed by 4 packs"),
        ({"auth_mode": "disabled"}, "token", r"runs code for anyone"),
        ({"token_is_open": True}, "token", r"other users can read"),
    ],
)
def test_what_is_wrong_with_a_node_is_named(
    spec: StudySpec, change: dict[str, object], what: str, pattern: str
) -> None:
    facts: dict[str, NodeFacts | str] = {"a": VALID, "b": replace(VALID, **change)}  # type: ignore[arg-type]
    found = failed(judge(spec, [HEAD, WORKER], facts, {"a": [], "b": []}, NEEDS))
    assert set(found) == {what}
    assert found[what].node == "10.0.0.2"
    assert re.search(pattern, found[what].found)
    assert found[what].remedy


def test_a_node_that_does_not_see_what_others_wrote(spec: StudySpec) -> None:
    found = failed(judge(spec, [HEAD, WORKER], {"a": VALID, "b": VALID}, {"a": [], "b": ["10.0.0.1"]}, NEEDS))
    assert found["storage"].node == "10.0.0.2"
    assert "the files that 10.0.0.1 wrote are not visible on this node" in found["storage"].found


def test_a_node_without_this_project(spec: StudySpec) -> None:
    facts: dict[str, NodeFacts | str] = {"a": VALID, "b": "ModuleNotFoundError: No module named 'study'"}
    found = failed(judge(spec, [HEAD, WORKER], facts, {"a": []}, NEEDS))
    assert list(found) == ["answers"]
    assert "No module named" in found["answers"].found


def test_gpus_in_use_are_passed_over(spec: StudySpec) -> None:
    node = replace(WORKER, n_gpus=8)
    checks = judge(spec, [HEAD, node], {"a": VALID, "b": replace(VALID, gpus_are_busy=True)}, {}, NEEDS)
    assert failed(checks) == {}
    assert "GPUs are in use" in next(
        check.found for check in checks if (check.node, check.what) == ("10.0.0.2", "devices")
    )


@pytest.mark.parametrize(
    ("resources", "n_slots"),
    [
        ({"gpus_per_pack": 0.2, "cpus_per_pack": 0}, 10),
        ({"gpus_per_pack": 0.05, "cpus_per_pack": 0}, 40),
        ({"gpus_per_pack": 0.3, "cpus_per_pack": 0}, 6),
        ({"gpus_per_pack": 2, "cpus_per_pack": 0}, 1),
        ({"cpus_per_pack": 0.8}, 10),
    ],
)
def test_packs_at_once_are_counted_as_ray_counts(
    make_study: MakeStudy, resources: dict[str, float], n_slots: int
) -> None:
    assert slots_of(load_spec(make_study(resources=resources)), Node("a", "10.0.0.1", 8, 2, 8e9)) == n_slots


def test_packs_left_are_of_one_candidate_each() -> None:
    assert Phase("search", "e_mixup", 30, 20, 4, 10, 100).n_packs_left == 2 * 3
    assert Phase("search", "e_mixup", 30, 13, 4, 10, 100).n_packs_left == 3 + 1


def test_an_object_store_too_small_for_the_embeddings(spec: StudySpec) -> None:
    small = replace(WORKER, object_store_bytes=1e8)
    found = failed(judge(spec, [HEAD, small], {"a": VALID, "b": VALID}, {}, NEEDS))
    assert "--object-store-memory" in found["memory"].remedy


@pytest.fixture
def one_node(ray_session: None) -> list[Node]:
    """The tests' own Ray."""
    return alive_nodes()


def test_a_real_node_is_asked_and_a_plan_is_measured(one_node: list[Node], spec: StudySpec) -> None:
    checks, work = inspect(spec, one_node)
    assert failed(checks) == {}, failed(checks)
    assert not spec.root.exists(), "nothing is left of the checks"
    assert work is not None
    assert (work.n_items, work.n_features, work.columns_left) == (240, 2 * 384, ("title",))
    assert sum(phase.n_trials for phase in work.phases) == 6
    assert needs_of(spec, work).matrix_bytes == 240 * 768 * 4
    costs = measure_costs(spec, work)
    assert costs.encoding["title"].n_inputs == 240
    assert all(cost.epoch_s > 0 and cost.record_bytes > 0 for cost in costs.packs)
    lines = "\n".join(plan_lines(spec, work, costs, one_node, 3.0))
    assert "6 trials, 6 of them left, in 3 packs; 2 packs at once" in lines
    assert re.search(r"Work: about \S+ core-(hours|minutes) ", lines)
    assert re.search(r"Price: about \S+ = \S+ h x 1 node x 3 per hour", lines)
    assert not spec.root.exists(), "nothing is left of the pilot"


def test_a_real_node_that_lacks_things(one_node: list[Node], spec: StudySpec, tmp_path: Path) -> None:
    text = spec.encoders.text
    assert text is not None
    (tmp_path / "file").write_text("in the way")
    wrong = spec.model_copy(
        update={
            "directory": str(tmp_path / "file" / "out"),
            "data": spec.data.model_copy(update={"table": str(tmp_path / "none.csv")}),
            "encoders": spec.encoders.model_copy(update={"text": replace(text, model="package://none_such/model")}),
            "tracking": spec.tracking.model_copy(update={"uri": "http://127.0.0.1:9"}),
        }
    )
    checks, work = inspect(wrong, one_node)
    found = failed(checks)
    assert set(found) == {"storage", "table", "encoders", "tracker"}, found
    assert work is None
    assert "must be a folder, or a place to make one" in found["storage"].found
    assert "none_such" in found["encoders"].found
