"""Run an MLflow server with passwords, and check that it rejects requests without one.

MLflow itself checks the permissions. This module gives it an administrator's password and no permission for anybody
else, with secrets in its environment, where `ps` does not show them.
"""

from __future__ import annotations

import configparser
import os
import secrets
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from base64 import b64encode
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from study.errors import TrackerError

ADMIN = "admin"  # the user that a study writes as

PASSWORD = "MLFLOW_AUTH_ADMIN_PASSWORD"

BACKEND = "MLFLOW_BACKEND_STORE_URI"

_N_PASSWORD = 12  # characters, the least that MLflow accepts

_STARTS_WITHIN_S, _STOPS_WITHIN_S = 120, 10


@dataclass(frozen=True)
class Secret:
    """The administrator's password and its file; the password is never shown."""

    value: str
    file: Path | None

    def __repr__(self) -> str:
        return f"Secret(file={self.file})"


def admin_password(directory: Path) -> Secret:
    """Return the password of MLFLOW_AUTH_ADMIN_PASSWORD, else of the directory's file, which is made if missing.

    Raises:
        TrackerError: The password is too short, or others can read the file.
    """
    file: Path | None = None
    if PASSWORD in os.environ:
        value, place = os.environ[PASSWORD], PASSWORD
    else:
        file = directory / "admin-password"
        if not file.exists():
            _write_private(file, secrets.token_urlsafe(32))
        if file.stat().st_mode & 0o077:
            raise TrackerError(
                f"{file} must be readable by its owner only, got mode {file.stat().st_mode & 0o777:o}: others may have "
                f"read it. Change the password in it, then chmod 600 {file}"
            )
        value, place = file.read_text().strip(), str(file)
    if len(value) < _N_PASSWORD:
        raise TrackerError(f"The password in {place} must have {_N_PASSWORD} characters or more, got {len(value)}.")
    return Secret(value, file)


def run_server(
    directory: Path, host: str, port: int, backend_store_uri: str | None, started: Callable[[str, Secret], None]
) -> None:
    """Run an MLflow server until it is interrupted.

    Args:
        directory: Folder for database (unless `backend_store_uri` names another), artifacts, users, password and log.
        host: The address to listen on.
        port: The port to listen on.
        backend_store_uri: MLflow's database; None for SQLite in the directory.
        started: Called with the URL and the password when the server rejects requests without the password.

    Raises:
        TrackerError: The server does not start, or its user was made with another password.
    """
    _refuse_used_port(host, port)
    directory = directory.resolve()
    directory.mkdir(mode=0o700, parents=True, exist_ok=True)
    secret = admin_password(directory)
    log = directory / "tracker.log"
    command = [sys.executable, "-m", "mlflow", "server", "--app-name", "basic-auth"]
    command += ["--host", host, "--port", str(port), "--workers", "1"]
    command += ["--artifacts-destination", str(directory / "artifacts")]
    environment = os.environ | {
        PASSWORD: secret.value,
        BACKEND: backend_store_uri or f"sqlite:///{directory / 'tracker.db'}",
        "MLFLOW_AUTH_CONFIG_PATH": str(_auth_config(directory)),
        "MLFLOW_FLASK_SERVER_SECRET_KEY": secrets.token_hex(32),
        "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",  # for MLflow's own evaluations
        "MLFLOW_DISABLE_TELEMETRY": os.environ.get("MLFLOW_DISABLE_TELEMETRY", "true"),
    }
    descriptor = os.open(log, os.O_CREAT | os.O_APPEND | os.O_WRONLY, 0o600)
    with os.fdopen(descriptor, "ab") as output:
        # In another process group: Ctrl-C reaches this process only, which then ends the whole group in order.
        process = subprocess.Popen(
            command, env=environment, cwd=directory, stdout=output, stderr=output, start_new_session=True
        )
    try:
        uri = f"http://{_reached_as(host)}:{port}"
        _wait_until_it_refuses(uri, process, log)
        if _status(uri, secret) != 200:
            raise TrackerError(
                f"The users in {directory / 'users.db'} were made with another password of `{ADMIN}`. Use that one, "
                "or remove the file: users are then made again, and the tracked runs are kept."
            )
        started(uri, secret)
        process.wait()
        raise TrackerError(f"The server ended with exit code {process.returncode}; see {log}")
    finally:
        _end(process)


def _auth_config(directory: Path) -> Path:
    config = configparser.ConfigParser(interpolation=None)
    config["mlflow"] = {
        "default_permission": "NO_PERMISSIONS",
        "database_uri": f"sqlite:///{directory / 'users.db'}",
        "admin_username": ADMIN,
        # Hashing a password takes longer than most requests. A changed password takes effect at once.
        "auth_cache_ttl_seconds": "300",
    }
    path = directory / "auth.ini"
    path.unlink(missing_ok=True)
    with open(os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600), "w") as file:
        config.write(file)
    return path


def _write_private(path: Path, text: str) -> None:
    with open(os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600), "w") as file:
        file.write(text + "\n")


def _reached_as(host: str) -> str:
    """Return the address at which this machine reaches a server that listens on `host`."""
    if host in ("0.0.0.0", "::"):
        return "127.0.0.1" if host == "0.0.0.0" else "[::1]"
    return f"[{host}]" if ":" in host and not host.startswith("[") else host


def _wait_until_it_refuses(uri: str, process: subprocess.Popen[bytes], log: Path) -> None:
    deadline = time.monotonic() + _STARTS_WITHIN_S
    while _status(uri, None) != 401:
        if process.poll() is not None:
            last = log.read_text(errors="replace").strip().splitlines()[-1:]
            raise TrackerError(f"The server did not start ({' '.join(last)[:300]}); see {log}")
        if time.monotonic() > deadline:
            raise TrackerError(f"The server did not answer within {_STARTS_WITHIN_S} s; see {log}")
        time.sleep(0.2)


def _refuse_used_port(host: str, port: int) -> None:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family) as trial:
        trial.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            trial.bind((host.strip("[]"), port))
        except OSError as error:
            raise TrackerError(
                f"The server cannot listen at {host}:{port} ({error.strerror or error}): stop the process that uses "
                "the port, or choose another --port or --host"
            ) from None


def _status(uri: str, secret: Secret | None) -> int | None:
    """Return the HTTP status of a request for the experiments; None while the server does not answer."""
    request = urllib.request.Request(f"{uri}/api/2.0/mlflow/experiments/search?max_results=1")
    if secret is not None:
        request.add_header("Authorization", f"Basic {b64encode(f'{ADMIN}:{secret.value}'.encode()).decode()}")
    try:
        with urllib.request.build_opener(urllib.request.ProxyHandler({})).open(request, timeout=5) as answer:
            return int(answer.status)
    except urllib.error.HTTPError as error:
        return error.code
    except OSError:
        return None


def _end(process: subprocess.Popen[bytes]) -> None:
    """End the server and its processes: terminate, then kill."""
    if process.poll() is None:
        process.terminate()
        try:
            process.wait(_STOPS_WITHIN_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
