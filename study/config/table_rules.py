"""Check a study file's `data` against its table: columns, rows, and enough of them for splits and batches."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np

from analysis.format import plural
from embedding_jobs.errors import SourceError
from embedding_jobs.sources.cells import role_of
from embedding_jobs.sources.items import SourceFacts
from embedding_jobs.sources.tables import stream_rows, table_columns
from study.config.method_rules import nearest
from study.config.schema import Data, Search, Splits, StudySpec, planned_splits, split_rules
from trainables.records.types import SELECTIONS, Candidate, Design, SplitId
from trainables.sampling.splits import Split, SplitItems, hold_out, split_of
from trainables.training.settings import TrainingSettings

# A smaller batch is no advice: methods mix the items of a batch, and a step on few of them is mostly noise.
_SMALL_BATCH = 16

# More rows than these for each item of a batch are no advice, either.
_MOST_ROWS = 1000


def named_columns(data: Data) -> dict[str, str | None]:
    """Return the table's columns by the key that names them."""
    named = {key: getattr(data, key) for key in ("id", "label", "image", "group", "split")}
    for key, columns in (("text", data.text), ("vectors", data.vectors if isinstance(data.vectors, tuple) else ())):
        named |= {f"{key}.{index}": column for index, column in enumerate(columns)}
    return named


def table_problems(data: Data) -> Iterator[str]:
    """Yield a problem for each column that the table does not have."""
    try:
        present = table_columns(data.table)
    except SourceError as error:
        yield f"`data.table`: {error}"
        return
    if not present:
        yield f"`data.table` must have columns, {data.table} has none: is it empty?"
        return
    apart = next((mark for mark in ";\t|" if len(present) == 1 and mark in present[0]), None)
    if apart is not None:
        yield f"`data.table` must be a CSV file with commas, {data.table} has {apart!r} between its columns"
        return
    for key, name in named_columns(data).items():
        if name and name not in present:
            yield (
                f"`data.{key}` names the column `{name}`, which {data.table} does not have{nearest(name, present)}; "
                f"its columns are {', '.join(present)}"
            )


def item_problems(
    data: Data, splits: Splits, search: Search | None, training: TrainingSettings | None
) -> Iterator[str]:
    """Yield a problem for each unknown class that no row has, and for rows too few for the splits and batches.

    Args:
        data: The table.
        splits: The splits.
        search: The search; None where it is invalid, so that the sizes of plain nested splits are checked.
        training: The training; None where sizes cannot be checked.

    Raises:
        SourceError: The table is not readable.
    """
    items, names = split_items(data)
    for name in splits.unknown_classes:
        if name not in names:
            yield f"`splits.unknown_classes` names {name!r}, which no row has as its label{nearest(name, names)}"
    if not names:
        yield f"`data.table` must hold items, {data.table} has no rows"
    elif training is not None:
        plan = SplitPlan(items, names, splits, search or Search(methods={"control": {}}), training)
        if problem := plan.shortage():
            yield f"{problem}; {', or '.join(plan.remedies()) or 'give more items, or smaller groups'}"


def split_items(data: Data) -> tuple[SplitItems, list[str]]:
    """Return what splits depend on, of every row, and the sorted label names.

    Raises:
        SourceError: The table is not readable.
    """
    cells: dict[str, list[str]] = {column: [] for column in (data.label, data.group, data.split) if column}
    for _, columns in stream_rows(data.table, list(cells)):
        for column, values in columns.items():
            cells[column] += map(str, values)
    names, labels = np.unique(np.array(cells[data.label], dtype=object), return_inverse=True)
    groups = np.unique(np.array(cells[data.group]), return_inverse=True)[1] if data.group else None
    roles = np.array([role_of(cell) or "" for cell in cells[data.split]]) if data.split else None
    return SplitItems(labels.astype(np.int64), groups, roles), [str(name) for name in names]


@dataclass(frozen=True, eq=False)
class SplitPlan:
    """The items of a table, the sorted names of their classes, and what a study plans of them."""

    items: SplitItems
    names: list[str]
    splits: Splits
    search: Search
    training: TrainingSettings

    def cut(self, phase: str) -> dict[SplitId, tuple[Split, int]]:
        """Return a phase's splits as they are trained, without what early stopping holds out, and how much that is."""
        unknown = tuple(index for index, name in enumerate(self.names) if name in self.splits.unknown_classes)
        rules, found = split_rules(self.splits, self.search, unknown), {}
        for one in planned_splits(self.splits, self.search, phase):
            whole = split_of(self.items, rules, one)
            split, held_out = hold_out(whole, self.training.held_out_fraction, one.stream_seed)
            found[one] = (split, len(held_out))
        return found

    def shortage(self) -> str | None:
        """Return what a split has too few items for: a batch, or to be judged or stopped by; None if it has enough."""
        for phase in SELECTIONS[self.search.selection]:
            cut = self.cut(phase)
            for one, (split, n_held_out) in cut.items():
                if not len(split.validation):
                    return f"`splits` leaves {phase} split {one} no item to judge by"
                if self.training.early_stopping and not n_held_out:
                    return f"`training.early_stopping` finds no item to hold out in {phase} split {one}"
            which, n_train = min(((one, len(split.train)) for one, (split, _) in cut.items()), key=lambda pair: pair[1])
            if n_train < self.training.batch_size:
                fraction = self.training.held_out_fraction
                less = f", less the {fraction:g} that early stopping holds out" if fraction else ""
                return (
                    f"`training.batch_size` must not exceed the training items of any split: {phase} split {which} has "
                    f"{n_train:,} of {len(self.items.labels):,} rows{less}, got {self.training.batch_size}"
                )
        return None

    def remedies(self) -> Iterator[str]:
        """Yield changes of which each alone is enough, as tried on the items; the last is more rows, if that helps."""
        for more in _larger_trainings(self.splits):
            if not replace(self, splits=more).shortage():
                fewer = f" and `splits.n_splits` to {more.n_splits}" if more.n_splits < self.splits.n_splits else ""
                yield f"set `splits.train_fraction` to {more.train_fraction:g}{fewer}"
                break
        cuts = [self.cut(phase) for phase in SELECTIONS[self.search.selection]]
        size = min(len(split.train) for cut in cuts for split, _ in cut.values()) // 2 * 2
        if (
            _SMALL_BATCH <= size < self.training.batch_size
            and not replace(self, training=replace(self.training, batch_size=size)).shortage()
        ):
            yield f"lower `training.batch_size` to at most {size}"
        if rows := self.more_rows():
            yield rows

    def more_rows(self) -> str | None:
        """Return how many rows of the same kind would be enough; None where no number is."""
        n_items = n_rows = len(self.items.labels)
        while n_rows < _MOST_ROWS * self.training.batch_size:
            unit = 10 ** max(0, len(str(n_rows)) - 2)
            n_rows = math.ceil(1.05 * n_rows / unit) * unit
            if not replace(self, items=_repeated(self.items, int(0.9 * n_rows))).shortage():
                return f"give about {n_rows:,} rows of this kind: {n_items:,} are too few"
        return None


