"""What counts as not converged, on learning curves of real trainings, and what is said of it."""

import csv
import json
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from analysis.report.comparison_page import comparison_table, write_comparison
from analysis.report.tables import table_rows, terminal_table
from analysis.report.write import write_report, write_server_report
from analysis.results.convergence import not_converged, remarks
from analysis.results.load import load_study
from analysis.results.mlflow import load_runs
from analysis.statistics.across_studies import compare
from study.model.retrain import find_trial
from tests.analysis_tests.conftest import TRAINING as QUICK
from tests.analysis_tests.conftest import Plan, make_study, make_trial
from tests.analysis_tests.results.test_mlflow import track
from trainables.records.parquet import read_record_file, record_files, write_records
from trainables.records.types import Candidate, SplitId, TrialConfig, TrialRecord

Make = Callable[..., Path]

# With it, the learning rate has risen and fallen twice after 48 epochs.
TRAINING = {**QUICK, "learning_rate": {"low": 3e-4, "high": 3e-3, "step_size_epochs": 12}}

TRIAL = TrialConfig("test", Candidate("control"), SplitId(0))


def trial(
    loss: list[float], top1: float, epochs: int, method: str = "control", n_classes: int = 112, auc: float = 0.6
) -> TrialRecord:
    made = make_trial(Plan(), replace(TRIAL, candidate=Candidate(method)))
    points = np.linspace(epochs / len(loss), epochs, len(loss), dtype=np.float32)
    curves = replace(made.curves, epoch=points, epoch_loss=np.array(loss, np.float32), epoch_accuracy=points / epochs)
    metrics = {**made.metrics, "balanced_accuracy": top1, "n_known_classes": n_classes, "auc_weighted": auc}
    return replace(made, metrics=metrics, curves=curves)


def rules(record: TrialRecord, **training: object) -> list[str]:
    epochs = int(record.curves.epoch[-1])
    found = not_converged([record, record], {**TRAINING, "epochs": epochs, **training})
    return [reason.rule for reason in found.reasons] if found else []


# Mean training losses of equally long stretches, and top-1 over classes, of trainings on the fashion titles.
@pytest.mark.parametrize(
    ("losses", "top1", "epochs", "expected"),
    [
        ("0.3800", 0.0089, 1, ["near_chance", "too_short"]),
        ("0.1589", 0.0342, 3, ["too_short"]),
        ("0.1589 0.0305 0.0161 0.0094", 0.456, 12, ["too_short"]),
        ("0.0947 0.0127 0.0052 0.0030", 0.6, 24, []),
        ("0.0537 0.0041 0.0025 0.0014", 0.6, 48, []),
        ("0.0537 0.0041 0.0025 0.0014 0.00099 0.00076 0.00059 0.00059", 0.6, 96, []),
        ("0.1043 0.0652 0.0639 0.0629 0.0625 0.0621 0.0618 0.0615", 0.6, 96, []),
        ("0.0375 0.0118 0.0103 0.0098", 0.6, 96, []),
        ("0.5781 0.1342 0.0532 0.0469 0.0452 0.0442 0.0431 0.0418", 0.0123, 96, ["near_chance"]),
        ("0.6938 0.6931 0.6925 0.6918 0.6911 0.6905 0.6898 0.6891", 0.0089, 96, ["near_chance", "still_falling"]),
    ],
)
def test_real_trainings(losses: str, top1: float, epochs: int, expected: list[str]) -> None:
    assert rules(trial([float(loss) for loss in losses.split()], top1, epochs)) == expected


def test_the_edges_of_the_rules() -> None:
    falling = trial([1.0, 0.75, 0.5, 0.25], 0.6, 96)
    assert rules(falling) == ["still_falling"]
    assert rules(falling, epochs=192) == [], "early stopping ended it"
    assert (
        rules(trial([0.5, 0.1, 0.1], 0.6, 12), learning_rate={"low": 1e-3, "high": 1e-3, "step_size_epochs": 12}) == []
    )
    for n_classes, low, high in ((2, 0.59, 0.61), (10, 0.19, 0.21), (1000, 0.0019, 0.0021)):
        for top1, expected in ((low, ["near_chance"]), (high, [])):
            assert rules(trial([0.5, 0.1, 0.1], top1, 48, n_classes=n_classes)) == expected
    assert rules(trial([0.5, 0.1, 0.1], 1.0, 48, n_classes=1)) == [], "one known class has no other answer"
    rare = trial([0.5, 0.1, 0.1], 0.55, 48, n_classes=2, auc=0.85)
    assert rules(rare) == [], "no confidence in the rare one of two classes exceeds a half, and both are ranked well"
    pretrained = trial([9.0, 8.0, 0.5, 0.1, 0.1, 0.1], 0.6, 96, "contrastive_control")
    pretrained.curves.epoch_accuracy[:2] = np.nan
    assert rules(pretrained, epochs=48) == [], "the contrastive loss is another one"
    assert rules(pretrained, epochs=84, pretraining={"epochs": 12}) == ["too_short"]


