"""The plan of a study beside what earlier runs planned, without running one."""

from __future__ import annotations

import dataclasses
import time
from pathlib import Path
from typing import Any

import pytest

from study.config.load import check_spec
from study.config.schema import StudySpec
from study.state.description import plan_of, plans_differ, proposed, refuse_changes
from study.state.status import in_words, read_status
from tests.study_tests.conftest import settings
from trainables.records.description import (
    DataDescription,
    DescriptionError,
    StudyDescription,
    StudyPlan,
    read_description,
    write_description,
)
from trainables.records.failures import Failure, write_failure
from trainables.records.types import Candidate, TrialConfig

SAMPLED = {
    "sampler": "tpe",
    "n_candidates": 4,
    "methods": {"control": {}, "e_mixup": {"alpha": {"low": 0.1, "high": 1.0}}},
}

PROPOSED = [Candidate.of("e_mixup", {"alpha": alpha}) for alpha in (0.9, 0.2, 0.5, 0.1)]


def spec_of(folder: Path, **sections: Any) -> StudySpec:
    return check_spec(settings(**sections), folder / "study.yaml", encodes=False)


def searched(spec: StudySpec) -> StudyPlan:
    """The plan once the search has proposed every candidate."""
    plan = plan_of(spec, None)
    return dataclasses.replace(plan, candidates={**plan.candidates, **proposed(spec, {"e_mixup": PROPOSED})})


def described(spec: StudySpec, plan: StudyPlan) -> StudyDescription:
    data = DataDescription("dd44", 240, 2, ("a", "b"), 8, {}, ())
    rest = {"settings": {}, "choices": {}, "data": data, "digests": {"settings": "aa11", "embeddings": "bb22"}}
    return StudyDescription(
        **{field.name: getattr(plan, field.name) for field in dataclasses.fields(StudyPlan)},
        **rest,  # type: ignore[arg-type]
        name=spec.name,
        preset=None,
        protocol=spec.splits.protocol,
        objective=spec.objective.metric,
        threshold=spec.objective.threshold,
        deciding_settings=spec.deciding_settings(),
    )


def test_a_grid_is_known_before_the_first_run(tmp_path: Path) -> None:
    plan = plan_of(spec_of(tmp_path), None)
    assert plan.n_candidates == {"control": 1, "e_mixup": 2}
    assert plan.proposed["e_mixup"] == [Candidate.of("e_mixup", {"alpha": alpha}) for alpha in (0.2, 0.4)]
    assert plan.includes(TrialConfig("paper", plan.proposed["e_mixup"][0], 1))
    assert not plan.includes(TrialConfig("paper", plan.proposed["e_mixup"][0], 2))
    assert not plan.asks_for(Candidate.of("e_mixup", {"alpha": 0.3}))


@pytest.mark.parametrize(
    ("change", "kept", "differs"),
    [
        ({}, PROPOSED, False),
        ({"splits": {"n_splits": 3}}, PROPOSED, True),
        ({"search": {**SAMPLED, "n_candidates": 2}}, PROPOSED[:2], True),
        ({"search": {**SAMPLED, "seed": 1}}, [], True),
        ({"search": {**SAMPLED, "methods": {"control": {}, "e_mixup": {"alpha": {"low": 0.1, "high": 2}}}}}, [], True),
        ({"search": {**SAMPLED, "methods": {"control": {}, "e_mixup": {"alpha": 0.3}}}}, None, True),
    ],
)
def test_proposals_are_kept_where_the_study_file_asks_for_the_same(
    tmp_path: Path, change: dict[str, Any], kept: list[Candidate] | None, differs: bool
) -> None:
    before = searched(spec_of(tmp_path, search=SAMPLED))
    now = plan_of(spec_of(tmp_path, **{"search": SAMPLED, **change}), before)
    assert now.proposed["e_mixup"] == ([Candidate.of("e_mixup", {"alpha": 0.3})] if kept is None else kept)
    assert plans_differ(before, now) == differs


def test_a_description_survives_its_file(tmp_path: Path) -> None:
    spec = spec_of(tmp_path, search=SAMPLED)
    description = described(spec, searched(spec))
    write_description(tmp_path, description)
    assert read_description(tmp_path) == description
    assert read_description(tmp_path).proposed["e_mixup"] == PROPOSED


def test_records_of_other_settings_or_data_are_refused(tmp_path: Path) -> None:
    spec = spec_of(tmp_path)
    description = described(spec, plan_of(spec, None))
    changed = spec_of(tmp_path, training={"epochs": 7}, splits={"n_splits": 5})
    refuse_changes(changed)
    write_description(spec.root, description)
    refuse_changes(changed)
    spec.records.mkdir()
    (spec.records / "paper-control-0.parquet").touch()
    refuse_changes(spec)
    refuse_changes(spec, description)
    with pytest.raises(DescriptionError, match=r"other settings or data \(training\.epochs: 6 -> 7\)\. Give the study"):
        refuse_changes(changed)
    for name, other in (("embeddings", "embeddings: bb22 -> other"), ("settings", "digests: .*aa11.* -> .*other")):
        moved = dataclasses.replace(description, digests={**description.digests, name: "other"})
        with pytest.raises(DescriptionError, match=other):
            refuse_changes(spec, moved)


def test_status_counts_only_what_the_study_asks_for_now(tmp_path: Path) -> None:
    spec = spec_of(tmp_path)
    for candidate in (Candidate.of("e_mixup", {"alpha": 0.2}), Candidate.of("e_mixup", {"alpha": 0.9})):
        write_failure(spec.records, Failure("paper", candidate, (0, 1), "no memory", "", 3, time.time()))
    status = read_status(spec, described(spec, plan_of(spec, None)))
    assert [(row.method, row.n_planned, row.n_failed, row.n_missing) for row in status.methods] == [
        ("control", 2, 0, 2),
        ("e_mixup", 4, 2, 2),
    ]
    assert (status.changed, in_words(status)[-1]) == (
        False,
        "4 trials missing. `study run` or, on a cluster, `study submit` trains them.",
    )
    longer = spec_of(tmp_path, splits={"n_splits": 3})
    assert read_status(longer, described(spec, plan_of(spec, None))).changed
