"""Estimate the work of a study: counted from its file, and measured on two packs and one unit of rows."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from itertools import pairwise

import numpy as np
import ray
from rich.filesize import decimal

from analysis.format import duration, plural
from embedding_jobs.encoders.config import column_name
from embedding_jobs.errors import SourceError, StoreError
from embedding_jobs.pipeline.cost import EncodingCost, measure_encoder
from embedding_jobs.pipeline.pool import EncoderPool, encoder_pool
from embedding_jobs.sources.vectors import vector_length
from embedding_jobs.store.store import Store
from study.cluster.nodes import Node, NodeFacts, ask_nodes, read_across, slots_of
from study.cluster.preflight import Check, Needs, check_tracker, judge
from study.config.schema import StudySpec, split_rules
from study.config.table_rules import split_items
from study.execution.pack_context import pilot_context
from study.search.proposals import proposals
from study.search.space import is_per_split, n_candidates
from study.state.description import description_before
from study.state.status import read_status
from trainables.packs.cost import PackCost, measure_pack
from trainables.packs.pack import PackContext
from trainables.records.types import Candidate, Pack
from trainables.sampling.splits import SplitItems

_DRIVER_S_PER_PACK = 0.1  # tests/benchmarks/bench_study_packs.py

# Memory of a worker process that has loaded torch, and nothing else.
_PROCESS_BYTES = 800e6

# Size of a record: the results of one item, and all curves and figures of a trial.
_ITEM_BYTES, _TRIAL_BYTES = 24, 40_000


@dataclass(frozen=True)
class Phase:
    """The packs of one method in one phase.

    Of `n_trials` planned trials, `n_left` are not recorded. A pack has at most `n_lanes` trials, all of one candidate,
    which has `n_splits` trials. A trial has `n_train` training items.
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
        """Number of packs that are left to train."""
        n_whole, n_begun = divmod(self.n_left, self.n_splits)
        return n_whole * math.ceil(self.n_splits / self.n_lanes) + math.ceil(n_begun / self.n_lanes)


@dataclass(frozen=True)
class Work:
    """The counted work of a study.

    Attributes:
        items: What splits depend on, of every row.
        class_names: The sorted labels.
        dimensions: Length of each column's vectors.
        columns_left: Columns whose embeddings are missing or incomplete.
        n_shards: Shards per column.
    """

    items: SplitItems
    class_names: Sequence[str]
    dimensions: Mapping[str, int]
    columns_left: tuple[str, ...]
    phases: tuple[Phase, ...]
    n_shards: int

    @property
    def n_items(self) -> int:
        """Number of rows of the table."""
        return len(self.items.labels)

    @property
    def n_features(self) -> int:
        """Length of a classifier's input."""
        return sum(self.dimensions.values())


@dataclass(frozen=True)
class Costs:
    """The encoders that the cluster will run at once, the cost of encoding by column, and that of the packs tried."""

    pool: EncoderPool
    encoding: Mapping[str, EncodingCost]
    packs: tuple[PackCost, ...]


def inspect(spec: StudySpec, nodes: Sequence[Node]) -> tuple[list[Check], Work | None]:
    """Check every node, and count the work.

    Returns:
        The checks, and the work; None where no node has all encoders, or the table is not readable.
    """
    facts = ask_nodes(spec, nodes)
    unseen = read_across(spec, nodes, facts)
    encoders = [found.encoders for found in facts.values() if isinstance(found, NodeFacts)]
    loaded = [found for found in encoders if not any(encoder.problem for encoder in found.values())]
    work = None
    if loaded:
        with suppress(SourceError):  # the checks report it
            dimensions = {column: encoder.dimension for column, encoder in loaded[0].items()}
            for column in spec.data.vector_columns:
                dimensions[column.name] = vector_length(column, spec.data.table, spec.data.id)
            work = count_work(spec, dimensions)
    checks = judge(spec, nodes, facts, unseen, needs_of(spec, work) if work is not None else None)
    return [*checks, check_tracker(spec)], work


def count_work(spec: StudySpec, dimensions: Mapping[str, int]) -> Work:
    """Count what is left to do, given the length of each column's vectors.

    Raises:
        SourceError: The table is not readable.
    """
    items, class_names = split_items(spec.data)
    rules, phases = split_rules(spec.splits, spec.search, ()), []
    for row in read_status(spec, description_before(spec)).methods:
        n_splits = _splits_at_once(spec, row.phase, row.method)
        n_lanes = min(spec.resources.lanes_per_pack or n_splits, n_splits)
        n_train = rules.n_trained(items, row.phase)
        phases.append(Phase(row.phase, row.method, row.n_planned, row.n_missing, n_lanes, n_splits, n_train))
    store, left = Store(spec.store), []
    for column, config in spec.column_encoders.items():
        try:
            store.column(column_name(column, config))
        except StoreError:
            left.append(column)
    n_shards = math.ceil(len(items.labels) / spec.resources.rows_per_shard)
    return Work(items, class_names, dimensions, tuple(left), tuple(phases), n_shards)