def collapsed(directory: Path, method: str, change: Callable[[TrialRecord], TrialRecord] | None = None) -> Path:
    """Write the records of a method again, by default each as of a classifier that answers one class for everything."""
    change = change or guessing
    for path in record_files(directory / "records"):
        records = read_record_file(path, with_items=True)
        if records[0].config.candidate.method == method:
            path.unlink()
            write_records(directory / "records", [change(record) for record in records])
    return directory


def guessing(record: TrialRecord) -> TrialRecord:
    chance = {"balanced_accuracy": 1 / record.metrics["n_known_classes"], "auc_weighted": 0.5}
    return replace(record, metrics={**record.metrics, **chance})


def falling(record: TrialRecord) -> TrialRecord:
    return replace(record, curves=replace(record.curves, epoch_loss=50 - record.curves.epoch))


def test_a_method_that_has_not_converged_is_named_first_and_not_decided(study_of: Make) -> None:
    directory = collapsed(study_of(methods=("control", "e_mixup", "e_stitchup"), alphas=(0.3,)), "e_mixup")
    files, results = write_report(directory), load_study(directory)
    assert list(results.not_converged) == ["e_mixup"]
    said = str(results.not_converged["e_mixup"])
    assert said.startswith("Not converged: e_mixup(alpha=")
    assert "raise `training.epochs`" in said
    page = files.html.read_text(encoding="utf-8")
    assert page.index("Not converged: e_mixup") < page.index("<aside", page.index("<main>") + 40)
    assert '<span class="badge not converged">not converged</span>' in page
    methods = {one["method"]: one for one in json.loads(files.json.read_text(encoding="utf-8"))["methods"]}
    assert {one["decision"] for one in methods["e_mixup"]["against_control"].values()} == {"not converged"}
    assert "not converged" not in {one["decision"] for one in methods["e_stitchup"]["against_control"].values()}
    assert [reason["rule"] for reason in methods["e_mixup"]["not_converged"]] == ["near_chance"]
    assert methods["control"]["not_converged"] == []
    rows = {row["method"]: row["not_converged"] for row in csv.DictReader(files.csv.open(encoding="utf-8"))}
    assert rows == {"control": "", "e_mixup": said, "e_stitchup": ""}
    assert "not converged" in files.latex.read_text(encoding="utf-8")
    table = terminal_table(results)
    decisions = [row[table.headings.index("Decision")] for row in table.rows]
    assert decisions == ["–", "not converged", "–"]
    assert any("e_mixup and control, as e_mixup has not converged: " in text for text in files.findings)


def test_without_a_converged_control_nothing_is_decided(study_of: Make, tmp_path: Path) -> None:
    directory = collapsed(study_of(alphas=(0.3,)), "control")
    files = write_report(directory)
    found = json.loads(files.json.read_text(encoding="utf-8"))["methods"][1]
    assert found["not_converged"] == []
    assert {one["decision"] for one in found["against_control"].values()} == {"not converged"}
    assert "e_mixup and control, as control has not converged: " in files.findings[0]
    other = make_study(
        tmp_path / "other", Plan(methods=("control", "e_mixup"), n_items=300, n_classes=8, alphas=(0.3,))
    )
    comparison = compare([str(other), str(directory)])
    assert {(c.method, str(c.decision) == "not converged") for c in comparison.contrasts} == {
        ("control", True),
        ("e_mixup", False),
    }
    assert "not converged" in {row[-2] for row in comparison_table(comparison).rows}
    assert "Not converged: control." in write_comparison(comparison, tmp_path / "c").html.read_text(encoding="utf-8")


