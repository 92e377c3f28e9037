"""What a study will take: counted from its file, and measured on two packs and one unit of rows."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from itertools import chain, pairwise

import numpy as np
import ray

from analysis.format import duration, in_gb
from embedding_jobs.encoders.config import encoder_name
from embedding_jobs.errors import SourceError, StoreError
from embedding_jobs.pipeline.cost import EncodingCost, measure_encoder
from embedding_jobs.pipeline.pool import EncoderPool, encoder_pool
from embedding_jobs.sources import tables
from embedding_jobs.store.store import Store
from study.cluster.nodes import Node, NodeFacts, ask, read_across, slots_of
from study.cluster.preflight import Check, Needs, check_tracker, judge
from study.config.schema import StudySpec
from study.execution.pack_context import encoder_configs, pilot_context
from study.search.proposals import proposals
from study.state.description import description_before
from study.state.status import read_status
from trainables.packs.cost import PackCost, measure_pack
from trainables.packs.pack import Pack, PackContext
from trainables.records.types import Candidate
from trainables.sampling.splits import n_train_items

_DRIVER_S_PER_PACK = 0.1  # tests/benchmarks/bench_study_packs.py

_PROCESS_BYTES = 800e6  # of a worker with torch, before it has loaded anything

_ITEM_BYTES, _TRIAL_BYTES = 24, 40_000  # of a record: an item's results, and all curves and figures of a trial


@dataclass(frozen=True)
class Phase:
    """The packs of one method in one phase.

    Attributes:
        name: The phase.
        method: The method.
        n_trials: Planned trials.
        n_left: Those that are not recorded.
        n_lanes: Trials of a pack.
        n_splits: Trials of a candidate.
        n_train: Training items of a trial.
    """

    name: str
    method: str
    n_trials: int
    n_left: int
    n_lanes: int
    n_splits: int
    n_train: int

    @property
    def n_packs_left(self) -> int:
        """Packs that are left to train; each is of one candidate."""
        n_whole, n_begun = divmod(self.n_left, self.n_splits)
        return n_whole * math.ceil(self.n_splits / self.n_lanes) + math.ceil(n_begun / self.n_lanes)


@dataclass(frozen=True)
class Work:
    """What is to be done, counted.

    Attributes:
        labels: Each item's label (items,).
        dimensions: Length of each column's vectors.
        columns_left: Columns that are not encoded whole.
        phases: The packs.
        n_shards: Of each column.
    """

    labels: tuple[str, ...]
    dimensions: Mapping[str, int]
    columns_left: tuple[str, ...]
    phases: tuple[Phase, ...]
    n_shards: int

    @property
    def n_items(self) -> int:
        """Rows of the table."""
        return len(self.labels)

    @property
    def n_features(self) -> int:
        """Length of a classifier's input."""
        return sum(self.dimensions.values())


@dataclass(frozen=True)
class Costs:
    """What was measured.

    Attributes:
        pool: The encoders that the cluster will run at once.
        encoding: By the column that was tried; columns of one encoder share it.
        packs: Of the packs that were tried.
    """

    pool: EncoderPool
    encoding: Mapping[str, EncodingCost]
    packs: tuple[PackCost, ...]


def inspect(spec: StudySpec, nodes: Sequence[Node]) -> tuple[list[Check], Work | None]:
    """Has every node checked, and what is to be done counted.

    Args:
        spec: The study.
        nodes: Of the cluster.

    Returns:
        The checks, and the work where encoders and table were found.
    """
    facts = ask(spec, nodes)
    unseen = read_across(spec, nodes, facts)
    dimensions = next((dims for found in facts.values() if (dims := _dimensions(found))), None)
    work = None
    if dimensions is not None:
        with suppress(SourceError):  # which the nodes have said
            work = count(spec, dimensions)
    checks = judge(spec, nodes, facts, unseen, needs(spec, work) if work is not None else None)
    return [*checks, check_tracker(spec)], work


def _dimensions(found: NodeFacts | str) -> dict[str, int] | None:
    """Length of each column's vectors, as a node found them; None where it lacks an encoder."""
    if isinstance(found, str) or any(encoder.problem for encoder in found.encoders.values()):
        return None
    return {column: encoder.dimension for column, encoder in found.encoders.items()}


