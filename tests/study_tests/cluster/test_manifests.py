"""The files that describe clusters, as far as can be told without one: Ray's schema, and what it overlooks."""

import os
import stat
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from study.config.schema import Resources

ROOT = Path(__file__).resolve().parents[3]

CLUSTERS = ROOT / "study" / "cluster" / "manifests"


# What Ray 2.60 reads of these, and its schema lets pass whatever it is.
PROVIDER = {
    "aws": {"type", "region", "availability_zone", "cache_stopped_nodes", "use_internal_ips", "security_group"},
    "local": {"type", "head_ip", "worker_ips"},
}

NODE_CONFIG = {"InstanceType", "ImageId", "InstanceMarketOptions", "BlockDeviceMappings", "MetadataOptions"}

N_CPUS_OF = {"g6.2xlarge": 8, "m7i.large": 2}


def read(path: Path) -> dict[str, Any]:
    found = yaml.safe_load(path.read_text())
    assert isinstance(found, dict)
    return found


@pytest.mark.parametrize("name", ["cluster.yaml", "tests/cluster/local.yaml"])
def test_ray_takes_the_cluster_file(name: str) -> None:
    from ray.autoscaler._private.util import prepare_config, validate_config

    config = read(ROOT / name)
    validate_config(prepare_config(read(ROOT / name)))
    provider = config["provider"]
    assert set(provider) <= PROVIDER[provider["type"]]
    for commands in ("head_start_ray_commands", "worker_start_ray_commands"):
        start = config[commands][-1]
        assert "RAY_AUTH_MODE=token RAY_AUTH_TOKEN_PATH=" in start
        assert "0.0.0.0" not in start
        assert "umask 077" in start
        assert "--temp-dir=" in start
    for commands in (key for key in config if key.endswith("_commands")):
        for line in config[commands]:
            subprocess.run(["bash", "-n"], input=line, text=True, check=True)
            assert not {"ray", "python", "study"} & set(line.replace(";", " ").split()), "absolute paths only"


def test_the_nodes_of_the_cluster_file_hold_a_pack() -> None:
    config = read(ROOT / "cluster.yaml")
    types = config["available_node_types"]
    workers = {name: node for name, node in types.items() if name != config["head_node_type"]}
    for name, node in types.items():
        assert set(node["node_config"]) <= NODE_CONFIG, name
        assert node["resources"]["CPU"] in (0, N_CPUS_OF[node["node_config"]["InstanceType"]])
    assert sum(node["min_workers"] for node in workers.values()) >= 1, "embedding counts the nodes that are up"
    assert config["max_workers"] >= max(node["max_workers"] for node in workers.values())
    spot, on_demand = workers["gpu_spot"], workers["gpu_on_demand"]
    assert spot["node_config"]["InstanceMarketOptions"] == {"MarketType": "spot"}
    assert "InstanceMarketOptions" not in on_demand["node_config"]
    assert spot["priority"] > on_demand["priority"]
    for preset in (ROOT / "study" / "config" / "presets").glob("*.yaml"):
        resources = Resources(**read(preset).get("resources", {}))
        for name, node in workers.items():
            assert resources.cpus_per_pack <= node["resources"]["CPU"], (preset.name, name)
            assert resources.n_gpus <= node["resources"]["GPU"], (preset.name, name)
    mounts = config["file_mounts"]
    assert "/home/ubuntu/.ray/auth_token" in mounts
    assert any("chmod 600 /home/ubuntu/.ray/auth_token" in line for line in config["setup_commands"])
    assert any("-c constraints.txt" in line for line in config["setup_commands"])


