"""The study file's contents: one frozen model a section. `study.check` reads and checks a file."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator

from embedding_jobs.sources.items import Source
from trainables.records.types import CONTRASTIVE

Metric = Literal["auc_weighted", "accuracy", "accuracy_known", "accuracy_none"]

Protocol = Literal["paper", "nested"]

VectorDtype = Literal["float32", "float16"]

ComputeDtype = Literal["auto", "float32", "bfloat16", "float16"]

Precision = Literal["float32", "tf32", "bfloat16"]

Sampler = Literal["grid", "tpe", "random", "qmc", "gp"]

PACKAGE_SCHEME = "package://"

"""Prefix of a model directory inside an installed Python package: the same in every study file and machine."""

_LATER = {"residual", "pretraining", "precision"}


class Section(BaseModel):
    """A mapping of known keys."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class Data(Section):
    """The labelled table."""

    table: str
    id: str
    label: str
    text: tuple[str, ...] = ()
    image: str | None = None
    on_error: Literal["fail", "skip"] = "fail"

    @property
    def columns(self) -> tuple[str, ...]:
        """The encoded columns, in the order of their vectors in the classifier's input."""
        return (*self.text, *((self.image,) if self.image else ()))

    @property
    def source(self) -> Source:
        """The table as the embedding jobs read it."""
        return Source(table=self.table, id=self.id, label=self.label, text=self.text, image=self.image)


class TextEncoder(Section):
    """A transformers encoder."""

    model: str
    revision: str | None = None
    layers: int = Field(2, ge=1)
    pooling: Literal["last_layers_mean", "mean", "cls"] = "last_layers_mean"
    max_tokens: int | None = Field(None, ge=1)
    prefix: str = ""
    tokens_per_batch: int | None = Field(None, ge=1)
    vector_dtype: VectorDtype = "float32"
    compute_dtype: ComputeDtype = "auto"
    compile: bool = False


class ImageEncoder(Section):
    """A timm encoder."""

    model: str
    pretrained: bool = True
    checkpoint: str | None = None
    image_size: int | None = Field(None, ge=8)
    seed: int = Field(0, ge=0)
    vector_dtype: VectorDtype = "float32"
    compute_dtype: ComputeDtype = "auto"
    compile: bool = False


class CustomEncoder(Section):
    """A third party's encoder, of a kind that its entry point names."""

    kind: str
    model: str
    options: dict[str, Any] = {}
    vector_dtype: VectorDtype = "float32"


class Encoders(Section):
    """One encoder for all text columns, one for the image column; and for single columns, a third party's."""

    text: TextEncoder | None = None
    image: ImageEncoder | None = None
    custom: dict[str, CustomEncoder] = {}


class Splits(Section):
    """The split protocol."""

    protocol: Protocol = "nested"
    train_fraction: float = Field(0.1, gt=0, lt=1)
    n_splits: int = Field(5, ge=1)
    n_search_splits: int = Field(3, ge=1)
    seed: int = Field(0, ge=0)
    unknown_classes: tuple[str, ...] = ()
    unknown_class_fraction: float = Field(0, ge=0, lt=1)


class LearningRate(Section):
    """The triangular learning rate."""

    low: float = Field(3e-4, gt=0)
    high: float = Field(3e-3, gt=0)
    step_size_epochs: int = Field(12, ge=1)


class HoldOut(Section):
    """A share of the training items that stops a trial and chooses its weights."""

    fraction: float = Field(0.1, gt=0, lt=1)
    patience: int = Field(3, ge=1)


class Pretraining(Section):
    """What contrastive methods do before a classifier is put on the frozen hidden layers."""

    epochs: int = Field(96, ge=1)
    projection: int = Field(128, ge=1)
    classifier_hidden: tuple[int, ...] = (250, 250)

    @field_validator("classifier_hidden")
    @classmethod
    def _widths(cls, value: tuple[int, ...]) -> tuple[int, ...]:
        return _checked_widths(value)


class Training(Section):
    """The classifier and its schedule."""

    epochs: int = Field(576, ge=1)
    batch_size: int = Field(128, ge=2)
    hidden: tuple[int, ...] = (250, 250)
    residual: bool = False
    dropout: float = Field(0.3, ge=0, lt=1)
    weight_decay: float = Field(1e-4, ge=0)
    learning_rate: LearningRate = LearningRate()
    evaluate_every_epochs: int = Field(24, ge=1)
    standardize: bool = False
    class_balanced: bool = False
    early_stopping: HoldOut | None = None
    precision: Precision = "float32"
    pretraining: Pretraining = Pretraining()

    @field_validator("batch_size")
    @classmethod
    def _even(cls, value: int) -> int:
        if value % 2:
            raise ValueError("must be even, since methods pair its items")
        return value

    @field_validator("hidden")
    @classmethod
    def _widths(cls, value: tuple[int, ...]) -> tuple[int, ...]:
        return _checked_widths(value)

    def n_epochs(self, objective: str) -> int:
        """Epochs of a whole trial, as its learning curves count them."""
        return self.epochs + (self.pretraining.epochs if objective == CONTRASTIVE else 0)


