"""Machines of a cluster on this one: each a network namespace with its own address and loopback, joined by a bridge.

The bridge lies in a namespace as well: of the network that this process is in, nothing is taken or changed, and what
a killed test left behind, or another beside it uses, has no address in common with it. A command in a machine has a
mount namespace of its own, so that nodes of Ray can have their sockets at the same path.

Needs root and iproute2. Names are drawn; what is ended and removed is only what was made here.
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
    """Why namespaces cannot be had here, or None."""
    if os.geteuid() != 0:
        return "namespaces need root"
    for program in ("ip", *programs):
        if shutil.which(program) is None and not Path("/usr/sbin", program).exists():
            return f"{program} is not installed"
    trial = f"trial-{secrets.token_hex(4)}"
    done = subprocess.run(["ip", "netns", "add", trial], capture_output=True, text=True, check=False)
    if done.returncode:
        return f"no namespace can be made here: {done.stderr.strip()}"
    ip("netns", "delete", trial)
    return None


def ip(*arguments: str) -> str:
    return subprocess.run(["ip", *arguments], capture_output=True, text=True, check=True).stdout


@dataclass
class Machine:
    """One namespace."""

    name: str
    address: str
    started: list[subprocess.Popen[bytes]] = field(default_factory=list)

    def start(
        self, command: Sequence[str], environment: Mapping[str, str], log: Path, over: Mapping[Path, Path] | None = None
    ) -> subprocess.Popen[bytes]:
        """Starts a command in it.

        Args:
            command: The command.
            environment: Its environment.
            log: What it says is added to this file.
            over: What it and all that it starts see in place of some paths, as on a disk of their own: by path.
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
        """The exit status of a command in it; None where it has not ended within so many seconds."""
        process = self.start(command, environment, log)
        with suppress(subprocess.TimeoutExpired):
            process.wait(within_s)
        return process.poll()

    def kill(self) -> None:
        """Kills every process in it, as a power cut would."""
        for _ in range(50):
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
    """Machines 10.77.0.10, .11, ...; gone at the end with all that runs in them."""
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
            ip("-n", name, "route", "add", "default", "dev", "eth0")  # Ray asks for a way out to learn its address
        yield made
    finally:
        for machine in made:
            machine.kill()
        for name in (*(machine.name for machine in made), cluster):
            subprocess.run(["ip", "netns", "delete", name], capture_output=True, check=False)
