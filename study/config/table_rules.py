"""Check a study file's `data` against its table: columns, rows, and enough of them for splits and batches."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator

from analysis.format import plural
from embedding_jobs.errors import SourceError
from embedding_jobs.sources.tables import count_rows, stream_rows, table_columns
from study.config.method_rules import nearest
from study.config.schema import Data, Splits, StudySpec
from trainables.records.types import PROTOCOLS, Candidate
from trainables.sampling.splits import SEARCH_TRAIN_FRACTION, n_held_out, n_train_items
from trainables.training.settings import TrainingSettings


def named_columns(data: Data) -> dict[str, str | None]:
    """Return the table's columns by the key that names them."""
    named: dict[str, str | None] = {"id": data.id, "label": data.label, "image": data.image}
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


def size_problems(data: Data, splits: Splits, training: TrainingSettings) -> Iterator[str]:
    """Yield a problem if the table has too few rows."""
    try:
        n_items = count_rows(data.table)
    except SourceError:
        return  # reported with the table
    if n_items == 0:
        yield f"`data.table` must hold items, {data.table} has no rows"
        return
    held_out = training.held_out_fraction
    for phase in PROTOCOLS[splits.protocol]:
        n_train = n_train_items(n_items, splits.train_fraction, phase)
        n_train -= n_held_out(n_train, held_out)
        if training.batch_size > n_train:
            fractions = f"{splits.train_fraction:g}"
            if phase == "search":
                fractions = f"{SEARCH_TRAIN_FRACTION:g} x {fractions}"
            less = f", less the {held_out:g} that early stopping holds out" if held_out else ""
            yield (
                f"`training.batch_size` must not exceed the {phase} split's training items: {n_train} = {fractions} of "
                f"{n_items} rows{less}, got {training.batch_size}; lower it to at most {n_train // 2 * 2}, or raise "
                "`splits.train_fraction`"
            )
            return


def training_in_words(spec: StudySpec) -> Iterator[str]:
    """Yield what a study file plans of its table: the steps of a trial in each phase, and how large the classes are.

    Raises:
        SourceError: The table is not readable.
    """
    rows = stream_rows(spec.data.table, [spec.data.label])
    sizes = sorted(Counter(label for _, columns in rows for label in columns[spec.data.label]).values())
    n_items, fraction, training = sum(sizes), spec.splits.train_fraction, spec.training
    objectives = dict.fromkeys(Candidate(method).objective for method in spec.search.methods)
    for phase in PROTOCOLS[spec.splits.protocol]:
        n_train = n_train_items(n_items, fraction, phase)
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
