"""Whether a pack fits on this machine, as far as can be told without Ray."""

from __future__ import annotations

import os
from pathlib import Path

from study.config.schema import AUTO_DEVICE, Resources


def amounts_text(n_cpus: float, n_gpus: float) -> str:
    """Return amounts of CPUs and GPUs in words, such as `2 CPUs and 1 GPU`."""
    return " and ".join(f"{n:g} {name}{'' if n == 1 else 's'}" for n, name in ((n_cpus, "CPU"), (n_gpus, "GPU")))


def too_large_here(resources: Resources) -> str | None:
    """Return why `study run` would refuse the study on this machine alone; None where nothing speaks against it."""
    n_cpus, n_gpus = os.cpu_count() or 1, _n_gpus()
    if resources.cpus_per_pack <= n_cpus and resources.n_gpus <= n_gpus:
        return None
    return (
        f"A pack needs {amounts_text(resources.cpus_per_pack, resources.n_gpus)} (`resources.cpus_per_pack`, "
        f"`resources.gpus_per_pack`), and this machine has {amounts_text(n_cpus, n_gpus)}: `study run` refuses the "
        "study here; on a cluster it needs a node of that size."
    )


def device_here(resources: Resources) -> str:
    """Return in words what packs train on, if on this machine."""
    n_gpus = _n_gpus()
    if resources.gpus_per_pack != AUTO_DEVICE:
        return "GPUs" if resources.gpus_per_pack else "CPUs"
    if not n_gpus:
        return "CPUs (no GPU is found here)"
    return "GPUs" if n_gpus == float("inf") else f"{n_gpus:g} GPU{'' if n_gpus == 1 else 's'}"


def _n_gpus() -> float:
    """Return how many GPUs Ray would count here at most."""
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if visible is not None and visible.strip() in ("", "-1", "NoDevFiles"):
        return 0
    if Path("/dev/kfd").exists() or Path("/dev/dxg").exists():
        return float("inf")  # AMD's, or Windows': they are not counted
    n_gpus = len(list(Path("/dev").glob("nvidia[0-9]*")))
    return n_gpus if visible is None else min(n_gpus, len(visible.split(",")))
