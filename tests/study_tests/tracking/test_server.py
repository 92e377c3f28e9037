"""`study tracker up` with a real server: closed to strangers, open to a study that knows the password."""

import os
import signal
import stat
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from click.testing import CliRunner

from study.cli.app import study as command
from study.errors import TrackingError
from study.tracking.mlflow import Tracker
from tests.study_tests.conftest import free_port
from tests.study_tests.tracking.test_mlflow import RECORDS, facts, state


@dataclass
class Up:
    """A tracker that runs."""

    uri: str
    directory: Path
    said: str
    process: subprocess.Popen[str]

    @property
    def password(self) -> str:
        return (self.directory / "admin-password").read_text().strip()


def start(directory: Path, port: int) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "study", "tracker", "up", "-d", str(directory), "--port", str(port)],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env={name: value for name, value in os.environ.items() if not name.startswith("MLFLOW_")},
    )


@pytest.fixture(scope="module")
def up(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Up]:
    directory, port = tmp_path_factory.mktemp("tracker") / "server", free_port()
    process = start(directory, port)
    assert process.stdout is not None
    said = ""
    try:
        for line in process.stdout:
            said += line
            if "Ctrl-C" in line:
                break
        yield Up(f"http://127.0.0.1:{port}", directory, said, process)
    finally:
        process.terminate()  # killed, it could not end its server
        process.wait()


@pytest.fixture
def no_credentials(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("MLFLOW_TRACKING_USERNAME", "MLFLOW_TRACKING_PASSWORD"):
        monkeypatch.delenv(name, raising=False)


def test_it_says_how_a_study_names_it_and_shows_no_password(up: Up) -> None:
    assert f"tracking: {{uri: {up.uri}}}" in up.said
    assert str(up.directory / "admin-password") in up.said
    assert len(up.password) >= 40
    assert up.password not in up.said
    for path in ("admin-password", "auth.ini", "tracker.log"):
        assert stat.S_IMODE((up.directory / path).stat().st_mode) == 0o600, path
        assert path == "admin-password" or up.password not in (up.directory / path).read_text()
    for entry in Path("/proc").glob("[0-9]*/cmdline"):  # what `ps` shows
        try:
            assert up.password.encode() not in entry.read_bytes()
        except (FileNotFoundError, ProcessLookupError):
            continue


@pytest.mark.usefixtures("no_credentials")
@pytest.mark.parametrize("path", ["api/2.0/mlflow/experiments/search?max_results=1", "", "graphql"])
def test_a_stranger_is_refused(up: Up, path: str) -> None:
    with pytest.raises(urllib.error.HTTPError) as refused:
        urllib.request.urlopen(f"{up.uri}/{path}", timeout=120)
    assert refused.value.code == 401


def test_a_study_with_the_password_writes_and_one_without_is_told(
    up: Up, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, no_credentials: None
) -> None:
    with pytest.raises(TrackingError, match="MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD"):
        Tracker(up.uri, "small", facts(tmp_path))
    monkeypatch.setenv("MLFLOW_TRACKING_USERNAME", "admin")
    monkeypatch.setenv("MLFLOW_TRACKING_PASSWORD", "not the password")
    with pytest.raises(TrackingError, match="MLFLOW_TRACKING_PASSWORD") as told:
        Tracker(up.uri, "small", facts(tmp_path))
    assert "not the password" not in str(told.value)
    monkeypatch.setenv("MLFLOW_TRACKING_PASSWORD", up.password)
    tracker = Tracker(up.uri, "small", facts(tmp_path))
    assert tracker.write(RECORDS[:2]) == 2  # and an artifact, which goes through the server
    assert len(state(up.uri)) == 1 + 1 + 2
    assert up.password.encode() not in (up.directory / "tracker.db").read_bytes()


def test_a_second_one_on_the_same_port_is_refused(up: Up, tmp_path: Path) -> None:
    second = start(tmp_path / "second", int(up.uri.rpartition(":")[2]))
    said, _ = second.communicate(timeout=300)
    assert second.returncode == 2, said
    assert "--port" in said


def test_the_directory_of_other_users_is_refused_and_ctrl_c_stops_everything(up: Up) -> None:
    pid = up.process.pid
    (server,) = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    up.process.send_signal(signal.SIGINT)
    assert up.process.wait(300) == 0
    with pytest.raises(ProcessLookupError):  # nothing of its group is left
        os.killpg(int(server), 0)
    (up.directory / "admin-password").write_text("another password\n")
    again = start(up.directory, free_port())
    said, _ = again.communicate(timeout=300)
    assert again.returncode == 2, said
    assert "another password" in said
    assert "remove the file" in said


def test_what_it_refuses_before_it_starts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def up(*arguments: str) -> str:
        done = CliRunner().invoke(command, ["tracker", "up", "-d", str(tmp_path / "t"), *arguments])
        assert done.exit_code != 0
        return f"{done.output} {done.exception}"

    uri = "postgresql://me:hunter2@db/mlflow"
    said = up("--backend-store-uri", uri)
    assert "MLFLOW_BACKEND_STORE_URI" in said
    assert "hunter2" not in said
    monkeypatch.setenv("MLFLOW_AUTH_ADMIN_PASSWORD", "short")
    assert "12 characters or more, got 5" in up()
    monkeypatch.delenv("MLFLOW_AUTH_ADMIN_PASSWORD")
    (tmp_path / "t").mkdir(exist_ok=True)
    (tmp_path / "t" / "admin-password").write_text("long enough to be taken\n")
    (tmp_path / "t" / "admin-password").chmod(0o644)
    assert "chmod 600" in up()
