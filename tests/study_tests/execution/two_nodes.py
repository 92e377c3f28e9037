"""Runs a study on a cluster of two nodes on this machine, one of which is killed in the middle. Run by its test."""

import os
import sys
import threading
import time
from pathlib import Path

import ray
from ray._private.node import Node
from ray.cluster_utils import Cluster

from embedding_jobs.ray_session import use_token
from study.config.load import load_spec
from study.execution.run import run_study
from tests.study_tests.execution.processes import TRAINING, children_named


def kill_in_the_middle(cluster: Cluster, node: Node, records: Path) -> None:
    """Kill a node that is training a pack, when three packs are recorded."""
    (raylet,) = node.all_processes["raylet"]
    while len(list(records.glob("*.parquet"))) < 3 or not children_named(raylet.process.pid, TRAINING):
        time.sleep(0.05)
    cluster.remove_node(node, allow_graceful=False)
    print("killed", flush=True)


def main() -> None:
    use_token(create=True)
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "include_dashboard": False})
    try:
        node = cluster.add_node(num_cpus=1)
        spec = load_spec(sys.argv[1])
        os.environ["RAY_ADDRESS"] = cluster.address  # and not in the study file, whose digest the records name
        threading.Thread(target=kill_in_the_middle, args=(cluster, node, spec.records), daemon=True).start()
        result = run_study(spec)
        print("trained", result.n_trained, "failures", len(result.failures), flush=True)
    finally:
        ray.shutdown()
        cluster.shutdown()


if __name__ == "__main__":
    main()
