"""The study file's contents, one frozen class per section; `study.config.load` reads and checks a file.

The sections of the encoders and of the training are the settings that these parts of the program take themselves.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationInfo, field_validator, model_validator

from embedding_jobs.encoders.config import (
    ColumnConfig,
    CustomEncoderConfig,
    EncoderConfig,
    GivenConfig,
    ImageEncoderConfig,
    TextEncoderConfig,
)
from embedding_jobs.sources.items import Source
from embedding_jobs.sources.vectors import VectorColumn
from trainables.records.types import SEARCH, SELECTIONS, Design, SplitId
from trainables.sampling.splits import SplitRules
from trainables.training.settings import TrainingSettings

Metric = Literal[
    "auc_weighted", "top1", "macro_f1", "balanced_accuracy", "nll", "ood_auroc",
    "accuracy", "accuracy_known", "accuracy_none",
]  # fmt: skip

Selection = Literal["nested", "reported"]

Sampler = Literal["grid", "tpe", "random", "qmc", "gp"]


# The fraction of a design whose study file gives none; official splits have no fraction.
_TRAIN_FRACTIONS = {Design.REVERSE_FOLDS: 0.1, Design.RANDOM: 0.1, Design.FOLDS: 0.8}


# Leaves a choice to what there is.
AUTO_DEVICE: Literal["auto"] = "auto"


class Section(BaseModel):
    """A mapping of known keys."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class Data(Section):
    """The labelled table."""

    table: str
    id: str | None = None
    label: str
    text: tuple[str, ...] = ()
    image: str | None = None
    vectors: tuple[str, ...] | dict[str, str] = ()
    group: str | None = None
    split: str | None = None
    on_error: Literal["fail", "skip"] = "fail"

    @field_validator("vectors", mode="before")
    @classmethod
    def _in_columns_or_files(cls, value: object) -> object:
        names = value.values() if isinstance(value, dict) else value if isinstance(value, list | tuple) else [None]
        if not all(isinstance(name, str) for name in names):
            raise ValueError("must be a list of the table's columns, [a, b], or name the file of each, {a: a.npy}")
        return value

    @property
    def columns(self) -> tuple[str, ...]:
        """The columns of vectors, in their order in the classifier's input: text, image, vectors that exist."""
        return (*self.text, *((self.image,) if self.image else ()), *self.vectors)

    @property
    def vector_columns(self) -> tuple[VectorColumn, ...]:
        """The vectors that exist."""
        if isinstance(self.vectors, tuple):
            return tuple(map(VectorColumn, self.vectors))
        return tuple(VectorColumn(name, file) for name, file in self.vectors.items())

    @property
    def source(self) -> Source:
        """The table as the embedding jobs read it."""
        return Source(
            self.table, self.id, self.label, self.text, self.image, self.group, self.split, self.vector_columns
        )


class Encoders(Section):
    """One encoder for all text columns, one for the image column, and third-party encoders for single columns."""

    text: TextEncoderConfig | None = None
    image: ImageEncoderConfig | None = None
    custom: dict[str, CustomEncoderConfig] = {}


class Splits(Section):
    """How the items are split into training and test items."""

    design: Design = Design.REVERSE_FOLDS
    train_fraction: float | None = Field(None, gt=0, lt=1, validate_default=True)
    n_splits: int = Field(5, ge=1)
    seed: int = Field(0, ge=0)
    stratify: bool = False
    unknown_classes: tuple[str, ...] = ()
    unknown_class_fraction: float = Field(0, ge=0, lt=1)

    @field_validator("train_fraction")
    @classmethod
    def _of_design(cls, value: float | None, info: ValidationInfo) -> float | None:
        return _TRAIN_FRACTIONS.get(info.data.get("design", Design.OFFICIAL)) if value is None else value


class Range(Section):
    """An interval that a sampler draws a hyperparameter from."""

    low: float
    high: float
    log: bool = False


# A number, or a word that the hyperparameter accepts in its place. YAML reads 1e-3 as text: numbers are tried first.
Value = Annotated[float | str, Field(union_mode="left_to_right")]

