"""Models for use from a study of nested selection: choices on inner splits, sets of labels, verification."""

import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import mlflow.pyfunc
import numpy as np
import pytest
import yaml
from click.testing import CliRunner

from analysis.results.load import load_study
from study.cli.app import study
from study.errors import RunError
from study.model.choose import calibration_split, choose
from study.model.classifier import load_classifier
from study.model.export import train_best
from study.model.retrain import find_trial, open_study
from tests.study_tests.conftest import Command
from trainables.packs.pack import PackContext
from trainables.packs.single import score_within
from trainables.records.types import Candidate, Design, SplitId
from trainables.training.protocol import LaneResult, TrainingError


@pytest.mark.parametrize("split", ["1", "1/0", "0/1"])
@pytest.mark.parametrize("cell", ["control", "e_mixup"])
def test_a_trial_of_nested_selection_is_verified(nested: Path, cell: str, split: str) -> None:
    done = CliRunner().invoke(study, ["verify", cell, "--split", split, "-c", str(nested)])
    assert done.exit_code == 0, done.output
    phase = "search" if "/" in split else "test"
    assert f"on {phase} split {split} agrees, to the bit: 0 of" in " ".join(done.output.split())


def test_what_names_no_split_is_refused(nested: Path, command: Command) -> None:
    code, _, said = command("verify", "control", "--split", "1/x", "-c", str(nested))
    assert (code, "must be a split as in 3, or an inner split as in 3/0, got '1/x'" in said) == (2, True), said
    with pytest.raises(RunError, match=r"recorded split of control \(0, 1, 0/0, 0/1, 1/0, 1/1\), got 0/7"):
        find_trial(nested.parent / "out", "control", SplitId(0, 7))


def test_a_model_for_use_is_chosen_on_inner_splits_of_all_items(nested: Path, tmp_path: Path) -> None:
    done = CliRunner().invoke(study, ["export", "e_mixup", "-c", str(nested), "-o", str(tmp_path / "model")])
    assert done.exit_code == 0, done.output
    opened, every = open_study(nested.parent / "out"), np.arange(240)
    (choices,) = (one.choices for one in load_study(nested.parent / "out").methods if one.method == "e_mixup")
    tried = sorted(set(choices.values()))
    found = {one: [score_within(opened.context, one, 0, every, inner).metrics for inner in (0, 1)] for one in tried}
    means = {one: float(np.mean([metrics["auc_weighted"] for metrics in own])) for one, own in found.items()}
    best = max(tried, key=lambda one: means[one])
    model = load_classifier(tmp_path / "model")
    assert model.trained["candidate"] == {"method": "e_mixup", "params": dict(best.params)}
    assert model.trained["chosen"]["n_inner_splits"] == 2
    scores = {one["params"]["alpha"]: one["score"] for one in model.trained["chosen"]["tried"]}
    assert scores == pytest.approx({dict(one.params)["alpha"]: mean for one, mean in means.items()})
    assert (model.trained["items"], model.trained["n_train"], len(model.classes)) == ("all 240", 240, 15)
    threshold, temperature = (
        float(np.median([metrics[name] for metrics in found[best]]))
        for name in ("threshold_logit_chosen", "temperature")
    )
    assert (model.threshold_logit, model.temperature) == (threshold, temperature)
    assert model.threshold == pytest.approx(1 / (1 + np.exp(-threshold / temperature)))
    metadata = yaml.safe_load((tmp_path / "model/MLmodel").read_text())["metadata"]
    assert (metadata["threshold"], metadata["temperature"]) == pytest.approx((model.threshold, temperature))
    said = f"{best}, trained on all 240 items; "
    assert metadata["trained"].startswith(said)
    assert f"on 2 inner splits of them (auc_weighted there: {tried[0]} {means[tried[0]]:.4f}" in metadata["trained"]
    assert said in done.stdout
    n = 2 * len(tried) + 1
    assert f"Training 1 of {n}: {tried[0]} on inner split 0\n" in done.stderr
    assert f"Training {n} of {n}: {best} on all 240 items\n" in done.stderr
    predicted = mlflow.pyfunc.load_model(str(tmp_path / "model")).predict(opened.embeddings.matrix)
    confidence = 1 / (1 + np.exp(-predicted["logit"] / temperature))
    assert predicted["confidence"].to_numpy() == pytest.approx(confidence.to_numpy())
    assert ((predicted["class"] != "none") == (predicted["confidence"] > model.threshold)).all()


def test_a_split_of_nested_selection_is_exported_with_what_it_chose(nested: Path) -> None:
    root = nested.parent / "out"
    record = find_trial(root, "control", SplitId(1))
    assert record.items is not None
    trained = train_best(root, "control", 1)
    assert trained.summary.startswith("control on test split 1, trained on its ")
    assert trained.classifier.temperature == record.calibration.temperature
    assert trained.classifier.threshold_logit == record.calibration.threshold
    said = trained.classifier.predict(open_study(root).embeddings.matrix[record.items.item])
    confidence = record.items.scaled_confidence(record.calibration.temperature)
    assert said["confidence"].to_numpy() == pytest.approx(confidence, abs=1e-5)