class Range(Section):
    """An interval that a sampler draws a hyperparameter from."""

    low: float
    high: float
    log: bool = False


Value = Annotated[float | str, Field(union_mode="left_to_right")]

"""A number, or a word that the hyperparameter has for one. YAML takes 1e-3 for a text: numbers are tried first."""

Values = Value | tuple[Value, ...] | Range


class Asha(Section):
    """Stops a candidate's training at a rung where it is not among the best of its method."""

    grace_epochs: int = Field(24, ge=1)
    reduction_factor: float = Field(3, gt=1)


class Racing(Section):
    """Gives a candidate no further splits once it is worse than its method's best beyond doubt."""

    splits_at_once: int = Field(3, ge=2)
    confidence: float = Field(0.99, gt=0.5, lt=1)


class Pruning(Section):
    """What spares the search phase of hopeless candidates; off unless given."""

    asha: Asha | None = None
    racing: Racing | None = None

    @property
    def is_on(self) -> bool:
        """Whether any rule is on."""
        return self.asha is not None or self.racing is not None


class Search(Section):
    """Which candidates are tried: a grid, or the same number of sampled ones for each method."""

    sampler: Sampler = "grid"
    n_candidates: int = Field(10, ge=1)
    n_startup: int = Field(10, ge=1)
    batch_size: int = Field(4, ge=1)
    seed: int = Field(0, ge=0)
    pruning: Pruning = Pruning()
    methods: dict[str, dict[str, Values]] = Field(min_length=1)

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
    accuracy: float = Field(0.005, gt=0)
    ece_known: float = Field(0.005, gt=0)


class Objective(Section):
    """What candidates are compared by."""

    metric: Metric = "auc_weighted"
    threshold: float = Field(0.6, ge=0, le=1)
    equivalence: Equivalence = Equivalence()


class Resources(Section):
    """What a pack may use, and where it runs."""

    cpus_per_pack: float = Field(1, ge=0)
    gpus_per_pack: float = Field(0, ge=0)
    lanes_per_pack: int | None = Field(None, ge=1)
    cuda_graph: bool = False
    max_failures: int = Field(2, ge=0)
    address: str | None = None
    rows_per_shard: int = Field(4096, ge=1)


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
    encoders: Encoders
    splits: Splits = Splits()
    training: Training = Training()
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
        """Where the embeddings are."""
        return self.root / "embeddings"

    @property
    def records(self) -> Path:
        """Where the records are."""
        return self.root / "records"

    @property
    def log(self) -> Path:
        """Where the libraries' own messages go."""
        return self.root / "study.log"

    @property
    def tracking_uri(self) -> str:
        """MLflow's address; SQLite in the study's directory unless the file says otherwise."""
        return self.tracking.uri or f"sqlite:///{self.root / 'mlflow.db'}"

    def split_seeds(self, phase: str) -> tuple[int, ...]:
        """The seeds of a phase's planned splits."""
        n_splits = self.splits.n_search_splits if phase == "search" else self.splits.n_splits
        return tuple(range(self.splits.seed, self.splits.seed + n_splits))

    def deciding_settings(self) -> dict[str, Any]:
        """The settings that a trial's result depends on, flat: two studies with equal ones can share records."""
        # What came later than the first studies decides only where it is not as they had it, so that they can go on.
        later = self.training.model_dump(mode="json", include=_LATER, exclude_defaults=True)
        return dict(
            _flat(
                {
                    "data": {"label": self.data.label, "columns": list(self.data.columns)},
                    "splits": self.splits.model_dump(mode="json", exclude={"n_splits", "n_search_splits", "seed"}),
                    "training": self.training.model_dump(mode="json", exclude=_LATER) | later,
                    "objective": {"threshold": self.objective.threshold},
                }
            )
        )


def _checked_widths(value: tuple[int, ...]) -> tuple[int, ...]:
    if any(width < 1 for width in value):
        raise ValueError("must be widths of at least 1")
    return value


def phases(protocol: Protocol) -> tuple[str, ...]:
    """The phases of a protocol, in order."""
    return ("paper",) if protocol == "paper" else ("search", "confirm")


def digest(values: Mapping[str, Any]) -> str:
    """A short hash of plain values, the same in every process."""
    return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()[:16]


def _flat(tree: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in tree.items():
        if isinstance(value, Mapping):
            yield from _flat(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value
