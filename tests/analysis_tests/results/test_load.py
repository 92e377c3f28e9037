"""Reading a study's directory, and refusing one that cannot be reported."""

from __future__ import annotations

import dataclasses
import json
import math
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from analysis.report.write import write_report
from analysis.results.load import ReportError, each_with_items, load_study
from trainables.records.description import DescriptionError, read_description, write_description
from trainables.records.parquet import read_records, write_records
from trainables.records.types import Candidate, SplitId

Make = Callable[..., Path]


def rewrite(directory: Path, change: Callable[[dict[str, Any]], Any]) -> None:
    path = directory / "study.json"
    description = json.loads(path.read_text())
    change(description)
    path.write_text(json.dumps(description))


def test_every_trial_is_read_with_its_coordinates_and_figures(whole_study: Path) -> None:
    results = load_study(whole_study)
    assert len(results.records) == (1 + 4 * 2) * 3
    assert results.description.methods[0] == "control"
    assert results.description.splits == {"test": tuple(map(SplitId, range(3)))}
    assert results.description.data.notes == ("The image encoder is untrained.",)
    table = results.table()
    assert len(table) == 27
    assert {"phase", "method", "candidate", "alpha", "split", "auc_weighted", "duration_s"} <= set(table)
    row = table[(table.method == "e_mixup") & (table.alpha == 0.4) & (table.split == 1)].iloc[0]
    (record,) = (
        record
        for record in results.records
        if str(record.config.candidate) == "e_mixup(alpha=0.4)" and record.config.split.seed == 1
    )
    assert row.auc_weighted == record.metrics["auc_weighted"]
    assert math.isnan(table[table.method == "control"].alpha.iloc[0])


def test_items_are_read_only_on_demand(whole_study: Path) -> None:
    assert load_study(whole_study).records[0].items is None
    items = load_study(whole_study, with_items=True).records[0].items
    assert items is not None
    assert len(items.item) == 450


def test_every_key_is_needed(study_of: Make) -> None:
    directory = study_of()
    whole = json.loads((directory / "study.json").read_text())
    for key in whole.keys() - {"format"}:
        (directory / "study.json").write_text(json.dumps({name: whole[name] for name in whole if name != key}))
        with pytest.raises(DescriptionError, match=rf"study\.json is not valid: `{key}`: Field required\. Remove it"):
            load_study(directory)
    (directory / "study.json").write_text(json.dumps({**whole, "preset": None}))
    assert load_study(directory).description.preset is None


def test_a_description_is_read_as_it_was_written(study_of: Make, tmp_path: Path) -> None:
    directory = study_of(
        changes={"candidates": {"e_mixup": {"asked": "x", "proposed": [{"alpha": 0.4}, {"alpha": 0.2}]}}}
    )
    description = read_description(directory)
    assert description.proposed == {"e_mixup": [Candidate.of("e_mixup", {"alpha": alpha}) for alpha in (0.4, 0.2)]}
    write_description(tmp_path, description)
    assert read_description(tmp_path) == description
    written = [json.loads((folder / "study.json").read_text()) for folder in (directory, tmp_path)]
    assert written[0] == written[1]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda d: d.update(format=9), "format must be 3, got 9"),
        (lambda d: d.pop("objective"), "`objective`: Field required"),
        (lambda d: d["data"].update(n_items="many"), r"`data\.n_items`: Input should be a valid integer"),
        (
            lambda d: d.update(candidates={"e_mixup": {"asked": "x", "proposed": [{"alpha": None}]}}),
            "proposed.0.alpha`",
        ),
        (lambda d: d["digests"].pop("settings"), "digests must be of settings and embeddings, got embeddings"),
        (lambda d: d.update(selection="other"), "one of nested, reported, got 'other'"),
        (lambda d: d.update(splits={"search": [[0, 0]]}), "must be given for test, got search"),
        (lambda d: d.update(methods=[]), "methods is empty"),
        (lambda d: d["n_candidates"].pop("control"), "n_candidates is missing control"),
    ],
)
def test_a_description_that_cannot_be_reported(
    study_of: Make, change: Callable[[dict[str, Any]], Any], message: str
) -> None:
    directory = study_of()
    rewrite(directory, change)
    with pytest.raises(DescriptionError, match=message):
        load_study(directory)


def test_a_directory_without_a_study(tmp_path: Path) -> None:
    with pytest.raises(DescriptionError, match=r"holds no study: study\.json is missing"):
        load_study(tmp_path)


def test_a_damaged_description(study_of: Make) -> None:
    directory = study_of()
    (directory / "study.json").write_text("{")
    with pytest.raises(DescriptionError, match=r"study\.json is not valid: .*Remove it"):
        load_study(directory)


def test_trials_outside_the_plan_are_counted_and_left_out(study_of: Make) -> None:
    directory = study_of(n_splits=3)
    rewrite(directory, lambda description: description["splits"].update(test=[[0, None], [1, None]]))
    results = load_study(directory)
    assert len(results.records) == 6
    assert results.n_unplanned == 3


def test_trials_of_another_study_are_left_out_and_named(study_of: Make, tmp_path: Path) -> None:
    directory = study_of(methods=("control",))
    records = read_records(directory / "records", with_items=True)
    config = dataclasses.replace(records[0].config, candidate=Candidate.of("control", {"old": 1.0}))
    provenance = {**records[0].provenance, "digest_settings": "other"}
    write_records(directory / "records", [dataclasses.replace(records[0], config=config, provenance=provenance)])
    results = load_study(directory)
    assert len(results.records) == 3
    (problem,) = results.excluded
    assert re.match(r"Excluded: .*test-control-old=1.*\.parquet, made with other settings than the study has", problem)
    assert "Two studies share this directory" in write_report(directory).html.read_text(encoding="utf-8")


def test_a_trial_that_another_study_has_recorded_too_is_read_once(study_of: Make) -> None:
    directory = study_of(methods=("control", "e_mixup"))
    own = load_study(directory, with_items=True).records
    foreign = [dataclasses.replace(one, provenance={**one.provenance, "digest_settings": "other"}) for one in own[:1]]
    worse = [dataclasses.replace(one, metrics={**one.metrics, "auc_weighted": 0.1}) for one in foreign]
    path = write_records(directory / "records", worse)
    results = load_study(directory)
    assert [record.metrics for record in results.records] == [record.metrics for record in own]
    (problem,) = results.excluded
    assert problem.startswith(
        f"Excluded: {path}, made with other settings than the study has (digest of settings other"
    )
    (read,) = each_with_items(directory, [own[0].config])
    assert read.provenance == own[0].provenance


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda d: d.update(objective="f1"), r"e_mixup.* and \d more, no finite f1 among accuracy"),
        (lambda d: d["digests"].update(settings="other"), "made with other settings than the study has"),
    ],
)
def test_a_study_of_which_nothing_is_left(
    study_of: Make, change: Callable[[dict[str, Any]], Any], message: str
) -> None:
    directory = study_of(methods=("e_mixup",))
    rewrite(directory, change)
    with pytest.raises(ReportError, match=message):
        write_report(directory)