def count(spec: StudySpec, dimensions: Mapping[str, int]) -> Work:
    """Counts what is to be done.

    Args:
        spec: The study.
        dimensions: Length of each column's vectors.

    Raises:
        embedding_jobs.sources.SourceError: The table cannot be read.
    """
    label = spec.data.label
    labels = tuple(chain.from_iterable(map(str, c[label]) for _, c in tables.stream(spec.data.table, [label])))
    planned_work = []
    for row in read_status(spec, description_before(spec)).methods:
        n_splits = len(spec.split_seeds(row.phase))
        n_lanes = min(spec.resources.lanes_per_pack or n_splits, n_splits)
        n_train = n_train_items(len(labels), spec.splits.train_fraction, row.phase)
        planned_work.append(Phase(row.phase, row.method, row.n_planned, row.n_missing, n_lanes, n_splits, n_train))
    store, left = Store(spec.store), []
    for column, config in encoder_configs(spec).items():
        try:
            store.column(f"{column}--{encoder_name(config)}")
        except StoreError:
            left.append(column)
    return Work(
        labels, dimensions, tuple(left), tuple(planned_work), math.ceil(len(labels) / spec.resources.rows_per_shard)
    )


def needs(spec: StudySpec, work: Work) -> Needs:
    """What a study asks of disk and memory."""
    configs = encoder_configs(spec)
    sizes_of = {"float16": 2, "float32": 4}
    widths = {column: n * sizes_of[configs[column].vector_dtype] for column, n in work.dimensions.items()}
    # Units lie beside the shards until their column is complete.
    store = sum(work.n_items * widths[column] * 2 for column in work.columns_left)
    records = sum(phase.n_left * (work.n_items * _ITEM_BYTES + _TRIAL_BYTES) for phase in work.phases)
    n_lanes = max((phase.n_lanes for phase in work.phases), default=1)
    sizes = [work.n_features, *spec.training.hidden, len(set(work.labels))]
    n_weights = sum(inputs * outputs for inputs, outputs in pairwise(sizes))
    # Weights, gradients and two moments; logits of the validation items, twice; a few copies of a batch.
    values = 4 * n_weights + 2 * work.n_items * sizes[-1] + 4 * spec.training.batch_size * work.n_features
    return Needs(int(store + records), work.n_items * work.n_features * 4, int(_PROCESS_BYTES + 4 * n_lanes * values))


def measure(spec: StudySpec, work: Work) -> Costs:
    """Encodes a unit with each encoder that has something left, and trains two packs for a few epochs.

    Nothing of it is kept, and no result depends on it.
    """
    pool, configs = encoder_pool(), encoder_configs(spec)
    tried: dict[str, str] = {}
    for column in work.columns_left:
        tried.setdefault(repr(configs[column]), column)
    encode = ray.remote(measure_encoder).options(
        max_retries=0, num_cpus=pool.actor_cpus, num_gpus=pool.actor_gpus or None
    )
    # One after the other: each encoder has its node's threads to itself, as it will have.
    measured = {
        column: ray.get(encode.remote(spec.data.source, column, configs[column], pool.device, pool.n_threads))
        for column in tried.values()
    }
    encoding = {column: measured[tried[repr(configs[column])]] for column in work.columns_left}
    context = pilot_context(spec, work.labels, work.n_features)
    packs = [Pack(phase.name, _candidate(spec, phase.method), _splits(spec, phase)) for phase in _typical(work)]
    cpus, gpus = spec.resources.cpus_per_pack, spec.resources.gpus_per_pack or None
    train = ray.remote(_train).options(max_retries=0, num_cpus=cpus, num_gpus=gpus)
    return Costs(pool, encoding, tuple(ray.get([train.remote(context, pack) for pack in packs])))