def _repeated(items: SplitItems, n_rows: int) -> SplitItems:
    """Return items of as many rows, each repeated alike; each time, the rows' groups are others."""
    n_items = len(items.labels)
    row = np.arange(n_rows) * n_items // n_rows
    time = np.arange(n_rows) - np.searchsorted(row, row)
    groups = None if items.groups is None else items.groups[row] + time * n_items
    return SplitItems(items.labels[row], groups, None if items.roles is None else items.roles[row])


def _larger_trainings(splits: Splits) -> Iterator[Splits]:
    """Yield splits of larger training parts, in order."""
    rules = split_rules(splits, Search(methods={"control": {}}), ())
    if splits.design is Design.RANDOM:
        shares = [share / 20 for share in range(1, 20) if share / 20 > rules.train_fraction]
        found = [(share, splits.n_splits) for share in shares]
    elif splits.design is Design.REVERSE_FOLDS:
        found = [(round(1 / k, 4), min(k, splits.n_splits)) for k in range(rules.n_folds - 1, 1, -1)]
    elif splits.design is Design.FOLDS:
        found = [(round(1 - 1 / k, 4), splits.n_splits) for k in range(rules.n_folds + 1, 21)]
    else:
        found = []
    for train_fraction, n_splits in found:
        yield splits.model_copy(update={"train_fraction": train_fraction, "n_splits": n_splits})


def metadata_in_words(facts: SourceFacts) -> Iterator[str]:
    """Yield how large groups, official split and vectors of a table are, where its study file names them."""
    if facts.n_groups:
        yield f"{plural(facts.n_groups, 'group')}: {plural(facts.n_largest_group, 'item')} in the largest."
    if facts.n_by_role:
        roles = [
            f"{facts.n_by_role[role]:,} {role}" for role in ("train", "validation", "test") if role in facts.n_by_role
        ]
        yield f"Official split: {', '.join(roles)}."
    for name, vectors in facts.vectors.items():
        missing = f", {plural(vectors.n_missing, 'row')} without one" if vectors.n_missing else ""
        least, median, largest = vectors.norms
        yield (
            f"Vectors `{name}`: {facts.n_items:,} x {vectors.dimension:,}{missing}; Euclidean norm {least:.3g} to "
            f"{largest:.3g}, median {median:.3g}."
        )


def training_in_words(spec: StudySpec) -> Iterator[str]:
    """Yield what a study file plans of its table: the steps of a trial in each phase, and how large the classes are.

    Raises:
        SourceError: The table is not readable.
    """
    items, names = split_items(spec.data)
    n_items, training = len(items.labels), spec.training
    plan = SplitPlan(items, names, spec.splits, spec.search, training)
    rules = split_rules(spec.splits, spec.search, ())
    objectives = dict.fromkeys(Candidate(method).objective for method in spec.search.methods)
    for phase in spec.phases:
        cut = plan.cut(phase).values()
        n_train = _span([len(split.train) for split, _ in cut])
        n_known = _span([len(np.unique(items.labels[split.train])) for split, _ in cut])
        n_steps = training.steps_per_epoch(rules.n_trained(items, phase))
        for objective in objectives:
            n_epochs = training.n_epochs(objective)
            what = f"{phase}, {objective}" if len(objectives) > 1 else phase
            yield (
                f"{what}: {n_epochs:,} epochs x {plural(n_steps, 'batch', 'batches')} of {training.batch_size} = "
                f"{n_epochs * n_steps:,} steps a trial, on {n_train} of {n_items:,} items and {n_known} of "
                f"{len(names):,} classes."
            )
    sizes = sorted(np.bincount(items.labels))
    smallest, median, largest = sizes[0], sizes[len(sizes) // 2], sizes[-1]
    yield (
        f"{plural(len(sizes), 'class', 'classes')}: {plural(smallest, 'item')} in the smallest, {median:,} in the "
        f'median one, {largest:,} in the largest. A class without training items is "none" in that split.'
    )


def _span(counts: Sequence[int]) -> str:
    low, high = min(counts), max(counts)
    return f"{low:,}" if low == high else f"{low:,} to {high:,}"
