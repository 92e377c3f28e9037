"""`ray up` of tests/cluster/local.yaml over real sshd: from a fourth machine, three namespaces become a cluster."""

import os
import secrets
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.cluster.namespaces import Machine, machines, missing

pytestmark = [
    pytest.mark.cluster,
    pytest.mark.skipif((why := missing("sshd", "ssh", "rsync")) is not None, reason=str(why)),
]

BIN = Path(sys.executable).parent

HEAD = "10.77.0.10"


COUNT = """
import ray, time
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy as On
ray.init("10.77.0.10:6379", log_to_driver=False)
while len(alive := [n["NodeID"] for n in ray.nodes() if n["Alive"]]) < 3: time.sleep(0.5)
where = ray.remote(lambda: ray.util.get_node_ip_address())
print(sorted(ray.get([where.options(scheduling_strategy=On(node, soft=False)).remote() for node in alive])))
"""


@pytest.fixture
def folder() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="u") as name:  # short: sockets lie in it
        yield Path(name)


def start_sshd(machine: Machine, folder: Path) -> None:
    """Start an ssh server with its own keys, which accepts the test's key only, and with a separate home for root.

    The home is in a list of users that only this server and its children see: ssh looks for keys there, not in HOME.
    """
    home = folder / "home" / machine.name
    home.mkdir(parents=True)
    users = folder / "ssh" / f"{machine.name}.passwd"
    users.write_text(f"root:x:0:0::{home}:/bin/bash\nsshd:x:65533:65533::/run/sshd:/usr/sbin/nologin\n")
    config = folder / "ssh" / f"{machine.name}.conf"
    config.write_text(
        f"ListenAddress {machine.address}\nHostKey {folder}/ssh/host\nAuthorizedKeysFile {folder}/ssh/client.pub\n"
        "PidFile none\nStrictModes no\nUsePAM no\nPermitRootLogin prohibit-password\nPasswordAuthentication no\n"
    )
    Path("/run/sshd").mkdir(mode=0o755, exist_ok=True)
    over = {Path("/etc/passwd"): users}
    if machine.address != HEAD:  # Ray's folder has the same path on every machine
        over[folder / "h"] = home
        (folder / "h").mkdir(exist_ok=True)
    machine.start(["/usr/sbin/sshd", "-D", "-e", "-f", str(config)], os.environ, folder / "sshd.log", over)


def test_ray_up_makes_a_cluster_that_asks_for_its_token(folder: Path) -> None:
    (folder / "ssh").mkdir(mode=0o700)
    for key in ("host", "client"):
        command = ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(folder / "ssh" / key)]
        subprocess.run(command, check=True)
    (folder / "token").touch(mode=0o600)
    (folder / "token").write_text(secrets.token_hex(32))
    text = Path(__file__).with_name("local.yaml").read_text()
    source = os.pathsep.join(filter(None, sys.path))
    for name, value in {"FOLDER": str(folder), "PYTHON": str(BIN), "SOURCE": source}.items():
        text = text.replace(name, value)
    (folder / "local.yaml").write_text(text)
    kept = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
    environment = kept | {
        "HOME": str(folder / "home"),
        "RAY_TMPDIR": str(folder),
        "RAY_UP_enable_autoscaler_v2": "0",  # the second version starts one worker too few of such a provider
        "RAY_AUTH_MODE": "token",
        "RAY_AUTH_TOKEN_PATH": str(folder / "token"),
    }
    with machines(4) as (*nodes, desk):
        for machine in nodes:
            start_sshd(machine, folder)
        up = [str(BIN / "ray"), "up", "-y", "--no-config-cache", str(folder / "local.yaml")]
        log = folder / "up.log"
        assert desk.run(up, environment, log, 1800) == 0, log.read_text()[-3000:]
        assert (folder / "nodes" / "token").stat().st_mode & 0o777 == 0o600
        log = folder / "count.log"
        assert nodes[0].run([sys.executable, "-c", COUNT], environment, log, 1200) == 0, log.read_text()[-3000:]
        assert "['10.77.0.10', '10.77.0.11', '10.77.0.12']" in log.read_text()
        stranger = {**environment, "RAY_AUTH_TOKEN_PATH": str(folder / "other")}
        (folder / "other").write_text(secrets.token_hex(32))
        assert nodes[1].run([sys.executable, "-c", COUNT], stranger, log := folder / "stranger.log", 1200)
        assert "InvalidAuthToken" in log.read_text()
