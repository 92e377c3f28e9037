"""Choose the device that packs train on, where the study file leaves it to what there is."""

from __future__ import annotations

import ray

from study.config.schema import AUTO_DEVICE, Resources, StudySpec

# Packs that share a GPU at most: each has a copy of the embeddings there. More would wait for each other.
_MOST_PACKS = 4


def with_devices(spec: StudySpec) -> StudySpec:
    """Return a study whose packs have a share of a GPU where Ray has GPUs, else none. Ray is connected.

    As many packs share a GPU as its node has CPUs for, at most four. A study file that gives the share keeps it.
    """
    if spec.resources.gpus_per_pack != AUTO_DEVICE:
        return spec
    nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    n_cpus = spec.resources.cpus_per_pack
    large = [node for node in nodes if node.get("GPU", 0) >= 1 and node.get("CPU", 0) >= n_cpus]
    if not large:
        return _given(spec, 0.0)
    cpus_each = min(node.get("CPU", 0) / node["GPU"] for node in large)
    n_packs = int(cpus_each / n_cpus) if n_cpus else _MOST_PACKS
    return _given(spec, 1 / min(max(1, n_packs), _MOST_PACKS))


def with_own_device(resources: Resources) -> Resources:
    """Return resources with a GPU for training in this process, without Ray, if torch finds one."""
    if resources.gpus_per_pack != AUTO_DEVICE:
        return resources
    from embedding_jobs.encoders.torch_runtime import gpu_memories  # imports torch

    return resources.model_copy(update={"gpus_per_pack": 1.0 if gpu_memories() else 0.0})


def devices_in_words(resources: Resources) -> str:
    """Say what packs train on; the device is chosen."""
    if not resources.n_gpus:
        return "Packs train on CPUs."
    n_packs = 1 / resources.n_gpus
    return f"Packs train on GPUs, {f'{n_packs:.0f} on each' if n_packs > 1 else f'each on {resources.n_gpus:g}'}."


def _given(spec: StudySpec, n_gpus: float) -> StudySpec:
    return spec.model_copy(update={"resources": spec.resources.model_copy(update={"gpus_per_pack": n_gpus})})