def _splits_at_once(spec: StudySpec, phase: str, method: str) -> int:
    """Return on how many splits a candidate is trained together: in the test phase, perhaps only one has chosen it."""
    n_splits = len(spec.planned_splits(phase))
    if phase == spec.phases[0]:
        return spec.search.n_inner_splits if is_per_split(spec.search, method) else n_splits
    return n_splits if n_candidates(spec.search, method) == 1 else 1


def needs_of(spec: StudySpec, work: Work) -> Needs:
    """Estimate the disk and memory that a study needs."""
    configs = spec.column_encoders
    value_bytes = {column: np.dtype(config.vector_dtype).itemsize for column, config in configs.items()}
    # Units are stored beside the shards until their column is complete.
    store = sum(2 * work.n_items * work.dimensions[column] * value_bytes[column] for column in work.columns_left)
    records = sum(phase.n_left * (work.n_items * _ITEM_BYTES + _TRIAL_BYTES) for phase in work.phases)
    n_lanes = max((phase.n_lanes for phase in work.phases), default=1)
    sizes = [work.n_features, *spec.training.hidden, len(work.class_names)]
    n_weights = sum(inputs * outputs for inputs, outputs in pairwise(sizes))
    # Weights, gradients and two moments; two copies of the validation logits; four copies of a batch.
    values = 4 * n_weights + 2 * work.n_items * sizes[-1] + 4 * spec.training.batch_size * work.n_features
    return Needs(int(store + records), work.n_items * work.n_features * 4, int(_PROCESS_BYTES + 4 * n_lanes * values))


def measure_costs(spec: StudySpec, work: Work) -> Costs:
    """Encode one unit with each encoder that has work left, and train two packs for a few epochs.

    Nothing of it is kept, and no result depends on it.
    """
    pool, configs = encoder_pool(), spec.encoders_by_column
    encode = ray.remote(measure_encoder).options(
        max_retries=0, num_cpus=pool.actor_cpus, num_gpus=pool.actor_gpus or None
    )
    measured: dict[str, EncodingCost] = {}
    columns_left = [column for column in work.columns_left if column in configs]
    for column in columns_left:
        config = configs[column]
        if repr(config) not in measured:
            task = encode.remote(spec.data.source, column, config, pool.device, pool.n_threads)
            # One after the other: in the study, too, each encoder has its node's threads to itself.
            measured[repr(config)] = ray.get(task)
    encoding = {column: measured[repr(configs[column])] for column in columns_left}
    context = pilot_context(spec, work.items, work.class_names, work.n_features)
    packs = [_pack(spec, phase) for phase in _typical(work)]
    cpus, gpus = spec.resources.cpus_per_pack, spec.resources.n_gpus or None
    train = ray.remote(_measure_on_noise).options(max_retries=0, num_cpus=cpus, num_gpus=gpus)
    return Costs(pool, encoding, tuple(ray.get([train.remote(context, pack) for pack in packs])))


