"""A study on a cluster: submitted as a job, followed, queried, stopped; and who may do that."""

import functools
import os
import re
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml

from study.cluster.jobs import refuse_open_cluster
from study.cluster.report_transfer import pack_report, unpack_report
from study.config.load import load_spec
from study.errors import ClusterError, SpecError, TransferError
from tests.study_tests.cluster.ray_head import Head, running_head
from tests.study_tests.conftest import settings, write_table
from trainables.records.description import read_description

Done = subprocess.CompletedProcess[str]

Study = Callable[..., Done]


@pytest.fixture(scope="module")
def head() -> Iterator[Head]:
    """One head for all of these tests."""
    with tempfile.TemporaryDirectory(prefix="rh", dir="/tmp") as folder, running_head(Path(folder)) as started:
        yield started


def run_as(head: Head, folder: Path, *arguments: str, **variables: str) -> subprocess.CompletedProcess[str]:
    """Run the `study` command in a folder with the cluster's token, or with other variables."""
    return subprocess.run(
        [sys.executable, "-m", "study", *arguments],
        env={**head.environment, "HF_HUB_OFFLINE": "1", **variables},
        cwd=folder,
        capture_output=True,
        text=True,
        check=False,
        timeout=1200,
    )


@pytest.fixture
def study(head: Head, tmp_path: Path) -> Study:
    """`run_as` in this test's folder."""
    return functools.partial(run_as, head, tmp_path)


@dataclass(frozen=True)
class Sent:
    """A study that was submitted three times, stopped in the middle, then submitted again and followed to its end.

    Attributes:
        folder: Its folder.
        first: Output of `submit --detach`, twice at once; the one that has sent the job comes first.
        late: Output of the same command that had found no run before it was to send one.
        known: The jobs that the cluster listed then.
        stopped: Output of `stop`.
        before: The records after it.
        ended: Output of the last `submit`.
    """

    folder: Path
    first: tuple[str, str]
    late: Done
    known: str
    stopped: Done
    before: dict[str, int]
    ended: Done


# `study stop`, ready to connect as soon as there is a record: so the run is stopped while most packs are left.
STOP_AFTER_A_RECORD = """
import sys, time, pathlib, ray.job_submission, study.cli.app, study.cluster.jobs
while not list(pathlib.Path(sys.argv[1]).glob("*.parquet")): time.sleep(0.05)
sys.argv = ["study", "stop", "--address", sys.argv[2]]
study.cli.app.main()
"""


# `study submit`, that looks for a run before there is one and then takes its time, as for a preflight.
SUBMIT_LATE = """
import sys, study.cli.app, study.cluster.jobs
study.cluster.jobs.Cluster.running = lambda *_: None
sys.argv = ["study", *sys.argv[1:]]
study.cli.app.main()
"""


@pytest.fixture(scope="module")
def sent(head: Head, tmp_path_factory: pytest.TempPathFactory) -> Sent:
    folder = tmp_path_factory.mktemp("sent")
    methods = {"control": {}, "e_mixup": {"alpha": [0.1 * n for n in range(1, 9)]}}
    training = {"epochs": 600, "evaluate_every_epochs": 300}
    path = write_study(folder, training=training, search={"methods": methods})
    submit = functools.partial(run_as, head, folder, "submit", "--no-preflight", "--address", head.url)
    with ThreadPoolExecutor() as both:
        twice = list(both.map(lambda _: submit("--detach", MLFLOW_TRACKING_PASSWORD="planted"), range(2)))
    assert [done.returncode for done in twice] == [0, 0], twice
    first, second = sorted((done.stdout for done in twice), key=lambda out: "already running" in out)
    late = subprocess.run(
        [sys.executable, "-c", SUBMIT_LATE, "submit", "--no-preflight", "--address", head.url, "--detach"],
        env=head.environment,
        cwd=folder,
        capture_output=True,
        text=True,
        check=True,
    )
    known = head.ask("/api/jobs/")
    stopped = subprocess.run(
        [sys.executable, "-c", STOP_AFTER_A_RECORD, "shared/out/records", head.url],
        env=head.environment,
        cwd=folder,
        capture_output=True,
        text=True,
        check=False,
        timeout=1200,
    )
    assert not (folder / "shared" / "out" / "running.json").exists(), "it stopped by itself, it was not killed"
    before = records(folder)
    path.write_text(path.read_text().replace("epochs: 600", "epochs: 600 # again"))
    return Sent(folder, (first, second), late, known, stopped, before, submit("--set", "tracking.experiment=again"))


