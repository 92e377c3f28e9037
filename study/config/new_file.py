"""Write a study file for a table: short, valid as it is, with a comment on each choice that a user may change."""

from __future__ import annotations

import math
import os
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from functools import partial
from itertools import count
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from analysis.format import plural
from embedding_jobs.encoders.config import PACKAGE_SCHEME
from embedding_jobs.sources.items import check_source
from embedding_jobs.sources.tables import FORMATS
from study.config.column_roles import data_of
from study.config.encoder_rules import OFFLINE_IMAGE, OFFLINE_TEXT, is_installed
from study.config.load import check_spec
from study.config.schema import Data, Search, Splits, split_rules
from study.config.table_rules import SplitPlan, split_items
from study.config.yaml_file import parse_yaml
from study.errors import SpecError
from trainables.records.types import TEST, Design
from trainables.sampling.splits import SplitItems
from trainables.training.settings import TrainingSettings

# Models of the hub, where the packages are not installed that have the same.
_HUB_TEXT, _HUB_IMAGE = "sentence-transformers/all-MiniLM-L6-v2", "tf_efficientnet_lite0"

_PAPER_TEXT = "google-bert/bert-base-uncased"

# With fewer rows than the first, a study is one of few labels; from the second on, a tenth is enough to train on.
_MIDDLE, _LARGE = 1_000, 20_000

_BATCH_SIZES = (128, 64, 32, 16)

# Items of the median class that a reverse fold trains on, at least.
_FEWEST_OF_CLASS = 4

_SEARCH = """\
search:                       # each split chooses alpha inside its own training items
  methods:
    control: {}
    e_mixup: {alpha: [0.1, 0.3]}
    e_stitchup: {alpha: [0.1, 0.3]}
    soft_e_mixup: {alpha: [0.1, 0.3], softness: 0.05}
    soft_e_stitchup: {alpha: [0.1, 0.3], softness: 0.05}
    # reference_logistic_regression: {c: [0.01, 0.1, 1]}   # no network; `study methods` lists all
  # n_inner_splits: 3         # a steadier choice, in about three times the time

# objective: {metric: macro_f1}   # what methods are compared by; auc_weighted if left out
# resources: {gpus_per_pack: 0}   # never a GPU; if left out, GPUs where there are some
# tracking: {uri: "http://HOST:5000"}   # an MLflow server; if left out, a file in the study's directory
"""


@dataclass(frozen=True)
class NewFile:
    """A study file that is valid, and not written yet.

    Attributes:
        text: Its contents.
        summary: What was found in the table, in one line.
    """

    text: str
    summary: str


def new_file(table: str, output: Path, given: Mapping[str, Any], encoder: str | None = None) -> NewFile:
    """Make a study file for a table, and check it as `study check` does.

    Args:
        table: Path or address of the table; a relative path is one from the working directory.
        output: Where the file will be. Its paths are relative to that folder.
        given: The table's columns, and files of vectors, by key of `Data`; those that are not given are guessed.
        encoder: Model of the texts; None for MiniLM.

    Raises:
        SourceError: The table is not readable, or its cells are not valid.
        SpecError: The role of a column is not clear, or the table does not make a study.
    """
    try:
        return _new_file(table, output, given, encoder)
    except SpecError as error:
        raise SpecError(table, [_of_options(problem) for problem in error.problems]) from None


def _of_options(problem: str) -> str:
    """Return a problem of a study file in terms of the command's options."""
    problem = re.sub(r"`data\.(\w+)(\.\d+)?`", r"--\1", problem)
    return problem.replace("`encoders.text.model`", "--encoder")


