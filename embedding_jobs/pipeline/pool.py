"""Choose how many processes encode, and what each takes of the cluster."""

from __future__ import annotations

from dataclasses import dataclass

import ray

_MAX_THREADS = 8  # of one encoder; the matrices of a batch are too small for more


@dataclass(frozen=True)
class EncoderPool:
    """The processes of an extraction and their resources.

    Attributes:
        n_actors: Number of encoders.
        device: "cpu" or "cuda".
        n_threads: Threads per encoder on a CPU.
        actor_cpus: CPUs per encoder.
        actor_gpus: GPUs per encoder.
        task_cpus: CPUs per preparing process.
        n_preparing: Number of preparing processes.
    """

    n_actors: int
    device: str
    n_threads: int
    actor_cpus: float
    actor_gpus: float
    task_cpus: float
    n_preparing: int


def encoder_pool() -> EncoderPool:
    """Plan one encoder per GPU; without GPUs one per eight CPUs of a node, with as many threads."""
    resources = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    n_gpus = int(sum(node.get("GPU", 0) for node in resources))
    if n_gpus:
        n_cpus = int(sum(node.get("CPU", 0) for node in resources))
        return EncoderPool(n_gpus, "cuda", 1, 0.5, 1.0, 1.0, max(1, n_cpus - 2 * n_gpus))
    cpus = [int(node.get("CPU", 0)) for node in resources if node.get("CPU", 0) >= 1] or [1]
    n_threads = min(_MAX_THREADS, *cpus)
    n_actors = sum(n // n_threads for n in cpus)
    # Fewer CPUs than threads are reserved: preparing and writing need only a small part of a core.
    return EncoderPool(n_actors, "cpu", n_threads, 0.5 * n_threads, 0.0, 0.25, max(1, sum(cpus) // 2))
