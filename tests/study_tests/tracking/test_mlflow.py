"""Tracking against a real server: what happens to the server leaves no trace in what is tracked."""

import dataclasses
import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from mlflow.tracking import MlflowClient

from analysis.results.aggregate import CandidateSummary, spread
from analysis.results.load import ReportError
from analysis.results.mlflow import artifacts_of, load_runs, search_runs
from analysis.results.mlflow_schema import KEY_TAG, config_of, is_trial, runs_of
from study.errors import TrackingError
from study.state.results import StudyOutcome
from study.tracking.background import BackgroundTracker
from study.tracking.mlflow import StudyFacts, Tracker, check_server
from tests.study_tests.conftest import free_port
from trainables.records.types import SEARCH, TEST, Candidate, Curves, SplitId, TrialConfig, TrialRecord


class Server:
    """An `mlflow server` of its own process group."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.port = free_port()
        self.uri = f"http://127.0.0.1:{self.port}"
        self.process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1", "--port", str(self.port),
             "--workers", "1",
             "--backend-store-uri", f"sqlite:///{self.directory}/server.db",
             "--artifacts-destination", str(self.directory / "server-artifacts")],
            cwd=self.directory,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )  # fmt: skip
        deadline = time.monotonic() + 300
        while time.monotonic() < deadline:
            try:
                urllib.request.urlopen(f"{self.uri}/health", timeout=60)
                return
            except OSError:
                time.sleep(0.1)
        raise TimeoutError("mlflow server does not answer")

    def kill(self) -> None:
        if self.process is not None:
            os.killpg(self.process.pid, signal.SIGKILL)
            self.process.wait()
            self.process = None


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Server]:
    made = Server(tmp_path)
    yield made
    made.kill()


def record(split: int, alpha: float, method: str = "e_mixup") -> TrialRecord:
    curves = {field.name: np.linspace(0.1, 0.9, 5, dtype=np.float32) for field in dataclasses.fields(Curves)}
    curves["epoch"] = np.arange(1, 6, dtype=np.float32)
    curves["epoch_cka"] = np.linspace(0, 1, 10, dtype=np.float32).reshape(5, 2)
    curves["epoch_cka"][3:] = np.nan
    return TrialRecord(
        TrialConfig(TEST, Candidate.of(method, {"alpha": alpha}), SplitId(split)),
        {"auc_weighted": 0.9 + split / 100, "undefined": float("nan"), "cka_0": float(curves["epoch_cka"][2, 0])},
        Curves(**curves),
        None,
        1.7e9 + split,
        2.0,
        {"hardware": "cpu"},
    )


RECORDS = [record(split, alpha) for alpha in (0.1, 0.2, 0.3, 0.4) for split in range(3)]


def facts(folder: Path) -> StudyFacts:
    (folder / "study.json").write_text("{}")
    return StudyFacts(
        name="small",
        key="small/abc",
        params={"training.epochs": 5},
        made_by={"git_commit": "f00"},
        table=str(folder / "table.csv"),
        n_items=240,
        data_digest="d1",
        description=folder / "study.json",
    )


@pytest.fixture
def connect(tmp_path: Path) -> Callable[[str], Tracker]:
    return lambda uri: Tracker(uri, "small", facts(tmp_path))


def state(uri: str) -> pd.DataFrame:
    """All that a server holds of the study, by key, without its own ids."""
    client = MlflowClient(uri)
    experiment = client.get_experiment_by_name("small")
    runs = client.search_runs([experiment.experiment_id], max_results=1000)
    names = {run.info.run_id: run.data.tags[KEY_TAG] for run in runs}
    rows = []
    for run in runs:
        curve = client.get_metric_history(run.info.run_id, "curve_accuracy")
        rows.append(
            {
                "key": run.data.tags[KEY_TAG],
                "parent": names.get(run.data.tags.get("mlflow.parentRunId", "")),
                "status": run.info.status,
                "params": run.data.params,
                "metrics": run.data.metrics,
                "curve": [(point.step, point.value, point.timestamp) for point in curve],
                "hardware": run.data.tags.get("ablation.hardware"),
            }
        )
    return pd.DataFrame(rows).sort_values("key", ignore_index=True)


def n_finished(uri: str) -> int:
    client = MlflowClient(uri)
    if (experiment := client.get_experiment_by_name("small")) is None:
        return 0
    runs = client.search_runs([experiment.experiment_id], "attributes.status = 'FINISHED' and metrics.duration_s > 0")
    return len(runs)


def wait_for(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 300
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.1)


def test_what_cannot_be_stored_is_told(connect: Callable[[str], Tracker], tmp_path: Path) -> None:
    """Such as where a server's artifacts belong in a folder that this machine cannot write to."""
    (tmp_path / "mlartifacts").write_text("in the way")
    said: list[str] = []
    uri = f"sqlite:///{tmp_path}/mlflow.db"
    tracker = BackgroundTracker(lambda: connect(uri), lambda: RECORDS, said.append, retry_s=60)
    with pytest.raises(TrackingError, match=r"answers but could not store the data .*artifact store.*study sync"):
        tracker.close()
    assert len(said) == 1

    def unreadable() -> list[TrialRecord]:
        raise ValueError("a record is damaged")

    (tmp_path / "mlartifacts").unlink()
    tracker = BackgroundTracker(lambda: connect(uri), unreadable, said.append, retry_s=60)
    with pytest.raises(
        TrackingError, match=r"not be written to MLflow \(ValueError: a record is damaged\).*study sync"
    ):
        tracker.close()