def _new_file(table: str, output: Path, given: Mapping[str, Any], encoder: str | None) -> NewFile:
    data, spare = data_of(table if "://" in table else os.path.abspath(os.path.expanduser(table)), given)
    facts = check_source(data.source)
    if encoder is not None and not data.text:
        raise SpecError(table, ["--encoder encodes texts, and there are none; name their column by --text"])
    items, names = split_items(data)
    splits, training = _protocol(items, names)
    base = output.resolve().parent
    name = _name(table)
    directory = next(
        place
        for number in count(1)
        if not (base / (place := f"studies/{name}{'' if number == 1 else f'-{number}'}")).exists()
    )
    sizes = np.sort(np.bincount(items.labels))
    classes = f"{plural(len(names), 'class', 'classes')} of {sizes[0]:,} to {sizes[-1]:,}"
    lines = [
        f"# {plural(facts.n_items, 'row')}, {classes} rows, the median one of {sizes[len(sizes) // 2]:,}.",
        "# The file is valid as it is: study check, study run, study open. A line that begins with # is a choice;",
        "# `study init nested` writes a file that explains every key, `study methods` lists all methods.",
        f"name: {name}",
        f"directory: {directory}".ljust(30) + "# everything that the study writes",
        "",
        *_data_lines(data, spare, table, base),
        *_encoder_lines(data, encoder, base),
        *_protocol_lines(splits, training, SplitPlan(items, names, splits, _search(), training)),
        _SEARCH,
    ]
    text = "\n".join(lines)
    try:
        raw = parse_yaml(text)
    except ValueError as error:  # of a name that no study file can hold
        raise SpecError(table, [f"its columns must have names of plain text: {error}; rename them"]) from error
    check_spec(raw, output)
    used = [f"{key}: {_flow(value)}" for key, value in _roles(data).items()]
    return NewFile(text, f"{plural(facts.n_items, 'row')}, {classes}; {', '.join(used)}; design {splits.design.value}")


def _name(table: str) -> str:
    stem = table.rstrip("/").rpartition("/")[2]
    suffix = max((one for one in FORMATS if stem.lower().endswith(one)), key=len, default="")
    return re.sub(r"[^A-Za-z0-9._-]+", "-", stem[: len(stem) - len(suffix)]).strip("-._") or "study"


def _protocol(items: SplitItems, names: list[str]) -> tuple[Splits, TrainingSettings]:
    """Return splits that suit the sizes of a table and of its classes, and a training that suits these.

    Raises:
        SpecError: There are too few rows for any.
    """
    n_items, median = len(items.labels), int(np.median(np.bincount(items.labels)))
    folds = Splits(design=Design.FOLDS, train_fraction=0.8, n_splits=5, stratify=True)
    few = [
        Splits(design=Design.REVERSE_FOLDS, train_fraction=round(1 / k, 4), n_splits=k, stratify=True)
        for k in (5, 4, 3)
        if median >= _FEWEST_OF_CLASS * k
    ]
    if items.roles is not None:
        tried = [Splits(design=Design.OFFICIAL, n_splits=5)]
    elif n_items >= _LARGE:
        tried = [_few_labels(), folds]
    else:
        tried = [folds] if n_items >= _MIDDLE else [*few, folds]
    for splits in tried:
        # Two batches an epoch, if there can be.
        for n_batches, sizes in ((2, _BATCH_SIZES), (1, _BATCH_SIZES[-1:])):
            for size in sizes:
                training = TrainingSettings(batch_size=size, standardize=True)
                plan = SplitPlan(items, names, splits, _search(), replace(training, batch_size=n_batches * size))
                if plan.shortage() is None:
                    return splits, _of_length(training, plan)
    smallest = TrainingSettings(batch_size=_BATCH_SIZES[-1])
    more = SplitPlan(items, names, tried[-1], _search(), smallest).more_rows()
    raise SpecError(
        "",
        [
            f"every split, inner splits included, must have a batch of {smallest.batch_size} rows to train on, and "
            f"others to judge by; {more or 'give more rows, or smaller groups'}"
        ],
    )


def _few_labels() -> Splits:
    return Splits(design=Design.REVERSE_FOLDS, train_fraction=0.1, n_splits=5)


def _search() -> Search:
    return Search(methods={"control": {}})


