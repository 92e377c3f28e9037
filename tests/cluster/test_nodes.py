"""A study on a head and workers in network namespaces: nodes die, the head is started again, a worker joins late.

    pytest -m cluster tests/cluster             # minutes
    pytest -m cluster tests/cluster --full      # the fashion titles, five methods on three splits

The records in the end equal, value for value, those of one undisturbed process on one machine.
"""

import os
import secrets
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.cluster.namespaces import Machine, machines, missing
from tests.study_tests.conftest import MODEL, settings, write_table
from trainables.records.parquet import read_records

pytestmark = [pytest.mark.cluster, pytest.mark.skipif((why := missing()) is not None, reason=str(why))]

RAY = str(Path(sys.executable).with_name("ray"))


FIVE = {
    "control": {},
    "e_mixup": {"alpha": 0.3},
    "e_stitchup": {"alpha": 0.3},
    "soft_e_mixup": {"alpha": 0.3, "softness": 0.05},
    "soft_e_stitchup": {"alpha": 0.3, "softness": 0.05},
}


def small(folder: Path) -> dict[str, Any]:
    """A study with some seconds of encoding and about ten seconds of training."""
    write_table(folder / "table.csv", n=4200)  # three units
    return settings(
        training={"epochs": 60, "evaluate_every_epochs": 20},
        splits={"train_fraction": 0.1, "n_splits": 3},
        search={"methods": {method: FIVE[method] for method in ("control", "e_mixup", "soft_e_stitchup")}},
        resources={"max_failures": 20, "lanes_per_pack": 1},
    )


def full(fashion: Path) -> dict[str, Any]:
    return {
        "name": "titles",
        "data": {"table": str(fashion / "products.parquet"), "id": "id", "label": "article_type", "text": ["title"]},
        "encoders": {"text": {"model": MODEL, "pooling": "last_layers_mean"}},
        "splits": {"design": "random", "train_fraction": 0.1, "n_splits": 3},
        "training": {"epochs": 24, "evaluate_every_epochs": 8},
        "search": {"selection": "reported", "methods": FIVE},
        "resources": {"max_failures": 20, "lanes_per_pack": 1},
    }


class Cluster:
    """A Ray cluster with a token, its nodes in namespaces."""

    def __init__(self, nodes: list[Machine], folder: Path) -> None:
        self.nodes, self.folder = nodes, folder
        token = folder / "token"
        token.touch(mode=0o600)
        token.write_text(secrets.token_hex(32))
        kept = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
        self.environment = kept | {
            "RAY_AUTH_MODE": "token",
            "RAY_AUTH_TOKEN_PATH": str(token),
            "RAY_BACKEND_LOG_LEVEL": "fatal",
            "PYTHONPATH": os.pathsep.join(filter(None, sys.path)),
            "HOME": str(folder),
        }

    def start(self, number: int) -> None:
        """Start a node: the first is the head, which does not train."""
        node = self.nodes[number]
        command = [RAY, "start", "--block", "--disable-usage-stats", f"--node-ip-address={node.address}"]
        over = {}
        # A node that is started again has another folder: the first one may still hold its sockets.
        place = Path(tempfile.mkdtemp(prefix="h", dir=self.folder))
        if number == 0:
            self.place = place
            command += ["--head", "--port=6379", "--num-cpus=0", "--include-dashboard=false", f"--temp-dir={place}/ray"]
        else:
            over[self.place] = place
            command += [f"--address={self.nodes[0].address}:6379", "--num-cpus=1"]
        log = self.folder / f"node{number}.log"
        log.unlink(missing_ok=True)
        process = node.start(command, self.environment, log, over)
        wait_for(lambda: "Ray runtime started" in log.read_text(), process, log)

    def run(self, config: Path) -> subprocess.Popen[bytes]:
        """Start the study's driver on the head's machine."""
        return self.nodes[0].start(
            [sys.executable, "-m", "study", "run", "--quiet", "-c", str(config)],
            {**self.environment, "RAY_ADDRESS": f"{self.nodes[0].address}:6379"},
            self.folder / "run.log",
        )


@pytest.fixture
def cluster() -> Iterator[Cluster]:
    with tempfile.TemporaryDirectory(prefix="c") as folder, machines(4) as nodes:  # short: it contains sockets
        yield Cluster(nodes, Path(folder))


def wait_for(
    condition: Callable[[], bool], process: subprocess.Popen[bytes], log: Path, within_s: float = 1800
) -> None:
    deadline = time.monotonic() + within_s
    while not condition():
        assert process.poll() is None, log.read_text()[-3000:]
        assert time.monotonic() < deadline, log.read_text()[-3000:]
        time.sleep(0.02)


def values(directory: Path) -> dict[str, Any]:
    """Return every figure, curve and item of every trial, to the bit, without its times."""
    return {
        record.config.key: (
            {name: repr(value) for name, value in record.metrics.items() if not name.startswith("seconds")},
            {name: value.tobytes() for name, value in vars(record.curves).items() if hasattr(value, "tobytes")},
            {name: value.tobytes() for name, value in vars(record.items).items()},
        )
        for record in read_records(directory / "records", with_items=True)
    }


def test_a_study_survives_the_loss_of_any_node(
    cluster: Cluster, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    raw = full(request.getfixturevalue("fashion")) if request.config.getoption("--full") else small(tmp_path)
    for name in ("quiet", "cluster"):
        (tmp_path / f"{name}.yaml").write_text(yaml.safe_dump({**raw, "directory": name}))
    alone = "import sys; from study import load_spec, run_study; run_study(load_spec(sys.argv[1]))"
    command = [sys.executable, "-c", alone, str(tmp_path / "quiet.yaml")]
    quiet = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    config, root, log = tmp_path / "cluster.yaml", tmp_path / "cluster", cluster.folder / "run.log"
    n_records = lambda: len(list((root / "records").glob("*.parquet")))  # noqa: E731
    for number in (0, 1, 2):
        cluster.start(number)
    said = quiet.communicate()[1]
    assert quiet.returncode == 0, said[-3000:]
    driver = cluster.run(config)
    wait_for(lambda: any(root.glob("embeddings/.units/*/*.arrow")), driver, log)
    cluster.nodes[2].kill()  # in embedding
    print("killed a worker in embedding")
    cluster.start(3)  # joins late
    wait_for(lambda: n_records() >= 2, driver, log)
    cluster.nodes[1].kill()  # in training: the late node is the only one left
    print("killed a worker in training, at", n_records(), "records; the late one continues alone")
    before = n_records()
    wait_for(lambda: n_records() >= before + 2, driver, log)
    cluster.nodes[3].kill()
    cluster.nodes[0].kill()  # the head, and the driver with it
    at = n_records()
    n_planned = 3 * len(raw["search"]["methods"])
    assert at < n_planned
    print("killed the head, at", at, "records")
    for number in (0, 1, 2):
        cluster.start(number)
    (tmp_path / "token").write_text("not the token of this cluster, but of the same length")
    refused = cluster.nodes[1].start(
        [sys.executable, "-c", f"import ray; ray.init('{cluster.nodes[0].address}:6379')"],
        {**cluster.environment, "RAY_AUTH_TOKEN_PATH": str(tmp_path / "token")},
        strange := cluster.folder / "stranger.log",
    )
    assert cluster.run(config).wait(3600) == 0, log.read_text()[-3000:]
    assert refused.wait(900) != 0
    assert "InvalidAuthToken" in strange.read_text()
    assert (root / "report" / "report.html").exists()
    assert len(values(root)) == n_planned
    assert values(root) == values(tmp_path / "quiet")
