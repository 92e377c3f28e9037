"""Whether nodes are large enough for what a study starts on them. Ray itself waits for a larger node for ever."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass

import ray
from ray.autoscaler.v2.utils import is_autoscaler_v2
from ray.experimental.internal_kv import _internal_kv_get

from embedding_jobs.pipeline.pool import encoder_pool
from study.config.machine_rules import amounts_text
from study.config.schema import StudySpec
from study.errors import ClusterError

_AUTOSCALER_STATUS = b"__autoscaling_status"


@dataclass(frozen=True)
class _Share:
    """What one process needs of a node."""

    what: str
    n_cpus: float
    n_gpus: float
    remedy: str


def missing_node(spec: StudySpec, *, encodes: bool, trains: bool, local: bool) -> str | None:
    """Check that there is a node for an encoder and for a pack, before anything is computed.

    Args:
        spec: The study.
        encodes: Whether something is to be encoded.
        trains: Whether something is to be trained.
        local: Whether the Ray is one of this machine alone.

    Returns:
        What the cluster must add, for a cluster that adds nodes by itself; None if every process has a node.

    Raises:
        ClusterError: No node is large enough, and the cluster does not add any.
    """
    nodes = [(one.get("CPU", 0), one.get("GPU", 0)) for one in (n["Resources"] for n in ray.nodes() if n["Alive"])]
    for share in _shares(spec, encodes=encodes, trains=trains):
        if any(n_cpus >= share.n_cpus and n_gpus >= share.n_gpus for n_cpus, n_gpus in nodes):
            continue
        n_cpus, n_gpus = max(nodes, key=lambda node: node[::-1] if share.n_gpus else node)
        needed, largest = amounts_text(share.n_cpus, share.n_gpus), amounts_text(n_cpus, n_gpus)
        if not local and _adds_nodes():
            return f"a node with {needed} for {share.what.lower()} (the largest has {largest})"
        place = "this machine" if local else "the largest node of the cluster"
        raise ClusterError(f"{share.what} needs {needed}, and {place} has {largest}: {share.remedy}.")
    return None


def _shares(spec: StudySpec, *, encodes: bool, trains: bool) -> Iterator[_Share]:
    if encodes:
        pool = encoder_pool()
        remedy = "start Ray there with --num-cpus of at least 1"
        yield _Share("An encoder", pool.actor_cpus, pool.actor_gpus, remedy)
        yield _Share("The preparation of inputs", pool.task_cpus, 0, remedy)
    if trains:
        remedy = "lower `resources.cpus_per_pack` or `resources.gpus_per_pack`, or run the study where such a node is"
        yield _Share("A pack", spec.resources.cpus_per_pack, spec.resources.n_gpus, remedy)


def _adds_nodes() -> bool:
    """Return whether the cluster has an autoscaler. Ray has no public function for it."""
    if is_autoscaler_v2(fetch_from_server=True):
        return True
    status = _internal_kv_get(_AUTOSCALER_STATUS)
    if status is None:
        return True  # a cluster that has just started does not know it yet
    report = json.loads(status).get("autoscaler_report") or {}
    # Without an autoscaler, Ray lists every node as a type of its own.
    types = report.get("node_type_mapping") or {}
    return any(not kind.startswith("node_") for kind in types.values())
