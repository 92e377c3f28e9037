"""Ask the nodes of a cluster about their software, devices, encoders, storage and memory."""

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
from embedding_jobs.errors import EncoderError, SourceError, StudyError
from embedding_jobs.files import private_folder
from embedding_jobs.ray_session import MODE, token_path
from embedding_jobs.sources.tables import table_bytes
from study.config.schema import StudySpec

_SOFTWARE = ("embedding-ablation-study", "ray", "torch", "transformers", "timm", "numpy")

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
    """An encoder as a node loaded it.

    Attributes:
        fingerprint: Everything that its vectors depend on.
        dimension: Length of its vectors.
        problem: Why it is not available; "" if it is.
    """

    fingerprint: dict[str, Any] = field(default_factory=dict)
    dimension: int = 0
    problem: str = ""


@dataclass(frozen=True)
class NodeFacts:
    """What a node reports.

    Attributes:
        versions: Version of Python and of each library that results depend on.
        n_gpus: GPUs that torch finds.
        gpu_bytes: Memory of the smallest GPU.
        gpus_are_busy: Whether some GPUs are in use, so that the node did not examine any.
        storage_problem: Why the study's directory is not writable; "" if it is.
        table_problem: Why the table is not readable; "" if it is.
        free_disk_bytes: Free space in the study's directory.
        auth_mode: RAY_AUTH_MODE of the node's processes.
        token_is_open: Whether users other than the owner can read the token file.
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


def alive_nodes() -> list[Node]:
    """Return the nodes of the cluster that are alive, the head first."""
    alive = [node for node in ray.nodes() if node["Alive"]]
    alive.sort(key=lambda node: ("node:__internal_head__" not in node["Resources"], node["NodeManagerAddress"]))
    return [
        Node(
            node["NodeID"],
            node["NodeManagerAddress"],
            *(node["Resources"].get(name, 0) for name in ("CPU", "GPU", "object_store_memory")),
        )
        for node in alive
    ]


def ask_nodes(spec: StudySpec, asked: Sequence[Node]) -> dict[str, NodeFacts | str]:
    """Run a task on every node that examines it.

    Returns:
        By node id, what the node reports, or why it does not.
    """
    examine, free_gpus = ray.remote(_examine), _free_gpus()
    waiting = {}
    for node in asked:
        busy = free_gpus.get(node.id, 0) < node.n_gpus  # a task that asks for them waits for the packs that hold them
        n_gpus = 0 if busy else node.n_gpus
        waiting[node.id] = examine.options(**_pinned(node, n_gpus=n_gpus)).remote(
            spec.encoders_by_column, spec.data.table, spec.directory, _mark(node), n_gpus > 0, busy
        )
    return _answers(waiting)


def read_across(spec: StudySpec, asked: Sequence[Node], facts: Mapping[str, NodeFacts | str]) -> dict[str, list[str]]:
    """Let every node read what each node wrote into the study's directory, then remove it.

    Returns:
        By node id, the addresses of the nodes whose files it does not find.
    """
    wrote = {
        _mark(node): node.address
        for node in asked
        if isinstance(found := facts[node.id], NodeFacts) and not found.storage_problem
    }
    find_missing = ray.remote(_missing_marks)
    waiting = {node.id: find_missing.options(**_pinned(node)).remote(spec.directory, list(wrote)) for node in asked}
    missing = _answers(waiting)
    with suppress(OSError):  # the directory holds more, or was never made
        for mark in wrote:
            (spec.root / mark).unlink(missing_ok=True)
        spec.root.rmdir()
    # A node that does not answer here is reported by `ask_nodes`.
    return {node: [wrote[mark] for mark in marks] for node, marks in missing.items() if isinstance(marks, list)}


def slots_of(spec: StudySpec, node: Node) -> int:
    """Return how many packs a node trains at once."""
    cpu_share, gpu_share = spec.resources.cpus_per_pack, spec.resources.n_gpus
    limits = [n_fitting(node.n_cpus, cpu_share)] if cpu_share else []
    if gpu_share:
        limits.append(
            int(node.n_gpus) * n_fitting(1, gpu_share) if gpu_share < 1 else n_fitting(node.n_gpus, gpu_share)
        )
    return min(limits) if limits else int(node.n_cpus)


def n_fitting(amount: float, share: float) -> int:
    """Return how many shares fit into an amount of a resource, which Ray counts in ten thousandths."""
    return round(amount * 10_000) // round(share * 10_000)


def software_versions() -> dict[str, str]:
    """Return the version of Python and of each library that results depend on, in this process."""
    return {"python": platform.python_version(), **{name: version(name) for name in _SOFTWARE}}


def _pinned(node: Node, n_gpus: float = 0) -> dict[str, Any]:
    return {
        "scheduling_strategy": NodeAffinitySchedulingStrategy(node.id, soft=False),
        "num_cpus": 0,
        "num_gpus": n_gpus or None,
        "max_retries": 0,
    }


def _free_gpus() -> dict[str, float]:
    """Return the number of free GPUs by node id. Ray has no public function for single nodes."""
    found = ray._private.state.available_resources_per_node()
    return {node: resources.get("GPU", 0) for node, resources in found.items()}


def _answers(waiting: Mapping[str, ray.ObjectRef]) -> dict[str, Any]:
    """Return the result of each task, or one line on why there is none; all of them have the same deadline."""
    ray.wait(list(waiting.values()), num_returns=len(waiting), timeout=_ANSWERS_WITHIN_S)
    return {node: _answer(reference) for node, reference in waiting.items()}


def _answer(reference: ray.ObjectRef) -> Any:
    try:
        return ray.get(reference, timeout=1)
    except ray.exceptions.GetTimeoutError:
        ray.cancel(reference, force=True)
        return f"no answer within {_ANSWERS_WITHIN_S} s: the node hangs, or Ray cannot start processes there"
    except ray.exceptions.RayError as error:
        return (str(error).strip().splitlines() or [type(error).__name__])[-1]


def _mark(node: Node) -> str:
    return f".preflight-{node.id}"


def _examine(
    encoders: Mapping[str, EncoderConfig], table: str, directory: str, mark: str, on_gpu: bool, gpus_are_busy: bool
) -> NodeFacts:
    from embedding_jobs.encoders.torch_runtime import gpu_memories

    root = Path(directory)
    storage_problem, free = "", 0
    try:
        private_folder(root)
        (root / mark).write_text(mark)
        free = shutil.disk_usage(root).free
    except StudyError as error:
        storage_problem = str(error)
    except OSError as error:
        storage_problem = f"{directory}: {error.strerror}"
    n_bytes, table_problem = 0, ""
    try:
        n_bytes = table_bytes(table)
    except SourceError as error:
        table_problem = str(error)
    gpus, token = gpu_memories(), token_path()
    return NodeFacts(
        versions=software_versions(),
        n_gpus=len(gpus),
        gpu_bytes=min(gpus, default=0),
        gpus_are_busy=gpus_are_busy,
        encoders=_load_encoders(encoders, "cuda" if on_gpu and gpus else "cpu"),
        storage_problem=storage_problem,
        table_bytes=n_bytes,
        table_problem=table_problem,
        free_disk_bytes=free,
        free_memory_bytes=_available_memory_bytes(),
        auth_mode=os.environ.get(MODE, "disabled").lower(),
        token_is_open=token.exists() and bool(stat.S_IMODE(token.stat().st_mode) & 0o077),
    )


def _missing_marks(directory: str, marks: Sequence[str]) -> list[str]:
    missing = []
    for mark in marks:
        try:
            if (Path(directory) / mark).read_text() != mark:
                missing.append(mark)
        except OSError:
            missing.append(mark)
    return missing


def _load_encoders(encoders: Mapping[str, EncoderConfig], device: str) -> dict[str, FoundEncoder]:
    """Load each encoder once; columns with the same settings share it."""
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


def _available_memory_bytes() -> int:
    for line in Path("/proc/meminfo").read_text().splitlines():
        if line.startswith("MemAvailable:"):
            return int(line.split()[1]) * 1024
    return 0