def plan_lines(
    spec: StudySpec, work: Work, costs: Costs | None, nodes: Sequence[Node], price_per_hour: float | None
) -> Iterator[str]:
    """Yield lines on the work, its time where costs were measured, and its price where that of a node is given."""
    n_trials = sum(phase.n_trials for phase in work.phases)
    n_left, n_packs = sum(p.n_left for p in work.phases), sum(p.n_packs_left for p in work.phases)
    n_slots = sum(slots_of(spec, node) for node in nodes)
    yield (
        f"Embeddings: {work.n_items:,} rows in {work.n_shards:,} shards per column, {work.n_features:,} dimensions; "
        f"{len(work.columns_left)} of {len(work.dimensions)} columns left. Still to be written: at "
        f"most {decimal(needs_of(spec, work).to_write_bytes)}."
    )
    yield f"Training: {n_trials:,} trials, {n_left:,} of them left, in {n_packs:,} packs; {n_slots:,} packs at once."
    if not n_slots:
        yield (
            "No node is large enough for a pack, so nothing was measured: lower `resources.cpus_per_pack` or "
            "`gpus_per_pack`, or add nodes (an autoscaler adds them during the study, `min_workers` before it)."
        )
    if costs is None or not n_slots:
        return
    for column, cost in costs.encoding.items():
        yield f"  {column}: {cost.encoded_per_s:,.0f} inputs/s per encoder, measured; {costs.pool.n_actors} encoders."
    for pack in costs.packs:
        yield (
            f"  {pack.pack.candidate}, {len(pack.pack.splits)} splits at once: {pack.epoch_s:,.3g} s per epoch, "
            f"{pack.evaluation_s:,.3g} s per evaluation, {decimal(pack.process_bytes)} of memory, measured on "
            f"{pack.device}."
        )
    encoder_s, encoding_s = _encoding_s(work, costs)
    pack_s = sum(phase.n_packs_left * _pack_s(spec, phase, work, costs.packs) for phase in work.phases)
    device_s = pack_s * (spec.resources.n_gpus or spec.resources.cpus_per_pack)
    training_s = max(pack_s / min(n_slots, max(n_packs, 1)), n_packs * _DRIVER_S_PER_PACK)
    encoder = "GPU" if costs.pool.device == "cuda" else "core"
    trainer = "GPU" if spec.resources.n_gpus else "core"
    yield (
        f"Work: about {_device_time(encoder_s, encoder)} to encode, {_device_time(device_s, trainer)} to train; the "
        "start of processes and the report come on top."
    )
    on_nodes = plural(len(nodes), "node")
    yield f"Time on {on_nodes}: about {duration(encoding_s)} to encode, {duration(training_s)} to train."
    if price_per_hour is not None:
        total_h = (encoding_s + training_s) / 3600
        price = total_h * len(nodes) * price_per_hour
        yield f"Price: about {price:,.2f} = {total_h:,.3g} h x {on_nodes} x {price_per_hour:g} per hour."


def _device_time(seconds: float, device: str) -> str:
    return f"{seconds / 3600:,.3g} {device}-hours" if seconds >= 3600 else f"{seconds / 60:,.3g} {device}-minutes"


def _encoding_s(work: Work, costs: Costs) -> tuple[float, float]:
    """Return the device seconds, and the seconds on the cluster, of what is left to encode."""
    pool, device_s, elapsed_s = costs.pool, 0.0, 0.0
    for cost in costs.encoding.values():
        device_s += work.n_items / cost.encoded_per_s * (1 if pool.device == "cuda" else pool.n_threads)
        rate = min(pool.n_actors * cost.encoded_per_s, pool.n_preparing * cost.prepared_per_s)
        elapsed_s += work.n_items / rate
    return device_s, elapsed_s


def _pack_s(spec: StudySpec, phase: Phase, work: Work, measured: Sequence[PackCost]) -> float:
    """Return the seconds of one pack: the mean of those measured with its objective, scaled by lanes and items."""
    training, objective = spec.training, Candidate(phase.method).objective
    n_train = {known.name: known.n_train for known in work.phases}
    n_evaluations = math.ceil(training.n_epochs(objective) / training.evaluate_every_epochs)
    like = [cost for cost in measured if cost.pack.phase == phase.name] or measured
    like = [cost for cost in like if cost.pack.candidate.objective == objective] or like
    total = 0.0
    for cost in like:
        epochs_s = (training.epochs - 1) * cost.epoch_s + (training.pretraining.epochs - 1) * cost.pretraining_epoch_s
        epochs_s *= phase.n_train / n_train[cost.pack.phase]
        pack_s = cost.shortest_s + epochs_s + (n_evaluations - 1) * cost.evaluation_s
        total += pack_s * phase.n_lanes / len(cost.pack.splits)
    return total / len(like)


def _typical(work: Work) -> list[Phase]:
    """Return the phases of the packs to measure, of each kind: one per objective; in a search of one, two methods."""
    found: list[Phase] = []
    for name in dict.fromkeys(phase.name for phase in work.phases):
        own = [phase for phase in work.phases if phase.name == name]
        by_objective = {Candidate(phase.method).objective: phase for phase in own}
        one_kind = len(by_objective) == 1 and not found
        found += [own[0], own[-1]] if one_kind else by_objective.values()
    return found


def _pack(spec: StudySpec, phase: Phase) -> Pack:
    """Return a pack of the first candidate that will be proposed."""
    batch = proposals(spec.search, phase.method).next_batch({})
    assert batch
    return Pack(phase.name, batch[0], spec.planned_splits(phase.name)[: phase.n_lanes])


def _measure_on_noise(context: PackContext, pack: Pack) -> PackCost:
    # Made on the worker that needs it; the time of a step does not depend on the values.
    shape = len(context.labels), context.embeddings.shape[1]
    matrix = np.random.default_rng(0).standard_normal(shape, np.float32)
    return measure_pack(replace(context, embeddings=matrix), pack)
