"""Machines of a cluster on one host: network namespaces with their own address and loopback, joined by a bridge.

The bridge is in a namespace as well, so the host's network is not changed, and the addresses do not collide with those
of another test. A command in a machine has its own mount namespace, so that Ray nodes can share the sockets' path.

Needs root and iproute2. Names are random; only what was created here is stopped and removed.
"""

from __future__ import annotations

import os
import secrets
import shlex
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path


def missing(*programs: str) -> str | None:
    """Return why namespaces are not available here; None if they are."""
    if os.geteuid() != 0:
        return "namespaces need root"
    for program in ("ip", *programs):
        if shutil.which(program) is None and not Path("/usr/sbin", program).exists():
            return f"{program} is not installed"
    trial = f"trial-{secrets.token_hex(4)}"
    done = subprocess.run(["ip", "netns", "add", trial], capture_output=True, text=True, check=False)
    if done.returncode:
        return f"namespaces cannot be created here: {done.stderr.strip()}"
    ip("netns", "delete", trial)
    return None


def ip(*arguments: str) -> str:
    return subprocess.run(["ip", *arguments], capture_output=True, text=True, check=True).stdout


@dataclass
class Machine:
    """One machine: a network namespace."""

    name: str
    address: str
    started: list[subprocess.Popen[bytes]] = field(default_factory=list)

    def start(
        self, command: Sequence[str], environment: Mapping[str, str], log: Path, over: Mapping[Path, Path] | None = None
    ) -> subprocess.Popen[bytes]:
        """Start a command in it.

        Args:
            command: The command.
            environment: Its environment.
            log: Its output is appended to this file.
            over: By path, the path that the command and its children see in its place, as on a separate disk.
        """
        mounts = [
            f"mount --bind {shlex.quote(str(own))} {shlex.quote(str(path))}" for path, own in (over or {}).items()
        ]
        with log.open("ab") as file:
            process = subprocess.Popen(
                ["ip", "netns", "exec", self.name, "sh", "-c", " && ".join([*mounts, 'exec "$@"']), "sh", *command],
                env=dict(environment), stdout=file, stderr=file, start_new_session=True,
            )  # fmt: skip
        self.started.append(process)
        return process

    def run(self, command: Sequence[str], environment: Mapping[str, str], log: Path, within_s: float) -> int | None:
        """Run a command in it; return its exit status, or None if it has not ended in time."""
        process = self.start(command, environment, log)
        with suppress(subprocess.TimeoutExpired):
            process.wait(within_s)
        return process.poll()

    def kill(self) -> None:
        """Kill every process in it, as a power failure would."""
        for _ in range(1000):
            pids = ip("netns", "pids", self.name).split()
            for pid in pids:
                with suppress(ProcessLookupError):
                    os.kill(int(pid), signal.SIGKILL)
            if not pids:
                break
            time.sleep(0.1)
        for process in self.started:
            process.wait()
        self.started.clear()


@contextmanager
def machines(n: int) -> Iterator[list[Machine]]:
    """Create machines 10.77.0.10, .11, ...; remove them at the end with all that runs in them."""
    cluster = f"cluster-{secrets.token_hex(4)}"
    made: list[Machine] = []
    try:
        ip("netns", "add", cluster)
        ip("-n", cluster, "link", "add", "bridge", "type", "bridge")
        ip("-n", cluster, "link", "set", "bridge", "up")
        for number in range(n):
            name, address, port = f"{cluster}-{number}", f"10.77.0.{10 + number}", f"port{number}"
            ip("netns", "add", name)
            made.append(Machine(name, address))
            ip("-n", cluster, "link", "add", port, "type", "veth", "peer", "name", "eth0", "netns", name)
            ip("-n", cluster, "link", "set", port, "master", "bridge", "up")
            ip("-n", name, "address", "add", f"{address}/24", "dev", "eth0")
            ip("-n", name, "link", "set", "eth0", "up")
            ip("-n", name, "link", "set", "lo", "up")
            ip("-n", name, "route", "add", "default", "dev", "eth0")  # Ray learns its address from the default route
        yield made
    finally:
        for machine in made:
            machine.kill()
        for name in (*(machine.name for machine in made), cluster):
            subprocess.run(["ip", "netns", "delete", name], capture_output=True, check=False)