def test_a_study_run_that_was_only_begun_is_completed(connect: Callable[[str], Tracker], tmp_path: Path) -> None:
    uri = f"sqlite:///{tmp_path}/mlflow.db"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Tracker, "_log", None)
        with pytest.raises(TrackingError):
            connect(uri)
    run = MlflowClient(uri).get_run(connect(uri).study_run)
    assert run.data.params
    assert len(run.inputs.dataset_inputs) == 1
    assert len(state(uri)) == 1


def test_runs_of_a_methods_other_code_are_not_the_studys(tmp_path: Path) -> None:
    """They stay on the server, and what the new code gives is written beside them."""
    uri = f"sqlite:///{tmp_path}/mlflow.db"

    def written(code: str, auc: float) -> int:
        made_by = {"method": "e_mixup", "method_code": code}
        records = [dataclasses.replace(one, metrics={"auc_weighted": auc}, provenance=made_by) for one in RECORDS[:2]]
        about = dataclasses.replace(facts(tmp_path), method_code={"e_mixup": code, "control": "version 1"})
        return Tracker(uri, "small", about).write(records)

    assert [written("source a", 0.9), written("source a", 0.9), written("source b", 0.8)] == [2, 0, 2]
    client = MlflowClient(uri)
    runs = list(search_runs(client, [client.get_experiment_by_name("small").experiment_id], runs_of("small")))
    assert sorted(run.data.metrics.get("auc_weighted", 0) for run in runs) == [0, 0, 0.8, 0.8]
    assert len(state(uri)) == 7, "a study, two candidates, four trials"


def test_a_trials_coordinates_are_read_back_from_its_run(connect: Callable[[str], Tracker], tmp_path: Path) -> None:
    places = [(SEARCH, SplitId(10, 0)), (SEARCH, SplitId(10, 1)), (TEST, SplitId(10)), (TEST, SplitId(11))]
    trials = [TrialConfig(phase, Candidate.of("e_mixup", {"alpha": 0.1 + 0.2}), split) for phase, split in places]
    trials += [TrialConfig(phase, Candidate("control"), split) for phase, split in places]
    uri = f"sqlite:///{tmp_path}/mlflow.db"
    assert connect(uri).write([dataclasses.replace(RECORDS[0], config=trial) for trial in trials]) == len(trials)
    params = {key: params for key, params in zip(*(state(uri)[name] for name in ("key", "params")), strict=True)}
    assert {key for key in params if key.endswith(("/10/0", "/10/1", "/10", "/11"))} == {
        key for key, found in params.items() if is_trial(found)
    }
    assert sorted(config_of(found) for found in params.values() if is_trial(found)) == sorted(trials)
    found = params["small/abc/search/e_mixup(alpha=0.30000000000000004)/10/1"]
    assert (found["phase"], found["split"]) == ("search", "10/1")
    assert len(params) == 1 + 4 + 8, "a study; each candidate in each phase; each trial"


