"""A Ray head like that of a cluster: its own processes, its own token, a dashboard that accepts jobs."""

import os
import secrets
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Head:
    """A running head.

    Attributes:
        url: Its dashboard.
        address: HOST:PORT, for nodes and drivers.
        environment: For a process that may connect to it.
        process: `ray start`, the leader of the group of all its processes.
    """

    url: str
    address: str
    environment: dict[str, str]
    process: subprocess.Popen[bytes]

    def ask(self, path: str) -> str:
        """Return the dashboard's answer to a request with the token."""
        token = Path(self.environment["RAY_AUTH_TOKEN_PATH"]).read_text()
        request = urllib.request.Request(self.url + path, headers={"Authorization": f"Bearer {token}"})
        with urllib.request.urlopen(request, timeout=120) as answer:
            return str(answer.read().decode())

    def kill(self) -> None:
        """Kill it and all its processes."""
        if self.process.poll() is None:
            os.killpg(self.process.pid, signal.SIGKILL)
            self.process.wait()


@contextmanager
def running_head(folder: Path, *, n_cpus: int = 2) -> Iterator[Head]:
    """Start a head, and kill it at the end.

    Args:
        folder: For Ray's files; its path must be short, since it contains sockets.
        n_cpus: CPUs that the head reports.
    """
    token = folder / "token"
    token.touch(mode=0o600)
    token.write_text(secrets.token_hex(32))
    environment = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
    environment |= {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN_PATH": str(token), "RAY_BACKEND_LOG_LEVEL": "fatal"}
    environment |= {"PYTHONPATH": os.pathsep.join(sys.path), "RAY_DISABLE_IMPORT_WARNING": "1"}
    port, dashboard, client = (free_port() for _ in range(3))
    command = [str(Path(sys.executable).with_name("ray")), "start", "--head", "--block", f"--num-cpus={n_cpus}"]
    command += [f"--port={port}", f"--dashboard-port={dashboard}", f"--ray-client-server-port={client}"]
    command += ["--dashboard-agent-listen-port=0", f"--temp-dir={folder}/ray", "--disable-usage-stats"]
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    with (folder / "head.log").open("wb") as log:
        process = subprocess.Popen(
            command, env={**environment, "PATH": path}, stdout=log, stderr=log, start_new_session=True
        )
    host = socket.gethostbyname(socket.gethostname())
    head = Head(f"http://127.0.0.1:{dashboard}", f"{host}:{port}", environment, process)
    try:
        deadline = time.monotonic() + 600
        while not answers(head.url):
            assert process.poll() is None, (folder / "head.log").read_text()
            assert time.monotonic() < deadline, (folder / "head.log").read_text()
            time.sleep(0.1)
        yield head
    finally:
        head.kill()


def answers(url: str) -> bool:
    """Whether the dashboard accepts requests."""
    try:
        urllib.request.urlopen(f"{url}/api/jobs/", timeout=60).close()
    except urllib.error.HTTPError as error:
        return error.code == 401
    except OSError:
        return False
    return True


def free_port() -> int:
    """Return a free port above those that Ray gives to workers."""
    for port in range(20100 + os.getpid() % 5000, 32000, 7):
        with socket.socket() as trial:
            try:
                trial.bind(("", port))
            except OSError:
                continue
            if port not in _given:
                _given.add(port)
                return port
    raise RuntimeError("no port is free")


_given: set[int] = set()