def test_a_candidate_chooses_only_its_threshold(nested: Path) -> None:
    said: list[str] = []
    trained = train_best(nested.parent / "out", "e_mixup(alpha=0.2)", say=said.append)
    assert "; threshold and temperature chosen on 2 inner splits of them" in trained.summary
    assert len(said) == 3


def test_an_exported_model_predicts_sets_of_labels(nested: Path, tmp_path: Path) -> None:
    arguments = ["export", "control", "-c", str(nested), "-o", str(tmp_path / "model"), "--error-rate", "0.2"]
    done = CliRunner().invoke(study, arguments)
    assert done.exit_code == 0, done.output
    assert "control, trained on 192 of all 240 items; " in done.stdout
    assert "sets of labels at an error rate of 0.2, calibrated on 48 other items" in done.stdout
    opened, model = open_study(nested.parent / "out"), load_classifier(tmp_path / "model")
    split = calibration_split(opened.context, 0)
    assert not np.isin(split.validation, split.train).any()
    names = np.array(opened.description.data.class_names)[opened.context.labels[split.validation]]
    is_known = np.isin(names, model.classes)
    loaded = mlflow.pyfunc.load_model(str(tmp_path / "model"))
    x, n = opened.embeddings.matrix[split.validation][is_known], int(is_known.sum())
    for rate, params in ((0.2, None), (0.4, {"error_rate": 0.4})):
        said = loaded.predict(x, params=params)
        covered = np.mean([own in found for own, found in zip(names[is_known], said["set"], strict=True)])
        # Of the calibration items themselves, all but the k - 1 lowest reach the limit.
        assert covered == pytest.approx(1 - (np.floor((n + 1) * rate) - 1) / n, abs=1e-9)
        assert said["p_known"].between(1 / (n + 1), 1).all()
    assert model.conformal is not None
    assert len(model.conformal.own) == n
    outputs = [column.name for column in loaded.metadata.get_output_schema().inputs]
    assert outputs == ["class", "confidence", "logit", "most_probable", "set", "p_known"]


def test_official_splits_and_groups_calibrate_on_a_fifth_of_all_items(nested: Path) -> None:
    context = open_study(nested.parent / "out").context
    groups = np.arange(240) // 4
    roles = np.where(np.arange(240) < 120, "train", "test")
    items = replace(context.items, groups=groups, roles=roles)
    official = replace(context, items=items, rules=replace(context.rules, design=Design.OFFICIAL))
    split = calibration_split(official, 0)
    assert not np.isin(groups[split.validation], groups[split.train]).any()
    assert set(roles[split.validation]) == {"train", "test"}
    assert len(split.validation) == pytest.approx(48, abs=4)


def test_a_second_model_is_said_to_replace_the_first(nested: Path, tmp_path: Path) -> None:
    arguments = ["export", "control", "-c", str(nested), "-o", str(tmp_path / "model")]
    first, second = (CliRunner().invoke(study, arguments).stdout for _ in range(2))
    assert "in place of an earlier model" not in first
    assert f"{tmp_path / 'model'}, in place of an earlier model\n" in second


def test_a_candidate_that_gives_no_result_is_left_out(nested: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(context: PackContext, candidate: Candidate, *rest: Any) -> LaneResult:
        if candidate in failing:
            raise TrainingError("The trial gives no result: the loss was not finite.")
        return score_within(context, candidate, *rest)

    monkeypatch.setattr("study.model.choose.score_within", fails)
    opened, said = open_study(nested.parent / "out"), list[str]()
    both = [Candidate("e_mixup", (("alpha", alpha),)) for alpha in (0.1, 0.2)]
    failing = both[:1]
    choice = choose(opened, both, np.arange(240), said.append)
    assert (choice.candidate, list(choice.tried)) == (both[1], both[1:])
    assert "e_mixup(alpha=0.1) is left out: The trial gives no result: the loss was not finite." in said
    failing = both
    with pytest.raises(TrainingError, match="gives no result"):
        choose(opened, both, np.arange(240), said.append)


def test_a_table_is_ranked_by_a_model_trained_for_it(nested: Path, tmp_path: Path) -> None:
    model = nested.parent / "out/model"
    try:
        assert CliRunner().invoke(study, ["export", "control", "-c", str(nested)]).exit_code == 0
        table = str(nested.parent / "table.csv")
        done = CliRunner().invoke(study, ["label", table, "-c", str(nested), "-o", str(tmp_path / "out")])
    finally:
        shutil.rmtree(model)
    assert done.exit_code == 0, done.output
    assert f"the model in {model} is not used" in done.stderr
    assert "chosen on 2 inner splits of them" in done.stdout
    assert (tmp_path / "out/label.csv").read_text().count("\n") == 241


@pytest.mark.parametrize("given", [["--error-rate", "1.5"], ["--error-rate", "0.1", "--split", "0"]])
def test_an_error_rate_that_cannot_be(nested: Path, command: Command, given: list[str]) -> None:
    code, _, said = command("export", "control", "-c", str(nested), *given)
    assert (code, "--error-rate" in said) == (2, True), said