def test_a_server_that_is_killed_in_the_middle(
    server: Server, connect: Callable[[str], Tracker], tmp_path: Path
) -> None:
    recorded: list[TrialRecord] = []

    def record_and_write(records: list[TrialRecord]) -> None:
        recorded.extend(records)  # on disk first, then told
        tracker.write(records)

    said: list[str] = []
    tracker = BackgroundTracker(lambda: connect(server.uri), lambda: list(recorded), said.append, retry_s=0.2)
    record_and_write(RECORDS[:4])
    wait_for(lambda: len(said) == 1)  # away at the start
    server.start()
    wait_for(lambda: n_finished(server.uri) == 4)
    server.kill()
    record_and_write(RECORDS[4:6])
    record_and_write(RECORDS[6:8])
    wait_for(lambda: len(said) == 2)
    server.start()
    wait_for(lambda: n_finished(server.uri) == 8)  # by itself, before the study ends
    record_and_write(RECORDS[8:])
    tracker.close()
    assert len(said) == 2, "once each time that it was away, however often it was asked"
    assert all("does not answer" in line for line in said)

    before = state(server.uri)
    assert len(before) == 1 + 4 + 12
    assert before["key"].is_unique
    assert set(before[before["key"] != "small/abc"]["status"]) == {"FINISHED"}
    trial = before[before["key"] == "small/abc/test/e_mixup(alpha=0.2)/1"].iloc[0]
    assert trial["parent"] == "small/abc/test/e_mixup(alpha=0.2)"
    assert trial["metrics"]["auc_weighted"] == 0.91
    assert [step for step, _, _ in trial["curve"]] == [1, 2, 3, 4, 5]
    assert trial["hardware"] == "cpu"

    empty = f"sqlite:///{tmp_path}/mlflow.db"  # into it, everything is written again, to the timestamp
    rebuilt = connect(empty)
    assert rebuilt.write(RECORDS) == 12
    pd.testing.assert_frame_equal(state(empty), before)
    assert rebuilt.write(RECORDS) == 0
    report = tmp_path / "report"
    report.mkdir()
    (report / "report.html").write_text("<p>")
    best = Candidate.of("e_mixup", {"alpha": 0.2})
    summary = CandidateSummary(
        best, TEST, tuple(map(SplitId, range(3))), (), {"auc_weighted": spread([0.90, 0.91, 0.92])}, 2.0
    )
    outcome = StudyOutcome({"auc_weighted.e_mixup": 0.91}, (summary,), True)
    for _ in range(2):  # told twice, it is there once
        rebuilt.finish(outcome, {"report": report, "unfinished/failed": tmp_path / "none"})
    client = MlflowClient(empty)
    run = client.search_runs(["1"], "tags.`ablation.key` = 'small/abc'")[0]
    assert run.info.status == "FINISHED"
    assert run.data.metrics == {"auc_weighted.e_mixup": 0.91}
    candidate = client.search_runs(["1"], "tags.`ablation.key` = 'small/abc/test/e_mixup(alpha=0.2)'")[0]
    assert candidate.data.metrics == pytest.approx(
        {"n_splits": 3, "auc_weighted": 0.91, "auc_weighted_max_deviation": 0.01}
    )
    assert len(client.get_metric_history(candidate.info.run_id, "auc_weighted")) == 1
    assert run.data.tags["ablation.git_commit"] == "f00"
    (dataset,) = run.inputs.dataset_inputs
    assert (dataset.dataset.name, dataset.dataset.digest) == ("table.csv", "d1")
    assert {found.path for found in client.list_artifacts(run.info.run_id)} == {"report", "study.json"}