def test_the_manifest_for_kubernetes_holds_a_pack() -> None:
    job = read(CLUSTERS / "rayjob.yaml")
    assert (job["apiVersion"], job["kind"]) == ("ray.io/v1", "RayJob")
    assert set(job["spec"]) <= {
        "entrypoint", "shutdownAfterJobFinishes", "ttlSecondsAfterFinished", "backoffLimit", "rayClusterSpec"
    }  # fmt: skip
    cluster = job["spec"]["rayClusterSpec"]
    assert set(cluster) <= {
        "rayVersion", "authOptions", "enableInTreeAutoscaling", "headGroupSpec", "workerGroupSpecs"
    }  # fmt: skip
    assert cluster["authOptions"] == {"mode": "token"}
    pinned = next(line for line in (ROOT / "constraints.txt").read_text().splitlines() if line.startswith("ray=="))
    assert f"ray=={cluster['rayVersion']}" == pinned
    (workers,) = cluster["workerGroupSpecs"]
    assert workers["minReplicas"] <= workers["replicas"] <= workers["maxReplicas"]
    images = set()
    for group in (cluster["headGroupSpec"], workers):
        pod = group["template"]["spec"]
        (container,) = pod["containers"]
        images.add(container["image"])
        assert {mount["name"] for mount in container["volumeMounts"]} <= {volume["name"] for volume in pod["volumes"]}
        assert container["resources"]["requests"] == container["resources"]["limits"]
        assert all("valueFrom" in variable for variable in container.get("env", [])), "no secret in the manifest"
    assert len(images) == 1
    requests = workers["template"]["spec"]["containers"][0]["resources"]["requests"]
    assert Resources().cpus_per_pack <= int(requests["cpu"])
    assert requests["nvidia.com/gpu"] == "1"


def test_the_slurm_script_starts_every_node_with_its_token_and_cleans_up(tmp_path: Path) -> None:
    """With stand-ins for Slurm's and Ray's commands, which note how they are called."""
    programs, home, calls = tmp_path / "bin", tmp_path / "home", tmp_path / "calls"
    (tmp_path / "venv" / "bin").mkdir(parents=True)
    programs.mkdir()
    home.mkdir()

    def program(path: Path, text: str) -> None:
        path.write_text(f"#!/bin/bash\n{text}\n")
        path.chmod(path.stat().st_mode | stat.S_IXUSR)

    note = f'echo "$(basename "$0") $*" >> {calls}; stat -c %a "$RAY_AUTH_TOKEN_PATH" >> {calls}'
    program(programs / "scontrol", "printf 'a\\nb\\nc\\n'")
    program(programs / "srun", 'while [[ $1 == -* ]]; do if [[ $1 == -w ]]; then shift; fi; shift; done; exec "$@"')
    program(programs / "hostname", "echo 127.0.0.1")
    listen = "import socket, sys, time; s = socket.create_server(('127.0.0.1', int(sys.argv[1]))); time.sleep(999)"
    # A head that listens, as the real one does; workers that stay.
    head = f'for a; do [[ $a == --port=* ]] && exec python3 -c "{listen}" "${{a#*=}}"; done; exec sleep 999'
    program(tmp_path / "venv" / "bin" / "ray", f"{note}\n{head}")
    # A study that fails once all four of them are noted.
    ends = f"until [[ $(grep -cx 600 {calls}) == 4 ]]; do sleep 0.1; done; exit 1"
    program(tmp_path / "venv" / "bin" / "study", f'{note}; echo "$RAY_AUTH_MODE" >> {calls}; {ends}')
    environment = {
        **os.environ, "PATH": f"{programs}:{os.environ['PATH']}", "HOME": str(home), "SLURM_JOB_ID": "7",
        "SLURM_JOB_NODELIST": "[a-c]", "SLURM_CPUS_PER_TASK": "8", "STUDY_VENV": str(tmp_path / "venv"),
    }  # fmt: skip
    script = ["bash", str(CLUSTERS / "slurm.sh"), "study.yaml"]
    done = subprocess.run(script, env=environment, capture_output=True, text=True, timeout=600, check=False)
    assert done.returncode == 1, done.stderr  # the study's own
    noted = calls.read_text().splitlines()
    assert len([line for line in noted if line.startswith("ray start --block") and "--head" in line]) == 1
    assert len([line for line in noted if "--address=127.0.0.1:20007" in line]) == 2
    folders = {Path(line.rpartition("--temp-dir=")[2]).parent for line in noted if line.startswith("ray start")}
    assert len(folders) == 3, "each node has its own"
    for folder in folders:
        assert stat.S_IMODE(folder.stat().st_mode) == 0o700
        folder.rmdir()
    assert "study run --quiet -c study.yaml" in noted
    assert "token" in noted
    assert noted.count("600") == 4
    assert list(home.iterdir()) == [], "the token is gone"
