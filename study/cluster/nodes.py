"""The nodes of a cluster, and what each says of itself: software, devices, encoders, places, memory."""

from __future__ import annotations

import os
import platform
import shutil
import stat
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Any

import ray
import ray.exceptions
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from embedding_jobs.encoders.config import EncoderConfig
from embedding_jobs.encoders.registry import encoder_kind, fingerprint
from embedding_jobs.errors import EncoderError, SourceError
from embedding_jobs.ray_session import MODE, token_path
from embedding_jobs.sources.tables import table_bytes
from study.config.schema import StudySpec
from study.execution.pack_context import encoder_configs

SOFTWARE = ("embedding-ablation-study", "ray", "torch", "transformers", "timm", "numpy")

_ANSWERS_WITHIN_S = 300


@dataclass(frozen=True)
class Node:
    """A node as Ray knows it."""

    id: str
    address: str
    n_cpus: float
    n_gpus: float
    object_store_bytes: float


@dataclass(frozen=True)
class FoundEncoder:
    """An encoder as a node found it: what its vectors depend on and their length, or why it cannot be had."""

    fingerprint: dict[str, Any] = field(default_factory=dict)
    dimension: int = 0
    problem: str = ""


@dataclass(frozen=True)
class NodeFacts:
    """What a node says of itself.

    Attributes:
        versions: Of python and of `SOFTWARE`.
        n_gpus: GPUs that torch sees.
        gpu_bytes: Memory of the smallest.
        gpus_are_busy: Whether some are in use, so that it did not look at them.
        encoders: By column.
        storage_problem: Why the study's directory cannot be written; "" if it can.
        table_bytes: Of the table's files; or
        table_problem: why it cannot be read.
        free_disk_bytes: Where the study's directory is.
        free_memory_bytes: Of the node.
        auth_mode: RAY_AUTH_MODE of its processes.
        token_is_open: Whether others than its owner can read the token's file.
    """

    versions: dict[str, str]
    n_gpus: int
    gpu_bytes: int
    gpus_are_busy: bool
    encoders: dict[str, FoundEncoder]
    storage_problem: str
    table_bytes: int
    table_problem: str
    free_disk_bytes: int
    free_memory_bytes: int
    auth_mode: str
    token_is_open: bool


def nodes() -> list[Node]:
    """The nodes of the cluster that are alive, the head first."""
    alive = [node for node in ray.nodes() if node["Alive"]]
    alive.sort(key=lambda node: ("node:__internal_head__" not in node["Resources"], node["NodeManagerAddress"]))
    return [
        Node(
            node["NodeID"],
            node["NodeManagerAddress"],
            node["Resources"].get("CPU", 0),
            node["Resources"].get("GPU", 0),
            node["Resources"].get("object_store_memory", 0),
        )
        for node in alive
    ]


def ask(spec: StudySpec, asked: Sequence[Node]) -> dict[str, NodeFacts | str]:
    """Has every node look at itself.

    Returns:
        By node id what it says, or why it does not.
    """
    look, free = ray.remote(_look_around), _free_gpus()
    waiting = {}
    for node in asked:
        busy = free.get(node.id, 0) < node.n_gpus  # whoever asks for them would wait for the packs that are there
        n_gpus = 0 if busy else node.n_gpus
        waiting[node.id] = look.options(**_pinned(node, n_gpus=n_gpus)).remote(
            encoder_configs(spec), spec.data.table, spec.directory, _mark(node), n_gpus > 0, busy
        )
    return _answers(waiting)


def read_across(spec: StudySpec, asked: Sequence[Node], facts: Mapping[str, NodeFacts | str]) -> dict[str, list[str]]:
    """Has every node read what each wrote into the study's directory, then removes it.

    Args:
        spec: The study.
        asked: Every node.
        facts: From `ask`: who could write.

    Returns:
        By node id the addresses of the nodes whose writing it does not find.
    """
    wrote = {
        _mark(node): node.address
        for node in asked
        if isinstance(found := facts[node.id], NodeFacts) and not found.storage_problem
    }
    read = ray.remote(_unseen)
    waiting = {node.id: read.options(**_pinned(node)).remote(spec.directory, list(wrote)) for node in asked}
    missing = _answers(waiting)
    with suppress(OSError):  # the directory holds more, or never was
        for mark in wrote:
            (spec.root / mark).unlink(missing_ok=True)
        spec.root.rmdir()
    # A node that cannot answer has said so when it was asked first.
    return {node: [wrote[mark] for mark in marks] for node, marks in missing.items() if isinstance(marks, list)}