def write_study(folder: Path, **sections: Any) -> Path:
    """Write a study with absolute paths; its storage is `folder/shared`."""
    shared = folder / "shared"
    shared.mkdir(exist_ok=True)
    write_table(shared / "table.csv")
    path = folder / "study.yaml"
    data = {"table": str(shared / "table.csv")}
    path.write_text(yaml.safe_dump(settings(**{"directory": str(shared / "out"), "data": data, **sections})))
    return path


def records(folder: Path) -> dict[str, int]:
    """Return the time of writing of each record of a study, by name."""
    return {path.name: path.stat().st_mtime_ns for path in (folder / "shared" / "out" / "records").glob("*.parquet")}


def test_a_run_is_found_again_and_stopped(head: Head, sent: Sent) -> None:
    first, second = sent.first
    job = re.match(r"(small-[0-9a-f]{8}-1) is submitted", first)
    assert job is not None
    assert f"study stop -c study.yaml --address {head.url}" in first
    assert f"{job[1]} is already running" in second
    assert f"{job[1]} is already running" in sent.late.stdout
    assert set(re.findall(r"small-[0-9a-f]{8}-\d+", sent.known)) == {job[1]}, "one job"
    assert "planted" not in sent.known, "nothing of this machine's environment is sent"
    assert f"{job[1]}: stopped" in sent.stopped.stdout
    assert 0 < len(sent.before) < 9


def test_a_stopped_study_is_gone_on_with_and_followed(head: Head, sent: Sent) -> None:
    assert sent.ended.returncode == 0, sent.ended.stdout + sent.ended.stderr
    assert "18 trials recorded" in sent.ended.stdout
    assert read_description(sent.folder / "shared" / "out").settings["tracking"]["experiment"] == "again", "by --set"
    assert f"Report: {sent.folder}/shared/out/report/report.html" in sent.ended.stdout, (
        "the storage is visible from here"
    )
    assert "job_manager" not in sent.ended.stdout
    after = records(sent.folder)
    assert len(after) == 9
    assert sent.before.items() <= after.items(), "what was finished is not done again"
    told = run_as(head, sent.folder, "status", "--address", head.url, "--name", "small")
    assert re.search(r"^small-[0-9a-f]{8}-2: succeeded", told.stdout)
    assert "Every planned trial is recorded." in told.stdout


def test_the_cluster_is_checked_and_the_rest_counted(head: Head, sent: Sent) -> None:
    checked = run_as(head, sent.folder, "preflight", "--no-pilot", "--address", head.url)
    assert checked.returncode == 0, checked.stdout + checked.stderr
    assert "18 trials, 0 of them left, in 0 packs; 2 packs at once" in checked.stdout


