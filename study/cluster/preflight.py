"""Will the study run on every node? What the nodes say of themselves, held against what it needs and each other."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from analysis.format import in_gb
from embedding_jobs.store.manifests import comparable
from study.cluster.nodes import Node, NodeFacts, fitting, slots_of, versions
from study.config.addresses import is_loopback
from study.config.schema import StudySpec

CHECKS = ("answers", "versions", "devices", "encoders", "storage", "table", "disk", "memory", "token")

"""What is asked of each node, in the order of the table."""


@dataclass(frozen=True)
class Check:
    """One question, and a node's answer.

    Attributes:
        node: Its address.
        what: One of `CHECKS`, or `tracker`.
        ok: Whether it is as it must be.
        says: What was found.
        remedy: What to do where it is not.
    """

    node: str
    what: str
    ok: bool
    says: str
    remedy: str = ""


@dataclass(frozen=True)
class Needs:
    """What a study asks of a node.

    Attributes:
        to_write_bytes: Of what store and records still lack, at most.
        matrix_bytes: Of the embeddings, which every node holds once.
        pack_bytes: Of the memory of one pack in training, beside the embeddings.
    """

    to_write_bytes: int
    matrix_bytes: int
    pack_bytes: int


def judge(
    spec: StudySpec,
    asked: Sequence[Node],
    facts: Mapping[str, NodeFacts | str],
    unseen: Mapping[str, list[str]],
    needs: Needs | None,
) -> list[Check]:
    """Compares what nodes say of themselves with what the study needs, and with each other.

    Args:
        spec: The study.
        asked: Every node.
        facts: From `ask`.
        unseen: From `read_across`.
        needs: What the study asks for; None where that could not be found out.
    """
    known = {node: found for node, found in facts.items() if isinstance(found, NodeFacts)}
    first = next(iter(known.values()), None)
    checks = []
    for node in asked:
        found = facts[node.id]
        if not isinstance(found, NodeFacts):
            remedy = (
                "see whether Ray still works there, and install the same version of this project for the Python that "
                "runs `ray start`"
            )
            checks.append(Check(node.address, "answers", False, found, remedy))
            continue
        assert first is not None
        checks.append(Check(node.address, "answers", True, "yes"))
        checks += _judge_software(node, found, first)
        checks += _judge_places(spec, node, found, first, unseen.get(node.id, []))
        if needs is not None:
            checks += _judge_sizes(spec, node, found, needs)
        checks.append(_judge_token(node, found))
    return checks


def check_tracker(spec: StudySpec) -> Check:
    """Whether the driver, which alone writes to it, reaches the tracker."""
    from study.errors import TrackingError
    from study.tracking.mlflow import check_server

    try:
        check_server(spec.tracking_uri)
    except TrackingError as error:
        remedy = (
            "start it, correct `tracking.uri`, or set MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD for the "
            "study's driver, on a cluster in the environment of `ray start --head`; the study runs without it, too, "
            "and `study sync` writes later"
        )
        return Check("driver", "tracker", False, f"{spec.tracking_uri}: {error}", remedy)
    return Check("driver", "tracker", True, spec.tracking_uri)


def _judge_software(node: Node, found: NodeFacts, first: NodeFacts) -> Iterator[Check]:
    mine = versions()
    other = {name: f"{name} {found.versions[name]} instead of {mine[name]}" for name in mine}
    other = {name: says for name, says in other.items() if found.versions[name] != mine[name]}
    remedy = "install it there with `pip install -c constraints.txt`, as here"
    yield Check(node.address, "versions", not other, ", ".join(other.values()) or "as here", remedy)
    remedy = "install a torch that fits its driver, or start Ray there with --num-gpus as many as there are"
    says = f"torch sees {found.n_gpus} GPUs, Ray counts {node.n_gpus:g}"
    if found.gpus_are_busy:
        says = f"of its {node.n_gpus:g} GPUs some are in use, so none was looked at"
    yield Check(node.address, "devices", found.gpus_are_busy or found.n_gpus == node.n_gpus, says, remedy)
    for column, encoder in found.encoders.items():
        if encoder.problem:
            remedy = "make the model available there under the same name (package, folder, or hub cache)"
            yield Check(node.address, "encoders", False, f"{column}: {encoder.problem}", remedy)
            return
        mine_made = comparable(first.encoders[column].fingerprint)
        theirs = comparable(encoder.fingerprint)
        differing = sorted(key for key in mine_made.keys() | theirs.keys() if mine_made.get(key) != theirs.get(key))
        if differing and not first.encoders[column].problem:
            remedy = "put the same files of the model on every node, or pin `revision`"
            yield Check(node.address, "encoders", False, f"{column}: other {', '.join(differing)}", remedy)
            return
    yield Check(node.address, "encoders", True, "loaded, of the same fingerprint")


def _judge_places(
    spec: StudySpec, node: Node, found: NodeFacts, first: NodeFacts, unseen: Sequence[str]
) -> Iterator[Check]:
    says = found.storage_problem
    if not says and unseen:
        says = f"it does not see there what {', '.join(unseen)} wrote"
    remedy = f"mount the same storage at {spec.directory} on every node, writable for the user that runs Ray"
    yield Check(node.address, "storage", not says, says or "written, and read by every node", remedy)
    says = found.table_problem
    if not says and found.table_bytes != first.table_bytes:
        says = f"{found.table_bytes:,} bytes instead of {first.table_bytes:,}"
    remedy = f"put the same table at {spec.data.table} on every node, or on storage that all of them see"
    yield Check(node.address, "table", not says, says or f"{found.table_bytes:,} bytes", remedy)


def _judge_sizes(spec: StudySpec, node: Node, found: NodeFacts, needs: Needs) -> Iterator[Check]:
    says = f"{in_gb(found.free_disk_bytes)} free, {in_gb(needs.to_write_bytes)} needed"
    remedy = f"make room in {spec.directory}, or set the encoders' `vector_dtype` to float16"
    yield Check(node.address, "disk", found.free_disk_bytes >= needs.to_write_bytes, says, remedy)
    slots = slots_of(spec, node)
    on_gpu = spec.resources.gpus_per_pack > 0
    needed = needs.matrix_bytes + (0 if on_gpu else slots * needs.pack_bytes)
    says = f"{in_gb(found.free_memory_bytes)} free, {in_gb(needed)} needed by {slots} packs at once"
    remedy = "raise `resources.cpus_per_pack` or set `resources.lanes_per_pack`, or take a larger node"
    ok = found.free_memory_bytes >= needed
    if ok and node.object_store_bytes < needs.matrix_bytes:
        ok, says = False, f"object store of {in_gb(node.object_store_bytes)}, embeddings of {in_gb(needs.matrix_bytes)}"
        remedy = "start Ray there with a larger --object-store-memory"
    if ok and on_gpu and slots and not found.gpus_are_busy:
        share = needs.matrix_bytes + needs.pack_bytes  # a process holds its own copy on the device
        packs_a_gpu = max(1, fitting(1, spec.resources.gpus_per_pack))
        ok = found.gpu_bytes >= packs_a_gpu * share
        says += f"; GPUs of {in_gb(found.gpu_bytes)}, {in_gb(packs_a_gpu * share)} needed"
        remedy = "raise `resources.gpus_per_pack`, or set `resources.lanes_per_pack`" if not ok else remedy
    yield Check(node.address, "memory", ok, says, remedy)


def _judge_token(node: Node, found: NodeFacts) -> Check:
    alone = is_loopback(node.address)
    if found.auth_mode != "token" and not alone:
        remedy = "start Ray with RAY_AUTH_MODE=token and the same token on every node"
        return Check(node.address, "token", False, "Ray runs code for anybody who reaches this node", remedy)
    if found.token_is_open:
        return Check(node.address, "token", False, "others can read the token's file", "chmod 600 it there")
    return Check(node.address, "token", True, "asked for" if found.auth_mode == "token" else "not needed: loopback")