ParamValues = Value | tuple[Value, ...] | Range


class Asha(Section):
    """Stops a candidate's training at a rung where it is not among the best of its method."""

    grace_epochs: int = Field(24, ge=1)
    reduction_factor: float = Field(3, gt=1)


class Racing(Section):
    """Gives a candidate no further inner splits once it is worse than its method's best at the given confidence."""

    splits_at_once: int = Field(3, ge=2)
    confidence: float = Field(0.99, gt=0.5, lt=1)


class Pruning(Section):
    """Rules that end hopeless candidates early in the search phase; off unless given."""

    asha: Asha | None = None
    racing: Racing | None = None

    @property
    def is_on(self) -> bool:
        """Whether any rule is on."""
        return self.asha is not None or self.racing is not None


class Search(Section):
    """The candidates to try: a grid, or the same number of sampled ones for each method."""

    selection: Selection = "nested"
    n_inner_splits: int = Field(1, ge=1)
    inner_unknown_fraction: float = Field(0.1, ge=0, lt=1)
    sampler: Sampler = "grid"
    n_candidates: int = Field(10, ge=1)
    n_startup: int = Field(10, ge=1)
    batch_size: int = Field(4, ge=1)
    seed: int = Field(0, ge=0)
    pruning: Pruning = Pruning()
    methods: dict[str, dict[str, ParamValues]] = Field(min_length=1)

    @property
    def learns(self) -> bool:
        """Whether outcomes decide what is tried next, so that candidates are proposed in batches."""
        return self.pruning.is_on or self.sampler in ("tpe", "gp")

    @field_validator("methods", mode="before")
    @classmethod
    def _bare_names(cls, value: Any) -> Any:
        # `control:` with nothing after it is null in YAML: a method without settings.
        if isinstance(value, dict):
            return {name: {} if params is None else params for name, params in value.items()}
        return value


class Equivalence(Section):
    """Differences up to these are of no practical importance."""

    auc_weighted: float = Field(0.002, gt=0)
    nll: float = Field(0.01, gt=0)
    top1: float = Field(0.005, gt=0)
    macro_f1: float = Field(0.005, gt=0)
    balanced_accuracy: float = Field(0.005, gt=0)
    accuracy: float = Field(0.005, gt=0)
    accuracy_known: float = Field(0.005, gt=0)
    accuracy_none: float = Field(0.005, gt=0)
    accuracy_chosen: float = Field(0.005, gt=0)
    ood_auroc: float = Field(0.005, gt=0)
    ece_known: float = Field(0.005, gt=0)
    ece_known_scaled: float = Field(0.005, gt=0)


class Objective(Section):
    """The metric that candidates are compared by."""

    metric: Metric = "auc_weighted"
    threshold: float = Field(0.6, ge=0, le=1)
    equivalence: Equivalence = Equivalence()


class Resources(Section):
    """The hardware that a pack may use, and where it runs; `auto` for all of it is the default."""

    cpus_per_pack: float = Field(1, ge=0)
    gpus_per_pack: Annotated[float, Field(ge=0)] | Literal["auto"] = AUTO_DEVICE
    lanes_per_pack: int | None = Field(None, ge=1)
    cuda_graph: bool = False
    max_failures: int = Field(2, ge=0)
    address: str | None = None
    rows_per_shard: int = Field(4096, ge=1)

    @model_validator(mode="before")
    @classmethod
    def _or_auto(cls, value: object) -> object:
        return {} if value == AUTO_DEVICE else value

    @field_validator("gpus_per_pack", mode="before")
    @classmethod
    def _auto_or_number(cls, value: object) -> object:
        if value != AUTO_DEVICE and (isinstance(value, bool) or not isinstance(value, int | float) or value < 0):
            raise ValueError("must be auto, or a number of at least 0")
        return value

    @property
    def n_gpus(self) -> float:
        """The GPUs of a pack; 0 as long as they are not chosen."""
        return 0.0 if self.gpus_per_pack == AUTO_DEVICE else self.gpus_per_pack


class Tracking(Section):
    """Where MLflow writes."""

    uri: str | None = None
    experiment: str | None = None