def test_a_server_that_never_comes_delays_nothing(connect: Callable[[str], Tracker]) -> None:
    n_asked = 0

    def ask() -> Tracker:
        nonlocal n_asked
        n_asked += 1
        return connect("http://127.0.0.1:9")

    # An hour until the server is asked again, which nobody waits for at the end.
    tracker = BackgroundTracker(ask, lambda: RECORDS, lambda _: None, retry_s=3600)
    tracker.write(RECORDS)
    with pytest.raises(TrackingError, match="`study sync` writes what is missing"):
        tracker.close()
    assert n_asked <= 2, "when the study begins, and when it ends"


def test_nobody_waits_for_a_server_that_hangs(connect: Callable[[str], Tracker], tmp_path: Path) -> None:
    uri = f"sqlite:///{tmp_path}/mlflow.db"
    answers = threading.Event()

    def hang() -> Tracker:
        answers.wait(300)
        return connect(uri)

    recorded: list[TrialRecord] = []
    tracker = BackgroundTracker(hang, lambda: list(recorded), lambda _: None)
    for one in RECORDS[:2]:
        recorded.append(one)
        tracker.write([one])  # returns, though the server does not answer yet
    answers.set()
    tracker.close()
    assert n_finished(uri) == 2


@pytest.fixture
def dripping() -> Iterator[str]:
    """The address of a server that begins every answer at once, and then sends a byte now and then for ever."""
    ended = threading.Event()

    def answer(connection: socket.socket) -> None:
        with connection, suppress(OSError):
            connection.recv(65536)
            connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 999999\r\n\r\n{")
            while not ended.wait(0.2):
                connection.sendall(b" ")

    def serve() -> None:
        with suppress(OSError):
            while True:
                threading.Thread(target=answer, args=listening.accept()[:1], daemon=True).start()

    with socket.create_server(("127.0.0.1", 0)) as listening:
        threading.Thread(target=serve, daemon=True).start()
        yield f"http://127.0.0.1:{listening.getsockname()[1]}"
        ended.set()
        listening.shutdown(socket.SHUT_RDWR)


def test_nobody_waits_for_a_server_that_drips(dripping: str, connect: Callable[[str], Tracker]) -> None:
    said: list[str] = []
    tracker = BackgroundTracker(lambda: connect(dripping), lambda: RECORDS, said.append, limit_s=1)
    with pytest.raises(TrackingError, match=r"not stored everything within 1 s; .*Nothing is lost.*`study sync`"):
        tracker.close()
    assert said == []
    with pytest.raises(TrackingError, match="no end within 1 s"):
        check_server(dripping, limit_s=1)
    with pytest.raises(ReportError, match=r"does not answer \(no end within 1 s\)"):
        load_runs(dripping, "small", limit_s=1)


def test_the_end_of_the_process_does_not_wait_for_it_either(dripping: str) -> None:
    code = f"from study.tracking.mlflow import check_server; check_server({dripping!r}, limit_s=1)"
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, timeout=300)
    assert "no end within 1 s" in ended.stderr


def test_the_artifacts_of_a_run_need_no_threads_that_the_end_of_the_process_waits_for(tmp_path: Path) -> None:
    uri = f"sqlite:///{tmp_path}/mlflow.db"
    run = MlflowClient(uri).get_run(Tracker(uri, "small", facts(tmp_path)).study_run)
    before = set(threading.enumerate())
    (tmp_path / "download").mkdir()
    assert Path(artifacts_of(run, uri).download_artifacts("", str(tmp_path / "download"))).is_dir()
    assert (tmp_path / "download" / "study.json").exists()
    assert set(threading.enumerate()) <= before


def test_the_thread_ends_where_the_study_gives_up(connect: Callable[[str], Tracker], tmp_path: Path) -> None:
    answers = threading.Event()

    def slow() -> Tracker:
        answers.wait(300)
        return connect(f"sqlite:///{tmp_path}/mlflow.db")

    before = set(threading.enumerate())
    tracker = BackgroundTracker(slow, lambda: RECORDS, lambda _: None)
    tracker.give_up()
    answers.set()
    wait_for(lambda: set(threading.enumerate()) <= before)
    assert n_finished(f"sqlite:///{tmp_path}/mlflow.db") == 0