def slots_of(spec: StudySpec, node: Node) -> int:
    """Packs that a node trains at once."""
    resources = spec.resources
    limits = [fitting(node.n_cpus, resources.cpus_per_pack)] if resources.cpus_per_pack else []
    if resources.gpus_per_pack:
        share = resources.gpus_per_pack
        limits.append(int(node.n_gpus) * fitting(1, share) if share < 1 else fitting(node.n_gpus, share))
    return min(limits) if limits else int(node.n_cpus)


def fitting(amount: float, share: float) -> int:
    """How many shares fit into an amount of a resource, counted as Ray counts: in ten thousandths."""
    return round(amount * 10_000) // round(share * 10_000)


def versions() -> dict[str, str]:
    """Of Python and of the libraries that results depend on, in this process."""
    return {"python": platform.python_version(), **{name: version(name) for name in SOFTWARE}}


def _pinned(node: Node, n_gpus: float = 0) -> dict[str, Any]:
    return {
        "scheduling_strategy": NodeAffinitySchedulingStrategy(node.id, soft=False),
        "num_cpus": 0,
        "num_gpus": n_gpus or None,
        "max_retries": 0,
    }


def _free_gpus() -> dict[str, float]:
    """GPUs that nobody holds, by node id; of single nodes Ray has no public way to tell."""
    found = ray._private.state.available_resources_per_node()
    return {node: resources.get("GPU", 0) for node, resources in found.items()}


def _answers(waiting: Mapping[str, ray.ObjectRef]) -> dict[str, Any]:
    """What tasks returned, or one line on why they did not; all of them have the same time."""
    ray.wait(list(waiting.values()), num_returns=len(waiting), timeout=_ANSWERS_WITHIN_S)
    return {node: _answer(reference) for node, reference in waiting.items()}


def _answer(reference: ray.ObjectRef) -> Any:
    try:
        return ray.get(reference, timeout=1)
    except ray.exceptions.GetTimeoutError:
        ray.cancel(reference, force=True)
        return f"no answer within {_ANSWERS_WITHIN_S} s; it hangs, or its Ray starts no process"
    except ray.exceptions.RayError as error:
        return (str(error).strip().splitlines() or [type(error).__name__])[-1]


def _mark(node: Node) -> str:
    return f".preflight-{node.id}"


def _look_around(
    encoders: Mapping[str, EncoderConfig], table: str, directory: str, mark: str, on_gpu: bool, gpus_are_busy: bool
) -> NodeFacts:
    from embedding_jobs.encoders.torch_runtime import gpu_memories

    root = Path(directory)
    problem, free = "", 0
    try:
        root.mkdir(parents=True, exist_ok=True)
        (root / mark).write_text(mark)
        free = shutil.disk_usage(root).free
    except OSError as error:
        problem = f"{directory}: {error.strerror}"
    n_bytes, table_problem = 0, ""
    try:
        n_bytes = table_bytes(table)
    except SourceError as error:
        table_problem = str(error)
    gpus, token = gpu_memories(), token_path()
    return NodeFacts(
        versions=versions(),
        n_gpus=len(gpus),
        gpu_bytes=min(gpus, default=0),
        gpus_are_busy=gpus_are_busy,
        encoders=_load(encoders, "cuda" if on_gpu and gpus else "cpu"),
        storage_problem=problem,
        table_bytes=n_bytes,
        table_problem=table_problem,
        free_disk_bytes=free,
        free_memory_bytes=_free_memory(),
        auth_mode=os.environ.get(MODE, "disabled").lower(),
        token_is_open=token.exists() and bool(stat.S_IMODE(token.stat().st_mode) & 0o077),
    )


def _unseen(directory: str, marks: Sequence[str]) -> list[str]:
    missing = []
    for mark in marks:
        try:
            if (Path(directory) / mark).read_text() != mark:
                missing.append(mark)
        except OSError:
            missing.append(mark)
    return missing


def _load(encoders: Mapping[str, EncoderConfig], device: str) -> dict[str, FoundEncoder]:
    """Loads each encoder once, columns that share one together."""
    loaded: dict[str, FoundEncoder] = {}
    for config in encoders.values():
        if repr(config) not in loaded:
            try:
                made_of, kind = fingerprint(config), encoder_kind(config)
                kind.preprocessor(config)
                loaded[repr(config)] = FoundEncoder(made_of, kind.encoder(config, device, 1).dimension)
            except EncoderError as error:
                loaded[repr(config)] = FoundEncoder(problem=str(error))
    return {column: loaded[repr(config)] for column, config in encoders.items()}


def _free_memory() -> int:
    for line in Path("/proc/meminfo").read_text().splitlines():
        if line.startswith("MemAvailable:"):
            return int(line.split()[1]) * 1024
    return 0
