"""Reading a study's directory, and refusing one that cannot be reported."""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from analysis.report.write import write_report
from analysis.results.load import ReportError, load_study
from trainables.records.parquet import read_records, write_records
from trainables.records.types import Candidate

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
    assert results.description.splits == {"paper": (0, 1, 2)}
    assert results.description.data.notes == ("The image encoder is untrained.",)
    table = results.table()
    assert len(table) == 27
    assert {"phase", "method", "candidate", "alpha", "split", "auc_weighted", "duration_s"} <= set(table)
    row = table[(table.method == "e_mixup") & (table.alpha == 0.4) & (table.split == 1)].iloc[0]
    (record,) = (
        record
        for record in results.records
        if str(record.config.candidate) == "e_mixup(alpha=0.4)" and record.config.split == 1
    )
    assert row.auc_weighted == record.metrics["auc_weighted"]
    assert math.isnan(table[table.method == "control"].alpha.iloc[0])


def test_items_are_read_only_on_demand(whole_study: Path) -> None:
    assert load_study(whole_study).records[0].items is None
    items = load_study(whole_study, with_items=True).records[0].items
    assert items is not None
    assert len(items.item) == 450


def test_optional_keys_may_be_absent(study_of: Make) -> None:
    directory = study_of()
    for key in ("preset", "settings", "choices", "data", "digests"):
        rewrite(directory, lambda description, key=key: description.pop(key))
    description = load_study(directory).description
    assert description.preset is None
    assert description.data.n_items is None


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda d: d.update(format=9), "must have format 1, got 9"),
        (lambda d: d.pop("objective"), "lacks objective"),
        (lambda d: d.update(protocol="other"), "one of paper, nested, got 'other'"),
        (lambda d: d.update(splits={"confirm": [0]}), "must be given for paper, got confirm"),
        (lambda d: d.update(methods=[]), "methods is empty"),
        (lambda d: d["n_candidates"].pop("control"), "n_candidates lacks control"),
    ],
)
def test_a_description_that_cannot_be_reported(
    study_of: Make, change: Callable[[dict[str, Any]], Any], message: str
) -> None:
    directory = study_of()
    rewrite(directory, change)
    with pytest.raises(ReportError, match=message):
        load_study(directory)


def test_a_directory_without_a_study(tmp_path: Path) -> None:
    with pytest.raises(ReportError, match=r"study\.json does not exist"):
        load_study(tmp_path)


def test_a_damaged_description(study_of: Make) -> None:
    directory = study_of()
    (directory / "study.json").write_text("{")
    with pytest.raises(ReportError, match="is not JSON"):
        load_study(directory)


def test_trials_outside_the_plan_are_counted_and_left_out(study_of: Make) -> None:
    directory = study_of(splits={"paper": [0, 1, 2]})
    rewrite(directory, lambda description: description["splits"].update(paper=[0, 1]))
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
    (problem,) = results.unsound
    assert problem.startswith(
        "control(old=1) on paper split 0: made by other settings than study.json describes (other"
    )
    assert "Two studies share this directory" in write_report(directory).html.read_text(encoding="utf-8")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda d: d.update(objective="f1"), r"e_mixup.* and \d more: no finite f1, of accuracy"),
        (lambda d: d["digests"].update(settings="other"), "made by other settings than study.json describes"),
    ],
)
def test_a_study_of_which_nothing_is_left(
    study_of: Make, change: Callable[[dict[str, Any]], Any], message: str
) -> None:
    directory = study_of(methods=("e_mixup",))
    rewrite(directory, change)
    with pytest.raises(ReportError, match=message):
        write_report(directory)