def test_what_has_not_converged_is_not_the_best(study_of: Make) -> None:
    directory = study_of(methods=("control", "e_mixup", "e_stitchup"), alphas=(0.3,))
    best = [row["method"] for row in table_rows(load_study(directory)) if row["best"]]
    assert best == ["e_stitchup"]
    assert find_trial(directory, None, None).config.candidate.method == "e_stitchup"
    collapsed(directory, "e_stitchup", falling)
    assert [row["method"] for row in table_rows(load_study(directory)) if row["best"]] == ["e_mixup"]
    assert find_trial(directory, None, None).config.candidate.method == "e_mixup"
    for method in ("control", "e_mixup"):
        collapsed(directory, method, falling)
    assert not any(row["best"] for row in table_rows(load_study(directory)))
    assert find_trial(directory, None, None).config.candidate.method == "e_stitchup"
    assert "e_mixup and control, as neither has converged: " in write_report(directory).findings[0]


@pytest.mark.parametrize(
    ("training", "n_points", "remedy"),
    [
        ({"epochs": 24}, 1, "1 evaluation in 24 epochs cannot .* of 72 or more and `.*_epochs` of 6 or less"),
        ({"epochs": 96}, 3, r"3 evaluations in 96 epochs cannot .* use `.*evaluate_every_epochs` of 8 or less"),
        ({"epochs": 72}, 11, "11 evaluations .* of 6 or less"),
        ({"epochs": 3, "learning_rate": {"low": 1e-3, "high": 1e-3, "step_size_epochs": 12}}, 3, ".* of 4 or more and"),
    ],
)
def test_what_too_few_evaluations_cannot_tell(training: dict[str, Any], n_points: int, remedy: str) -> None:
    record = trial(np.geomspace(1, 0.01, n_points).tolist(), 0.6, training["epochs"])
    assert rules(record, **training) == []
    (said,) = remarks({"control": [record], "e_mixup": [record]}, {**TRAINING, **training})
    assert re.fullmatch(f"Whether control, e_mixup have converged could not be judged: {remedy}.*", said)
    enough = trial(np.geomspace(1, 0.01, 12).tolist(), 0.6, 96)
    assert not remarks({"control": [enough]}, {**TRAINING, "epochs": 96})
    assert not remarks({"control": [record]}, {**TRAINING, **training, "epochs": 960}), "early stopping judged it"


def test_that_it_could_not_be_judged_is_said_beside_the_decisions(study_of: Make, tmp_path: Path) -> None:
    directory = study_of(training=TRAINING)  # 12 evaluations in two cycles of the learning rate
    files, said = write_report(directory), "Whether control, e_mixup have converged could not be judged: 12 evaluations"
    (remark,) = load_study(directory).convergence
    assert remark.startswith(said)
    assert said in files.html.read_text(encoding="utf-8")
    assert f"% {said}" in files.latex.read_text(encoding="utf-8")
    found = json.loads(files.json.read_text(encoding="utf-8"))["methods"]
    assert all(one["not_judged"].startswith("12 evaluations") for one in found)
    assert all(row["not_judged"] for row in csv.DictReader(files.csv.open(encoding="utf-8")))
    assert "not converged" not in {one["decision"] for one in found[1]["against_control"].values()}
    comparison = compare([str(directory), str(directory)])
    assert said in write_comparison(comparison, tmp_path / "c").html.read_text(encoding="utf-8")


def test_a_server_knows_it_too(study_of: Make, tmp_path: Path) -> None:
    directory = study_of(training={**TRAINING, "epochs": 12})
    collapsed(directory, "control")
    uri = f"sqlite:///{tmp_path / 'mlflow.db'}"
    track(directory, uri)
    there, here = load_runs(uri, "synthetic"), load_study(directory)
    assert there.not_converged == here.not_converged
    assert [reason.rule for reason in there.not_converged["control"].reasons] == ["near_chance", "too_short"]
    page = write_server_report(there, tmp_path / "page").html.read_text(encoding="utf-8")
    assert "Not converged: control." in page
    loss = [record.curves.epoch_loss.tolist() for record in there.reported_records["e_mixup"]]
    assert loss == [record.curves.epoch_loss.tolist() for record in here.reported_records["e_mixup"]]