def in_words(
    spec: StudySpec, work: Work, costs: Costs | None, nodes: Sequence[Node], price_per_hour: float | None
) -> Iterator[str]:
    """The plan in numbers, line by line.

    Args:
        spec: The study.
        work: What is to be done.
        costs: What was measured; None for counts alone.
        nodes: Of the cluster.
        price_per_hour: Of a node; None for no sum.
    """
    asked = needs(spec, work)
    n_trials = sum(phase.n_trials for phase in work.phases)
    n_left, n_packs = sum(p.n_left for p in work.phases), sum(p.n_packs_left for p in work.phases)
    n_slots = sum(slots_of(spec, node) for node in nodes)
    yield (
        f"Embeddings: {work.n_items:,} rows in {work.n_shards:,} shards a column, {work.n_features:,} numbers a row; "
        f"{len(work.columns_left)} of {len(work.dimensions)} columns to encode. Still to be written: at "
        f"most {in_gb(asked.to_write_bytes)}."
    )
    yield f"Training: {n_trials:,} trials, {n_left:,} of them left, in {n_packs:,} packs; {n_slots:,} packs at once."
    if not n_slots:
        yield (
            "No node that is up can take a pack, so nothing was tried: lower `resources.cpus_per_pack` or "
            "`gpus_per_pack`, or add nodes (an autoscaler adds them with the study; `min_workers` has them up before)."
        )
    if costs is None or not n_slots:
        return
    encode_s, encoding_s = _encoding_s(work, costs)
    for column, rates in costs.encoding.items():
        yield f"  {column}: {rates.encoded_per_s:,.0f} inputs/s by each of {costs.pool.n_actors} encoders, measured."
    pack_s = 0.0
    for phase in work.phases:
        pack_s += phase.n_packs_left * _pack_s(spec, phase, work, costs.packs)
    for cost in costs.packs:
        yield (
            f"  {cost.pack.candidate}, {len(cost.pack.splits)} splits at once: {cost.epoch_s:,.3g} s an epoch, "
            f"{cost.evaluation_s:,.3g} s an evaluation, process of {in_gb(cost.process_bytes)}; measured on "
            f"{cost.device}."
        )
    each = spec.resources.gpus_per_pack or spec.resources.cpus_per_pack
    training_s = max(pack_s / min(n_slots, max(n_packs, 1)), n_packs * _DRIVER_S_PER_PACK)
    encoder = "GPU" if costs.pool.device == "cuda" else "core"
    trainer = "GPU" if spec.resources.gpus_per_pack else "core"
    told = f"{_device_time(encode_s, encoder)} to encode, {_device_time(pack_s * each, trainer)} to train"
    yield f"Work: about {told}; the start of processes and the report come on top."
    yield f"Time on these {len(nodes)} nodes: about {duration(encoding_s)} to encode, {duration(training_s)} to train."
    if price_per_hour is not None:
        total_h = (encoding_s + training_s) / 3600
        price = total_h * len(nodes) * price_per_hour
        yield f"Price: about {price:,.2f} = {total_h:,.3g} h x {len(nodes)} nodes x {price_per_hour:g} an hour."


def _device_time(seconds: float, device: str) -> str:
    """Device time to read."""
    return f"{seconds / 3600:,.3g} {device}-hours" if seconds >= 3600 else f"{seconds / 60:,.3g} {device}-minutes"


def _encoding_s(work: Work, costs: Costs) -> tuple[float, float]:
    """Device seconds, and time on the cluster, of what is left to encode."""
    pool, device_s, elapsed_s = costs.pool, 0.0, 0.0
    for cost in costs.encoding.values():
        device_s += work.n_items / cost.encoded_per_s * (1 if pool.device == "cuda" else pool.n_threads)
        rate = min(pool.n_actors * cost.encoded_per_s, pool.n_preparing * cost.prepared_per_s)
        elapsed_s += work.n_items / rate
    return device_s, elapsed_s


def _pack_s(spec: StudySpec, phase: Phase, work: Work, measured: Sequence[PackCost]) -> float:
    """Seconds of one pack, from those that were measured with the same objective; lanes and items scale it."""
    training, objective = spec.training, Candidate(phase.method).objective
    n_train = {known.name: known.n_train for known in work.phases}
    n_evaluations = math.ceil(training.n_epochs(objective) / training.evaluate_every_epochs)
    like = [cost for cost in measured if cost.pack.candidate.objective == objective] or measured
    total = 0.0
    for cost in like:
        epochs_s = (training.epochs - 1) * cost.epoch_s + (training.pretraining.epochs - 1) * cost.pretraining_epoch_s
        epochs_s *= phase.n_train / n_train[cost.pack.phase]
        pack_s = cost.shortest_s + epochs_s + (n_evaluations - 1) * cost.evaluation_s
        total += pack_s * phase.n_lanes / len(cost.pack.splits)
    return total / len(like)


def _typical(work: Work) -> list[Phase]:
    """Two packs to try: of each objective, else of two methods."""
    first = [phase for phase in work.phases if phase.name == work.phases[0].name]
    by_objective = {Candidate(phase.method).objective: phase for phase in first}
    return list(by_objective.values()) if len(by_objective) > 1 else [first[0], first[-1]]


def _candidate(spec: StudySpec, method: str) -> Candidate:
    """The first that will be proposed."""
    batch = proposals(spec.search, method).next_batch({})
    assert batch
    return batch[0]


def _splits(spec: StudySpec, phase: Phase) -> tuple[int, ...]:
    return spec.split_seeds(phase.name)[: phase.n_lanes]


def _train(context: PackContext, pack: Pack) -> PackCost:
    # Made up here, where it is needed: what a step costs does not depend on what the numbers are.
    shape = len(context.labels), context.embeddings.shape[1]
    matrix = np.random.default_rng(0).standard_normal(shape, np.float32)
    return measure_pack(replace(context, embeddings=matrix), pack)
