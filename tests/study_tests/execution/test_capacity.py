"""Whether a cluster has a node for a study's processes, by what Ray tells of the cluster; no Ray is started."""

import json
import re
from pathlib import Path
from typing import Any

import pytest

from study.config.load import check_spec
from study.config.schema import StudySpec
from study.errors import ClusterError
from study.execution.capacity import missing_node
from study.execution.devices import devices_in_words, with_devices
from tests.study_tests.conftest import settings

GPU_NODE, CPU_NODE = {"CPU": 8.0, "GPU": 1.0}, {"CPU": 16.0}

# The type of each node by its address: without an autoscaler, every node is of a type of its own.
FIXED = {"node_type_mapping": {"10.0.0.1": "node_0123", "10.0.0.2": "node_4567"}}
SCALING = {"node_type_mapping": {"10.0.0.1": "ray.head.default", "10.0.0.2": "ray.worker.default"}}


def cluster(monkeypatch: pytest.MonkeyPatch, nodes: list[dict[str, float]], report: Any, *, v2: bool = False) -> None:
    """Have Ray tell of these living nodes, of a large dead one, and of what its autoscaler reports."""
    told = [{"Alive": True, "Resources": one} for one in nodes]
    dead = {"Alive": False, "Resources": {"CPU": 512.0, "GPU": 64.0}}
    monkeypatch.setattr("ray.nodes", lambda: [dead, *told])
    status = None if report is None else json.dumps({"autoscaler_report": report}).encode()
    monkeypatch.setattr("study.execution.capacity._internal_kv_get", lambda key: status)
    monkeypatch.setattr("study.execution.capacity.is_autoscaler_v2", lambda *, fetch_from_server: v2)


def spec_of(folder: Path, **resources: float) -> StudySpec:
    return check_spec(settings(resources=resources), folder / "study.yaml", encodes=False)


@pytest.mark.parametrize(
    ("resources", "needed", "largest"),
    [
        ({"cpus_per_pack": 64}, "64 CPUs and 0 GPUs", "16 CPUs and 0 GPUs"),
        ({"cpus_per_pack": 2, "gpus_per_pack": 2}, "2 CPUs and 2 GPUs", "8 CPUs and 1 GPU"),
        ({"cpus_per_pack": 12, "gpus_per_pack": 1}, "12 CPUs and 1 GPU", "8 CPUs and 1 GPU"),
    ],
)
def test_a_pack_that_no_node_holds_is_refused_or_waits_for_a_new_node(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, resources: dict[str, float], needed: str, largest: str
) -> None:
    spec, nodes = spec_of(tmp_path, **resources), [CPU_NODE, GPU_NODE]
    words = f"A pack needs {needed}, and the largest node of the cluster has {largest}: lower `resources.cpus_per_pack`"
    cluster(monkeypatch, nodes, FIXED)
    with pytest.raises(ClusterError, match=re.escape(words)):
        missing_node(spec, encodes=False, trains=True, local=False)
    for report, v2 in ((SCALING, False), (None, False), (FIXED, True)):
        cluster(monkeypatch, nodes, report, v2=v2)
        assert missing_node(spec, encodes=False, trains=True, local=False) == (
            f"a node with {needed} for a pack (the largest has {largest})"
        )
        with pytest.raises(ClusterError, match=f"and this machine has {largest}"):
            missing_node(spec, encodes=False, trains=True, local=True)


def test_a_cluster_with_room_has_nothing_to_add(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cluster(monkeypatch, [CPU_NODE, GPU_NODE], FIXED)
    for resources in ({"cpus_per_pack": 16}, {"cpus_per_pack": 8, "gpus_per_pack": 1}):
        assert missing_node(spec_of(tmp_path, **resources), encodes=True, trains=True, local=False) is None
    cluster(monkeypatch, [{"CPU": 0.0}], FIXED)
    with pytest.raises(ClusterError, match=r"An encoder needs .*largest node of the cluster has 0 CPUs and 0 GPUs"):
        missing_node(spec_of(tmp_path), encodes=True, trains=False, local=False)


@pytest.mark.parametrize(
    ("nodes", "resources", "share", "words"),
    [
        ([CPU_NODE], {}, 0.0, "Packs train on CPUs."),
        ([CPU_NODE, GPU_NODE], {}, 0.25, "Packs train on GPUs, 4 on each."),
        ([{"CPU": 8.0, "GPU": 4.0}], {}, 0.5, "Packs train on GPUs, 2 on each."),
        ([GPU_NODE], {"cpus_per_pack": 3}, 0.5, "Packs train on GPUs, 2 on each."),
        ([GPU_NODE], {"cpus_per_pack": 0}, 0.25, "Packs train on GPUs, 4 on each."),
        ([CPU_NODE, GPU_NODE], {"cpus_per_pack": 12}, 0.0, "Packs train on CPUs."),
        ([{"CPU": 1.0, "GPU": 2.0}], {}, 1.0, "Packs train on GPUs, each on 1."),
        ([CPU_NODE, GPU_NODE], {"gpus_per_pack": 0}, 0.0, "Packs train on CPUs."),
        ([CPU_NODE], {"gpus_per_pack": 2}, 2.0, "Packs train on GPUs, each on 2."),
    ],
)
def test_packs_take_the_device_that_there_is(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    nodes: list[dict[str, float]],
    resources: dict[str, float],
    share: float,
    words: str,
) -> None:
    cluster(monkeypatch, nodes, FIXED)
    placed = with_devices(spec_of(tmp_path, **resources))
    assert placed.resources.gpus_per_pack == share
    assert devices_in_words(placed.resources) == words
    if share <= 1:
        assert missing_node(placed, encodes=False, trains=True, local=False) is None
