"""A report from an MLflow server alone: a real database, a real server, and no records."""

from __future__ import annotations

import json
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from analysis.report.tables import terminal_table
from analysis.report.write import write_server_report
from analysis.results.load import ReportError, load_study
from analysis.results.mlflow import load_runs
from study.state.results import outcome
from study.tracking.mlflow import StudyFacts, Tracker
from trainables.records.failures import FAILED, STOPPED, Stop, write_stop
from trainables.records.parquet import read_records
from trainables.records.types import SplitId

Make = Callable[..., Path]


def track(directory: Path, uri: str, digest: str = "aa11") -> None:
    """Writes a study's records to a server, as the study does."""
    facts = StudyFacts("synthetic", f"synthetic/{digest}", {}, {}, "table.csv", 0, digest, directory / "study.json")
    tracker = Tracker(uri, "synthetic", facts)
    tracker.write(read_records(directory / "records"))
    unfinished = {f"unfinished/{name}": directory / "records" / name for name in (FAILED, STOPPED)}
    tracker.finish(outcome(load_study(directory)), unfinished)


@pytest.fixture(scope="module")
def database(whole_study: Path, tmp_path_factory: pytest.TempPathFactory) -> str:
    """A database that holds the finished study; not to be written to."""
    uri = f"sqlite:///{tmp_path_factory.mktemp('tracking') / 'mlflow.db'}"
    track(whole_study, uri)
    return uri


@pytest.fixture
def server(tmp_path: Path) -> Iterator[str]:
    """An empty MLflow server on the loopback address."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1", "--port", str(port), "--workers", "1"]
    places = ["--backend-store-uri", f"sqlite:///{tmp_path / 'server.db'}", "--artifacts-destination", str(tmp_path)]
    with (tmp_path / "server.log").open("w") as log:
        process = subprocess.Popen([*command, *places], stdout=log, stderr=log, cwd=tmp_path)
    address = f"http://127.0.0.1:{port}"
    try:
        for _ in range(3000):
            try:
                urllib.request.urlopen(f"{address}/health", timeout=60).close()
                break
            except OSError:
                assert process.poll() is None, (tmp_path / "server.log").read_text()
                time.sleep(0.1)
        yield address
    finally:
        process.terminate()
        process.wait(300)


def test_the_table_is_that_of_the_records(database: str, whole_study: Path) -> None:
    study = load_runs(database, "synthetic")
    assert terminal_table(study) == terminal_table(load_study(whole_study))
    assert study.description == load_study(whole_study).description
    assert study.records[0].provenance == {"digest_settings": "aa11", "digest_embeddings": "bb22"}


def test_the_report_holds_what_the_server_does_and_says_what_it_lacks(database: str, tmp_path: Path) -> None:
    files = write_server_report(load_runs(database, "synthetic"), tmp_path)
    names = {path.stem for path in files.figures}
    assert names == {"learning-accuracy", "learning-none-accuracy", "response-alpha", "budget"}
    page = files.html.read_text(encoding="utf-8")
    assert "no results per item" in page
    assert "Findings" not in page
    method = json.loads(files.json.read_text(encoding="utf-8"))["methods"][1]
    assert method["figures"]["auc_weighted"]["maximum_deviation"] > 0
    assert method["against_control"] == {}


def test_a_server_is_enough(study_of: Make, server: str, tmp_path: Path) -> None:
    directory = study_of()
    track(directory, server)
    expected = terminal_table(load_study(directory))
    for path in (directory / "records").iterdir():
        path.unlink()
    study = load_runs(server, "synthetic/aa11")
    assert terminal_table(study) == expected
    assert (tmp_path / "page" / "report.html") == write_server_report(study, tmp_path / "page").html


def test_a_server_knows_what_each_split_chose(study_of: Make, tmp_path: Path) -> None:
    directory = study_of(selection="nested", n_inner=2)
    uri = f"sqlite:///{tmp_path / 'mlflow.db'}"
    track(directory, uri)
    found, expected = load_runs(uri, "synthetic"), load_study(directory)
    assert found.choices == expected.choices
    assert terminal_table(found) == terminal_table(expected)


def test_a_candidate_that_the_search_gave_up_is_not_missing(study_of: Make, tmp_path: Path) -> None:
    directory = study_of(skip=lambda c: (dict(c.candidate.params).get("alpha"), c.split.seed) == (0.4, 2))
    candidates = {record.config.candidate for record in read_records(directory / "records")}
    for candidate in candidates:
        if dict(candidate.params).get("alpha") == 0.4:
            write_stop(
                directory / "records",
                Stop("test", candidate, (SplitId(2),), "racing", "auc_weighted", 0.81, 10, 40),
                "aa11",
                {},
            )
    uri = f"sqlite:///{tmp_path / 'mlflow.db'}"
    track(directory, uri)
    found, expected = load_runs(uri, "synthetic"), load_study(directory)
    assert found.stops == expected.stops != ()
    assert found.missing == expected.missing == []


def test_two_studies_of_one_name_are_told_apart(study_of: Make, tmp_path: Path) -> None:
    directory = study_of(methods=("control",), n_splits=1)
    uri = f"sqlite:///{tmp_path / 'mlflow.db'}"
    for digest in ("aa11", "cc33"):
        track(directory, uri, digest)
    with pytest.raises(ReportError, match=r"names 2 with other settings or data: synthetic/aa11 .*synthetic/cc33"):
        load_runs(uri, "synthetic")
    assert len(load_runs(uri, "synthetic/aa11").records) == 1


def test_what_a_server_lacks_is_named(database: str, tmp_path: Path) -> None:
    with pytest.raises(ReportError, match=r"has no study 'other'. Its experiments: synthetic"):
        load_runs(database, "other")
    with pytest.raises(ReportError, match="names a database that does not exist"):
        load_runs(f"sqlite:///{tmp_path / 'none.db'}", "synthetic")
    with pytest.raises(ReportError, match=r"does not answer .*Correct the address, or start the server"):
        load_runs("http://127.0.0.1:9", "synthetic")
    (tmp_path / "damaged.db").write_bytes(b"x" * 5000)
    with pytest.raises(ReportError, match=r"does not answer \(file is not a database\)"):
        load_runs(f"sqlite:///{tmp_path / 'damaged.db'}", "synthetic")


def test_a_database_that_was_moved_is_read_from_its_new_place(study_of: Make, tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    directory = study_of(methods=("control",), n_splits=1)
    track(directory, f"sqlite:///{tmp_path}/a/mlflow.db")
    (tmp_path / "a").rename(tmp_path / "b")
    assert len(load_runs(f"sqlite:///{tmp_path}/b/mlflow.db", "synthetic").records) == 1
    assert not (tmp_path / "a").exists()


def test_a_study_run_without_its_description(study_of: Make, tmp_path: Path) -> None:
    uri = f"sqlite:///{tmp_path / 'mlflow.db'}"
    directory = study_of(methods=("control",), n_splits=1)
    track(directory, uri)
    (written,) = tmp_path.glob("mlartifacts/*/artifacts/study.json")
    written.unlink()
    with pytest.raises(ReportError, match=r"The artifact study.json .* is not available.*`study sync`"):
        load_runs(uri, "synthetic")