def files_of(folder: Path) -> dict[Path, bytes]:
    return {path.relative_to(folder): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.mark.parametrize("how", [shutil.copytree, shutil.move])
def test_artifacts_follow_their_database(tmp_path: Path, how: Callable[[Path, Path], object]) -> None:
    def track(folder: Path, records: list[TrialRecord], said: str) -> str:
        (folder / "report").mkdir(exist_ok=True)
        (folder / "report" / "report.html").write_text(said)
        tracker = Tracker(f"sqlite:///{folder}/mlflow.db", "small", facts(folder))
        tracker.write(records)
        tracker.finish(StudyOutcome({}, (), True), {"report": folder / "report"})
        return tracker.study_run

    first, second = tmp_path / "my study's first", tmp_path / "second"
    first.mkdir()
    run = track(first, RECORDS[:2], "of the first")
    before = files_of(first)
    how(first, second)
    assert track(second, RECORDS[:4], "of the second") == run
    assert (files_of(first) if first.exists() else before) == before
    assert first.exists() == (how is shutil.copytree)

    client = MlflowClient(f"sqlite:///{second}/mlflow.db")
    place = (second / "mlartifacts").as_uri()
    assert client.get_experiment_by_name("small").artifact_location == place
    runs = client.search_runs(["1"])
    assert len(runs) == 1 + 2 + 4
    assert all(one.info.artifact_uri == f"{place}/{one.info.run_id}/artifacts" for one in runs)
    (tmp_path / "download").mkdir()
    assert {found.path for found in client.list_artifacts(run)} == {"report", "study.json"}
    got = client.download_artifacts(run, "report/report.html", str(tmp_path / "download"))
    assert Path(got).read_text() == "of the second"
    assert (second / "mlartifacts" / run / "artifacts" / "report" / "report.html").read_text() == "of the second"


def test_the_place_of_an_experiment_that_a_user_made_is_left_alone(tmp_path: Path) -> None:
    facts(tmp_path)
    Tracker(f"sqlite:///{tmp_path}/mlflow.db", "small", facts(tmp_path))
    place = (tmp_path / "elsewhere").as_uri()
    MlflowClient(f"sqlite:///{tmp_path}/mlflow.db").create_experiment("theirs", place)
    tracker = Tracker(f"sqlite:///{tmp_path}/mlflow.db", "theirs", facts(tmp_path))
    assert (tmp_path / "elsewhere" / tracker.study_run / "artifacts" / "study.json").exists()


def test_a_link_to_a_database_moves_no_artifacts(tmp_path: Path) -> None:
    for name in ("real", "linked"):
        (tmp_path / name).mkdir()
    Tracker(f"sqlite:///{tmp_path}/real/mlflow.db", "small", facts(tmp_path))
    (tmp_path / "linked" / "mlflow.db").symlink_to(tmp_path / "real" / "mlflow.db")
    Tracker(f"sqlite:///{tmp_path}/linked/mlflow.db", "small", facts(tmp_path))
    found = MlflowClient(f"sqlite:///{tmp_path}/real/mlflow.db").get_experiment_by_name("small")
    assert found.artifact_location == (tmp_path / "real" / "mlartifacts").as_uri()
    assert not (tmp_path / "linked" / "mlartifacts").exists()


def test_layers_are_followed_where_nothing_is_augmented(tmp_path: Path, connect: Callable[[str], Tracker]) -> None:
    uri = f"sqlite:///{tmp_path}/mlflow.db"
    connect(uri).write([record(0, 0.1), record(0, 0.1, "contrastive_control")])
    client = MlflowClient(uri)
    runs = {run.data.params["method"]: run for run in client.search_runs(["1"], "metrics.duration_s > 0")}
    history = {
        method: client.get_metric_history(runs[method].info.run_id, "cka_0")
        for method in ("e_mixup", "contrastive_control")
    }
    assert [point.step for point in history["contrastive_control"]] == [1, 2, 3]
    assert [point.step for point in history["e_mixup"]] == [0]
    assert [points[-1].value for points in history.values()] == pytest.approx([4 / 9, 4 / 9])
