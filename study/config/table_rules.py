"""Check a study file's `data` against its table: columns, rows, and enough of them for splits and batches."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator

import numpy as np
import numpy.typing as npt

from analysis.format import plural
from embedding_jobs.errors import SourceError
from embedding_jobs.sources.cells import role_of
from embedding_jobs.sources.items import SourceFacts
from embedding_jobs.sources.tables import stream_rows, table_columns
from study.config.method_rules import nearest
from study.config.schema import Data, Search, Splits, StudySpec, planned_splits, split_rules
from trainables.records.types import SEARCH, SELECTIONS, Candidate, Design
from trainables.sampling.splits import SplitItems, SplitRules, n_held_out, split_of
from trainables.training.settings import TrainingSettings


def named_columns(data: Data) -> dict[str, str | None]:
    """Return the table's columns by the key that names them."""
    named = {key: getattr(data, key) for key in ("id", "label", "image", "group", "split")}
    return named | {f"text.{index}": column for index, column in enumerate(data.text)}


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


def unknown_class_problems(data: Data, splits: Splits) -> Iterator[str]:
    """Yield a problem for each class to withhold that no row has."""
    if not splits.unknown_classes:
        return
    try:
        labels = {str(label) for _, columns in stream_rows(data.table, [data.label]) for label in columns[data.label]}
    except SourceError:
        return  # reported with the table
    for name in splits.unknown_classes:
        if name not in labels:
            meant = nearest(name, sorted(labels))
            yield f"`splits.unknown_classes` names {name!r}, which no row has as its label{meant}"


def size_problems(data: Data, splits: Splits, search: Search | None, training: TrainingSettings) -> Iterator[str]:
    """Yield a problem if a planned split has too few training items for a batch, or nothing to be judged by."""
    if splits.design is Design.OFFICIAL and data.split is None:
        return  # reported with the splits
    try:
        items, names = _split_items(data)
    except SourceError:
        return  # reported with the table
    n_items = len(items.labels)
    if n_items == 0:
        yield f"`data.table` must hold items, {data.table} has no rows"
        return
    search = search or Search(methods={"control": {}})
    unknown = tuple(index for index, name in enumerate(names) if name in splits.unknown_classes)
    rules = split_rules(splits, search, unknown)
    held_out = training.held_out_fraction
    for phase in SELECTIONS[search.selection]:
        cut = {one: split_of(items, rules, one) for one in planned_splits(splits, search, phase)}
        if empty := next((one for one, split in cut.items() if not len(split.validation)), None):
            yield f"`splits` leaves {phase} split {empty} no item to judge by: give more items, or smaller groups"
            return
        split, n_train = min(((one, len(split.train)) for one, split in cut.items()), key=lambda pair: pair[1])
        n_train -= n_held_out(n_train, held_out)
        if training.batch_size > n_train:
            less = f", less the {held_out:g} that early stopping holds out" if held_out else ""
            other = "" if splits.design is Design.OFFICIAL else ", or raise `splits.train_fraction`"
            yield (
                f"`training.batch_size` must not exceed the training items of any split: {phase} split {split} has "
                f"{n_train} of {n_items} rows{less}, got {training.batch_size}; lower it to at most "
                f"{n_train // 2 * 2}{other}"
            )
            return


def _split_items(data: Data) -> tuple[SplitItems, list[str]]:
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


def n_train_planned(data: Data, n_items: int, splits: Splits, phase: str) -> int:
    """Return how many items a split of a phase trains on, before classes are withheld.

    Raises:
        SourceError: The table, whose official splits are counted, is not readable.
    """
    items = SplitItems(np.zeros(n_items, np.int64), roles=official_roles(data, splits))
    rules = SplitRules(splits.design, splits.train_fraction)
    return rules.n_inner_train(items) if phase == SEARCH else rules.n_train(items)


def official_roles(data: Data, splits: Splits) -> npt.NDArray[np.str_] | None:
    """Return the `Role` of each row, empty where its cell names none (rows,); None unless the splits are official.

    Raises:
        SourceError: The table is not readable.
    """
    if splits.design is not Design.OFFICIAL or data.split is None:
        return None
    rows = stream_rows(data.table, [data.split])
    return np.array([role_of(cell) or "" for _, columns in rows for cell in columns[data.split]])


def metadata_in_words(facts: SourceFacts) -> Iterator[str]:
    """Yield how large the groups and the official split of a table are, where its study file names them."""
    if facts.n_groups:
        yield f"{plural(facts.n_groups, 'group')}: {plural(facts.n_largest_group, 'item')} in the largest."
    if facts.n_by_role:
        roles = [
            f"{facts.n_by_role[role]:,} {role}" for role in ("train", "validation", "test") if role in facts.n_by_role
        ]
        yield f"Official split: {', '.join(roles)}."


def training_in_words(spec: StudySpec) -> Iterator[str]:
    """Yield what a study file plans of its table: the steps of a trial in each phase, and how large the classes are.

    Raises:
        SourceError: The table is not readable.
    """
    rows = stream_rows(spec.data.table, [spec.data.label])
    sizes = sorted(Counter(label for _, columns in rows for label in columns[spec.data.label]).values())
    n_items, training = sum(sizes), spec.training
    objectives = dict.fromkeys(Candidate(method).objective for method in spec.search.methods)
    for phase in spec.phases:
        n_train = n_train_planned(spec.data, n_items, spec.splits, phase)
        n_steps = training.steps_per_epoch(n_train)
        for objective in objectives:
            n_epochs = training.n_epochs(objective)
            what = f"{phase}, {objective}" if len(objectives) > 1 else phase
            yield (
                f"{what}: {n_epochs:,} epochs x {plural(n_steps, 'batch', 'batches')} of "
                f"{training.batch_size} = {n_epochs * n_steps:,} steps a trial, on {n_train:,} of {n_items:,} items."
            )
    smallest, median, largest = sizes[0], sizes[len(sizes) // 2], sizes[-1]
    yield (
        f"{plural(len(sizes), 'class', 'classes')}: {plural(smallest, 'item')} in the smallest, {median:,} in the "
        f"median one, {largest:,} in the largest."
    )
    n_rare = sum(size * n_train < n_items for size in sizes)
    if n_rare:
        yield (
            f"{plural(n_rare, 'class has', 'classes have')} fewer than {math.ceil(n_items / n_train)} items: less than "
            'one is to be expected among the training items of a split. Where there is none, the class is "none".'
        )