def _of_length(training: TrainingSettings, plan: SplitPlan) -> TrainingSettings:
    """Return the training with more epochs for fewer items, and twelve points of its learning curves."""
    n_train = min(len(split.train) for split, _ in plan.cut(TEST).values())
    epochs = 192 if n_train < 1_000 else 96 if n_train < 10_000 else 72
    return replace(training, epochs=epochs, evaluate_every_epochs=epochs // 12)


def _roles(data: Data) -> dict[str, Any]:
    """Return the columns that are used, by key."""
    values = {key: getattr(data, key) for key in ("id", "label", "text", "image", "vectors", "group", "split")}
    return {key: list(value) if isinstance(value, tuple) else value for key, value in values.items() if value}


def _data_lines(data: Data, spare: Mapping[str, Any], table: str, base: Path) -> Iterator[str]:
    yield "data:"
    yield f"  table: {_flow(_relative(table, base))}"
    for key, value in _roles(data).items():
        files = {name: _relative(file, base) for name, file in value.items()} if isinstance(value, dict) else value
        yield f"  {key}: {_flow(files)}"
    if data.id is None:
        yield "  # id: COLUMN                # of unique ids; without it, an item's id is the number of its row"
    for key, value in spare.items():
        listed = _flow(list(value) if isinstance(value, tuple) else value)
        needed = f"needs encoders.{key}" + ("" if data.vectors else " and, since some rows have none, on_error: skip")
        yield f"  # {key}: {listed}".ljust(30) + f"# also an input; {needed}"
    if data.group is None:
        yield "  # group: COLUMN             # no value of it is on both sides of a split, such as a customer"
    yield ""


def _encoder_lines(data: Data, encoder: str | None, base: Path) -> Iterator[str]:
    if not data.text and data.image is None:
        return
    yield "encoders:"
    if data.text:
        model = encoder or (OFFLINE_TEXT if is_installed(OFFLINE_TEXT) else _HUB_TEXT)
        if encoder and not encoder.startswith(PACKAGE_SCHEME) and os.path.isdir(os.path.expanduser(encoder)):
            model = _relative(encoder, base)
            model = model if model.startswith(("/", ".")) else f"./{model}"
        yield f"  text: {{model: {_flow(model)}}}"
        if model != _PAPER_TEXT:
            yield f"  # text: {{model: {_PAPER_TEXT}}}   # in its place: the paper's, of the Hugging Face hub; slower"
    if data.image is not None:
        checkpoint = f", checkpoint: {_flow(OFFLINE_IMAGE)}" if is_installed(OFFLINE_IMAGE) else ""
        yield f"  image: {{model: {_HUB_IMAGE}{checkpoint}, image_size: 128}}"
        yield "  # image: {model: tf_efficientnet_b4}   # in its place: the paper's, of the Hugging Face hub; slower"
    yield ""


def _protocol_lines(splits: Splits, training: TrainingSettings, plan: SplitPlan) -> Iterator[str]:
    yield f"# {_why(splits, plan)}"
    yield f"splits: {_splits(splits)}"
    others = (
        (_few_labels(), "few labels: a tenth trains"),
        (Splits(design=Design.FOLDS, train_fraction=0.8, n_splits=5, stratify=True), "cross-validation: most trains"),
    )
    for other, why in others:
        if splits.design not in (Design.OFFICIAL, other.design) and replace(plan, splits=other).shortage() is None:
            yield f"# splits: {_splits(other)}   # in its place: {why}"
    yield ""
    yield "training:"
    yield f"  epochs: {training.epochs}".ljust(30) + "# the paper's are 576"
    yield f"  batch_size: {training.batch_size}"
    yield f"  evaluate_every_epochs: {training.evaluate_every_epochs}".ljust(30) + "# points of the learning curves"
    yield "  standardize: true".ljust(30) + "# inputs; the paper's are as encoded"
    yield "  # class_balanced: true      # every class is drawn equally often"
    yield ""


def _why(splits: Splits, plan: SplitPlan) -> str:
    """Return in a sentence how the items are split, and why so."""
    if splits.design is Design.OFFICIAL:
        return "The table's own split. Splits differ by initial weights, order and draws only."
    n_folds = split_rules(splits, plan.search, ()).n_folds
    if splits.design is Design.FOLDS:
        return f"Cross-validation: each of {n_folds} parts is tested by a classifier that was trained on the others."
    reason = "A tenth of so many rows is enough to train on" if len(plan.items.labels) >= _LARGE else "Few labels"
    return f"{reason}: each of {n_folds} parts trains a classifier that is tested on all other rows."


def _splits(splits: Splits) -> str:
    values = splits.model_dump(mode="json", include={"design", "train_fraction", "n_splits", "stratify"})
    return _flow({key: value for key, value in values.items() if value})


def _relative(place: str, base: Path) -> str:
    """Return a path as it is from `base`, if it was relative; an absolute one and an address stay."""
    if "://" in place or place.startswith(("/", "~")):
        return place
    return os.path.relpath(os.path.abspath(place), base)


def _flow(value: object) -> str:
    """Return a value as YAML on one line."""
    dump = partial(yaml.safe_dump, default_flow_style=True, allow_unicode=True, width=math.inf, sort_keys=False)
    text = str(dump(value)).removesuffix("\n").removesuffix("\n...")
    return str(dump(value, default_style='"')).removesuffix("\n") if "\n" in text else text