def test_a_report_is_fetched_from_storage_that_is_not_seen_here(head: Head, sent: Sent, tmp_path: Path) -> None:
    # In a separate process: the Ray of the test session has another token.
    code = (
        "import sys; from pathlib import Path\n"
        "from study.cluster.jobs import Cluster\nfrom study.config.load import load_spec\n"
        "print(Cluster(sys.argv[1]).fetch_report(load_spec(sys.argv[2]), Path(sys.argv[3])))"
    )
    command = [sys.executable, "-c", code, head.url, str(sent.folder / "study.yaml"), "small-report"]
    done = subprocess.run(command, env=head.environment, cwd=tmp_path, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "small-report/report.html"
    here, there = tmp_path / "small-report", sent.folder / "shared" / "out" / "report"
    files = {path.relative_to(there) for path in there.rglob("*") if path.is_file()}
    assert {path.relative_to(here) for path in here.rglob("*") if path.is_file()} == files
    assert (here / "report.html").read_bytes() == (there / "report.html").read_bytes()


def test_a_port_of_another_kind_is_one_sentence() -> None:
    """Such as the head's port, 6379, instead of the dashboard's."""
    with socket.create_server(("127.0.0.1", 0)) as server:

        def answer() -> None:
            asking, _ = server.accept()
            with asking:
                asking.recv(1024)
                asking.sendall(b"\x00\x00\x04@\n")

        threading.Thread(target=answer, daemon=True).start()
        address = f"http://127.0.0.1:{server.getsockname()[1]}"
        with pytest.raises(ClusterError, match=r"No Ray dashboard answers .*8265 by default"):
            refuse_open_cluster(address)


@pytest.mark.parametrize(
    ("variables", "says"),
    [
        ({"RAY_AUTH_TOKEN_PATH": "/nowhere/token"}, "rejected the authentication token"),
        ({"RAY_AUTH_TOKEN": "0" * 64}, "rejected the authentication token"),
        ({"RAY_AUTH_MODE": "disabled"}, "rejected the authentication token"),
    ],
)
def test_without_the_token_nothing_is_sent(
    head: Head, study: Study, tmp_path: Path, variables: dict[str, str], says: str
) -> None:
    write_study(tmp_path)
    done = study("submit", "--address", head.url, **variables)
    assert done.returncode == 2
    assert says in done.stderr
    assert "Traceback" not in done.stderr
    assert len(done.stderr.splitlines()) == 1
    assert not (tmp_path / "shared" / "out").exists()


def test_an_interrupt_lets_the_run_go_on(head: Head, tmp_path: Path) -> None:
    write_study(tmp_path, name="left", training={"epochs": 60000})
    process = subprocess.Popen(
        [sys.executable, "-m", "study", "submit", "--no-preflight", "--address", head.url],
        env={**head.environment, "HF_HUB_OFFLINE": "1"},
        cwd=tmp_path,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    assert re.match(r"left-[0-9a-f]{8}-1 is submitted", process.stdout.readline())
    assert "Study left, in" in process.stdout.readline()
    assert "Ray" in process.stdout.readline()
    process.send_signal(signal.SIGINT)
    _, stderr = process.communicate(timeout=600)
    assert process.returncode == 130
    assert "continues on the cluster" in stderr
    stopped = subprocess.run(
        [sys.executable, "-m", "study", "stop", "--address", head.url, "--name", "left"],
        env=head.environment,
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert "stopped" in stopped.stdout, stopped.stderr


def test_nobody_there_is_one_sentence(study: Study, tmp_path: Path) -> None:
    write_study(tmp_path)
    done = study("submit", "--address", "http://127.0.0.1:9")
    assert (done.returncode, "No Ray dashboard answers" in done.stderr) == (2, True)
    gone = study("run", RAY_ADDRESS="127.0.0.1:9")
    assert (gone.returncode, "No Ray cluster answers at 127.0.0.1:9" in gone.stderr) == (2, True)


def test_places_of_this_machine_do_not_travel(tmp_path: Path) -> None:
    path = tmp_path / "study.yaml"
    model = {"text": {"model": "./model"}}
    path.write_text(
        yaml.safe_dump(
            settings(encoders=model, resources={"address": "10.0.0.1:6379"}, tracking={"uri": "sqlite:///mlflow.db"})
        )
    )
    with pytest.raises(SpecError) as caught:
        load_spec(path, remote=True)
    named = {problem.split("`")[1] for problem in caught.value.problems}
    assert named == {"directory", "data.table", "encoders.text.model", "resources.address", "tracking.uri"}


def test_what_is_only_on_the_cluster_is_not_looked_for(tmp_path: Path) -> None:
    path = tmp_path / "study.yaml"
    data = {"table": "/mnt/study/table.csv"}
    path.write_text(yaml.safe_dump(settings(directory="/mnt/study/out", data=data)))
    assert load_spec(path, remote=True).data.table == "/mnt/study/table.csv"


def test_a_report_survives_its_journey(tmp_path: Path) -> None:
    (tmp_path / "report" / "figures").mkdir(parents=True)
    (tmp_path / "report" / "report.html").write_text("<p>ä</p>" * 1000)
    (tmp_path / "report" / "figures" / "a.svg").write_bytes(os.urandom(10_000))
    text = "a line before\n" + pack_report(tmp_path / "report") + "a line after\n"
    files = unpack_report(text, tmp_path / "here")
    assert {path.relative_to(tmp_path / "here").as_posix() for path in files} == {"report.html", "figures/a.svg"}
    assert (tmp_path / "here" / "report.html").read_text() == "<p>ä</p>" * 1000


@pytest.mark.parametrize("name", ["../out.html", "/tmp/out.html", "a/../../out.html", "..\\out.html"])
def test_a_report_cannot_leave_its_folder(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "report").mkdir()
    (tmp_path / "report" / "good.html").write_text("good")
    (tmp_path / "report" / "out.html").write_text("bad")
    monkeypatch.setattr("zipfile.ZipFile.write", _named("out.html", name))
    text = pack_report(tmp_path / "report")
    with pytest.raises(TransferError, match="must lie in its folder"):
        unpack_report(text, tmp_path / "here")
    assert not (tmp_path / "here").exists()
    assert not (tmp_path / "out.html").exists()


def _named(old: str, new: str) -> Callable[..., None]:
    def write(self: Any, path: Path, name: str) -> None:
        self.writestr(new if name == old else name, path.read_bytes())

    return write


def test_a_damaged_report_is_refused(tmp_path: Path) -> None:
    (tmp_path / "report").mkdir()
    (tmp_path / "report" / "report.html").write_text("x" * 1000)
    text = pack_report(tmp_path / "report")
    for wrong in (text[:-30], text.replace("A", "B", 1), "no report"):
        with pytest.raises(TransferError):
            unpack_report(wrong, tmp_path / "here")


@pytest.mark.slow
def test_a_cluster_that_goes_away_is_an_error_and_the_next_run_goes_on(tmp_path: Path) -> None:
    search = {"methods": {"control": {}, "e_mixup": {"alpha": [0.1 * n for n in range(1, 9)]}}}
    write_study(tmp_path, training={"epochs": 3000, "evaluate_every_epochs": 1500}, search=search)
    command = [sys.executable, "-m", "study", "run", "--quiet"]
    with tempfile.TemporaryDirectory(prefix="rh", dir="/tmp") as folder, running_head(Path(folder)) as lost:
        environment = {**lost.environment, "HF_HUB_OFFLINE": "1", "RAY_ADDRESS": lost.address}
        run = subprocess.Popen(command, env=environment, cwd=tmp_path, stderr=subprocess.PIPE, text=True)
        while not records(tmp_path):
            assert run.poll() is None
            time.sleep(0.1)
        lost.kill()
        _, stderr = run.communicate(timeout=900)
    assert (run.returncode, stderr.splitlines()) == (3, [stderr.strip()])
    assert re.search(rf"The Ray cluster at \S+:{lost.address.rpartition(':')[2]} has stopped responding", stderr)
    before = records(tmp_path)
    assert len(before) < 9
    assert not list((tmp_path / "shared" / "out" / "records").glob("failed/*")), "no pack counts as failed"
    alone = {name: value for name, value in environment.items() if not name.startswith("RAY_")}
    again = subprocess.run(command, env=alone, cwd=tmp_path, check=False, timeout=1200)
    assert again.returncode == 0
    assert before.items() <= records(tmp_path).items()
    assert len(records(tmp_path)) == 9