class StudySpec(Section):
    """A whole study; paths are absolute once loaded."""

    name: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")
    preset: str | None = None
    directory: str
    data: Data
    encoders: Encoders = Encoders()
    splits: Splits = Splits()
    training: TrainingSettings = TrainingSettings()
    search: Search
    objective: Objective = Objective()
    resources: Resources = Resources()
    tracking: Tracking = Tracking()

    @property
    def root(self) -> Path:
        """The study's directory."""
        return Path(self.directory)

    @property
    def store(self) -> Path:
        """Folder of the embeddings."""
        return self.root / "embeddings"

    @property
    def records(self) -> Path:
        """Folder of the records."""
        return self.root / "records"

    @property
    def report_page(self) -> Path:
        """The page of the report."""
        return self.root / "report" / "report.html"

    @property
    def log(self) -> Path:
        """File of the libraries' messages."""
        return self.root / "study.log"

    @property
    def tune(self) -> Path:
        """Tune's own state while packs train; it is never read again."""
        return self.root / "tune"

    @property
    def tracking_uri(self) -> str:
        """MLflow's address; SQLite in the study's directory unless the file gives another."""
        return self.tracking.uri or f"sqlite:///{self.root / 'mlflow.db'}"

    @property
    def column_encoders(self) -> dict[str, ColumnConfig]:
        """How each column's vectors come to be, in the order of the classifier's input."""
        encoders: dict[str, ColumnConfig | None] = {}
        for column in self.data.columns:
            if column in self.data.vectors:
                encoders[column] = GivenConfig()
            else:
                of_kind = self.encoders.image if column == self.data.image else self.encoders.text
                encoders[column] = self.encoders.custom.get(column) or of_kind
        return {column: encoder for column, encoder in encoders.items() if encoder is not None}

    @property
    def encoders_by_column(self) -> dict[str, EncoderConfig]:
        """The encoder of each column whose vectors do not exist yet."""
        return {name: config for name, config in self.column_encoders.items() if not isinstance(config, GivenConfig)}

    @property
    def phases(self) -> tuple[str, ...]:
        """The phases, in order."""
        return SELECTIONS[self.search.selection]

    def planned_splits(self, phase: str) -> tuple[SplitId, ...]:
        """Return a phase's planned splits, in order."""
        return planned_splits(self.splits, self.search, phase)

    def deciding_settings(self) -> dict[str, Any]:
        """Return the settings that a trial's result depends on, flat: two studies with equal ones can share records."""
        inner = {"n_inner_splits", "inner_unknown_fraction"} if SEARCH in self.phases else set()
        kept = self.model_dump(
            mode="json",
            include={
                "splits": True,
                "training": True,
                "objective": {"threshold"},
                "search": {"selection"} | inner,
            },
            exclude={"splits": {"n_splits", "seed"}},
        )
        data = {**self.data.source.metadata, "columns": list(self.data.columns)}
        return dict(_flat({"data": data, **kept}))


def planned_splits(splits: Splits, search: Search, phase: str) -> tuple[SplitId, ...]:
    """Return a phase's planned splits, in order."""
    seeds = range(splits.seed, splits.seed + splits.n_splits)
    if phase == SEARCH:
        return tuple(SplitId(seed, inner) for seed in seeds for inner in range(search.n_inner_splits))
    return tuple(map(SplitId, seeds))


def split_rules(splits: Splits, search: Search, unknown_classes: tuple[int, ...]) -> SplitRules:
    """Return how a study makes its splits, given the label indices of the classes that are unknown by name."""
    return SplitRules(
        design=splits.design,
        train_fraction=splits.train_fraction or 0.0,  # official splits have none
        stratify=splits.stratify,
        unknown_classes=unknown_classes,
        unknown_class_fraction=splits.unknown_class_fraction,
        inner_unknown_fraction=search.inner_unknown_fraction,
    )


def digest(values: Mapping[str, Any]) -> str:
    """Return a short hash of plain values, the same in every process."""
    return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()[:16]


def _flat(tree: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in tree.items():
        if isinstance(value, Mapping):
            yield from _flat(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value
