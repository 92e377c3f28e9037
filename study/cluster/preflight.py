"""Check whether the study will run on every node: compare the nodes' facts with its needs, and with each other."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from rich.filesize import decimal

from embedding_jobs.store.manifests import comparable
from study.cluster.nodes import Node, NodeFacts, n_fitting, slots_of, software_versions
from study.config.addresses import is_loopback
from study.config.schema import StudySpec
from study.errors import TrackingError


@dataclass(frozen=True)
class Check:
    """One check of one node.

    Attributes:
        node: Its address; "driver" for the tracker, to which the driver alone writes.
        what: answers, versions, devices, encoders, storage, table, disk, memory, token, or tracker.
        remedy: What to do where the node failed.
    """

    node: str
    what: str
    ok: bool
    found: str
    remedy: str = ""


@dataclass(frozen=True)
class Needs:
    """Memory and disk that a study needs.

    Attributes:
        to_write_bytes: Store and records that are still to be written, at most.
        matrix_bytes: The embeddings, which every node holds once.
        pack_bytes: Memory of one pack in training, beside the embeddings.
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
    """Compare the nodes' facts with what the study needs, and with each other.

    `facts` are from `ask_nodes`, `unseen` from `read_across`. Without `needs`, disk and memory are not checked.
    """
    known = [found for found in facts.values() if isinstance(found, NodeFacts)]
    checks = []
    for node in asked:
        found = facts[node.id]
        if not isinstance(found, NodeFacts):
            remedy = (
                "check that Ray works on this node, and install the same version of this project for the Python that "
                "runs `ray start`"
            )
            checks.append(Check(node.address, "answers", False, found, remedy))
            continue
        checks.append(Check(node.address, "answers", True, "yes"))
        checks += _judge_software(node, found, known[0])
        checks += _judge_places(spec, node, found, known[0], unseen.get(node.id, []))
        if needs is not None:
            checks += _judge_sizes(spec, node, found, needs)
        checks.append(_judge_token(node, found))
    return checks


def check_tracker(spec: StudySpec) -> Check:
    """Check that the driver, which alone writes to the tracker, reaches it."""
    from study.tracking.mlflow import check_server

    try:
        check_server(spec.tracking_uri)
    except TrackingError as error:
        remedy = (
            "start it, correct `tracking.uri`, or set MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD for the "
            "study's driver (on a cluster: in the environment of `ray start --head`); the study also runs without "
            "it, and `study sync` writes to it later"
        )
        return Check("driver", "tracker", False, f"{spec.tracking_uri}: {error}", remedy)
    return Check("driver", "tracker", True, spec.tracking_uri)


def _judge_software(node: Node, facts: NodeFacts, first: NodeFacts) -> Iterator[Check]:
    here = software_versions()
    other = [
        f"{name} {facts.versions[name]} instead of {here[name]}" for name in here if facts.versions[name] != here[name]
    ]
    remedy = "install this project there with `pip install -c constraints.txt`, as on the head"
    yield Check(node.address, "versions", not other, ", ".join(other) or "the same", remedy)
    remedy = "install a torch that fits the node's driver, or start Ray there with --num-gpus set to the real number"
    found = f"torch finds {facts.n_gpus} GPUs, Ray counts {node.n_gpus:g}"
    if facts.gpus_are_busy:
        found = f"some of the {node.n_gpus:g} GPUs are in use, so none was examined"
    yield Check(node.address, "devices", facts.gpus_are_busy or facts.n_gpus == node.n_gpus, found, remedy)
    yield _judge_encoders(node, facts, first)


def _judge_encoders(node: Node, facts: NodeFacts, first: NodeFacts) -> Check:
    for column, encoder in facts.encoders.items():
        if encoder.problem:
            remedy = "make the model available on this node under the same name (package, folder, or hub cache)"
            return Check(node.address, "encoders", False, f"{column}: {encoder.problem}", remedy)
        expected, made_of = comparable(first.encoders[column].fingerprint), comparable(encoder.fingerprint)
        differing = sorted(key for key in expected.keys() | made_of.keys() if expected.get(key) != made_of.get(key))
        if differing and not first.encoders[column].problem:
            remedy = "put the same model files on every node, or pin `revision`"
            return Check(node.address, "encoders", False, f"{column}: other {', '.join(differing)}", remedy)
    return Check(node.address, "encoders", True, "loaded, with the same fingerprints")


def _judge_places(
    spec: StudySpec, node: Node, facts: NodeFacts, first: NodeFacts, unseen: Sequence[str]
) -> Iterator[Check]:
    problem = facts.storage_problem
    if not problem and unseen:
        problem = f"the files that {', '.join(unseen)} wrote are not visible on this node"
    remedy = f"mount the same storage at {spec.directory} on every node, writable for the user that runs Ray"
    yield Check(node.address, "storage", not problem, problem or "written, and read by every node", remedy)
    problem = facts.table_problem
    if not problem and facts.table_bytes != first.table_bytes:
        problem = f"{facts.table_bytes:,} bytes instead of {first.table_bytes:,}"
    remedy = f"put the same table at {spec.data.table} on every node, or on storage that all nodes share"
    yield Check(node.address, "table", not problem, problem or f"{facts.table_bytes:,} bytes", remedy)


def _judge_sizes(spec: StudySpec, node: Node, facts: NodeFacts, needs: Needs) -> Iterator[Check]:
    found = f"{decimal(facts.free_disk_bytes)} free, {decimal(needs.to_write_bytes)} needed"
    remedy = f"free space in {spec.directory}, or set the encoders' `vector_dtype` to float16"
    yield Check(node.address, "disk", facts.free_disk_bytes >= needs.to_write_bytes, found, remedy)
    slots = slots_of(spec, node)
    on_gpu = spec.resources.n_gpus > 0
    needed = needs.matrix_bytes + (0 if on_gpu else slots * needs.pack_bytes)
    found = f"{decimal(facts.free_memory_bytes)} free, {decimal(needed)} needed by {slots} packs at once"
    remedy = "raise `resources.cpus_per_pack`, set `resources.lanes_per_pack`, or use a larger node"
    ok = facts.free_memory_bytes >= needed
    store_bytes = int(node.object_store_bytes)
    if ok and store_bytes < needs.matrix_bytes:
        ok, found = False, f"object store of {decimal(store_bytes)}, embeddings of {decimal(needs.matrix_bytes)}"
        remedy = "start Ray there with a larger --object-store-memory"
    if ok and on_gpu and slots and not facts.gpus_are_busy:
        n_packs = max(1, n_fitting(1, spec.resources.n_gpus))
        needed = n_packs * (needs.matrix_bytes + needs.pack_bytes)  # each process has a copy on the device
        ok = facts.gpu_bytes >= needed
        found += f"; GPUs of {decimal(facts.gpu_bytes)}, {decimal(needed)} needed"
        remedy = "raise `resources.gpus_per_pack`, or set `resources.lanes_per_pack`"
    yield Check(node.address, "memory", ok, found, remedy)


def _judge_token(node: Node, facts: NodeFacts) -> Check:
    if facts.auth_mode != "token" and not is_loopback(node.address):
        remedy = "start Ray with RAY_AUTH_MODE=token and the same token on every node"
        return Check(node.address, "token", False, "Ray runs code for anyone who reaches this node", remedy)
    if facts.token_is_open:
        return Check(node.address, "token", False, "other users can read the token file", "chmod 600 the token file")
    found = "required" if facts.auth_mode == "token" else "not required: loopback"
    return Check(node.address, "token", True, found)
