"""A pool of encoder actors for tables that arrive later."""

from __future__ import annotations

from dataclasses import dataclass

import ray
import ray.data
import ray.exceptions

_MAX_THREADS = 8  # of one encoder; more of them share the small matrices of one batch badly


@dataclass(frozen=True)
class EncoderPool:
    """The processes of an extraction, and what each takes of the cluster.

    Attributes:
        n_actors: Encoders.
        device: "cpu" or "cuda".
        n_threads: Threads of an encoder on a CPU.
        actor_cpus: CPUs of an encoder.
        actor_gpus: GPUs of an encoder.
        task_cpus: CPUs of a preparing process.
        n_preparing: Preparing processes.
    """

    n_actors: int
    device: str
    n_threads: int
    actor_cpus: float
    actor_gpus: float
    task_cpus: float
    n_preparing: int


def encoder_pool() -> EncoderPool:
    """One encoder a GPU; without any, one for each eight CPUs of a node, with the node's CPUs as its threads."""
    resources = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    n_gpus = int(sum(node.get("GPU", 0) for node in resources))
    if n_gpus:
        n_cpus = int(sum(node.get("CPU", 0) for node in resources))
        return EncoderPool(n_gpus, "cuda", 1, 0.5, 1.0, 1.0, max(1, n_cpus - 2 * n_gpus))
    cpus = [int(node.get("CPU", 0)) for node in resources if node.get("CPU", 0) >= 1] or [1]
    n_threads = min(_MAX_THREADS, *cpus)
    n_actors = sum(n // n_threads for n in cpus)
    # The reservation is below the threads: preparing and writing need little, not a core of their own.
    return EncoderPool(n_actors, "cpu", n_threads, 0.5 * n_threads, 0.0, 0.25, max(1, sum(cpus) // 2))
