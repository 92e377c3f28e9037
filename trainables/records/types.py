"""The results of a finished trial, as typed values."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from embedding_jobs.errors import StudyError

# The phases of a study: candidates are scored on inner splits; and trials on the test items of the splits.
SEARCH, TEST = "search", "test"

# The phases of each way to select, in order. The first one chooses each method's candidates, the last one is reported.
SELECTIONS: Mapping[str, tuple[str, ...]] = {"nested": (SEARCH, TEST), "reported": (TEST,)}

# The two objectives; the name of a contrastive method begins with its objective.
SUPERVISED, CONTRASTIVE = "supervised", "contrastive"

# Begins the name of a method that is no network.
REFERENCE = "reference"

# Value of a `layer` that each trial finds for itself; written `auto`.
AUTO = -1.0

# The scores of how unknown an item is, beside its logit: fields of `ItemResults`. Each layer's two come last.
LOGIT_SCORES = ("joint_energy", "gen")
LAYER_SCORES = ("knn_hidden", "relative_mahalanobis_hidden", "knn_input", "relative_mahalanobis_input")

# Metrics of a trial, by name, that it has chosen on items held out from its training: the threshold above which it
# predicts a class, as a logit, since a confidence rounded to 1 is none; and the temperature that divides its logits.
THRESHOLD, TEMPERATURE = "threshold_logit_chosen", "temperature"

# Bins of confidence, equally wide, of the expected calibration error.
N_BINS = 15


class Design(StrEnum):
    """How the splits of a study are made."""

    REVERSE_FOLDS = "reverse_folds"  # disjoint training folds, each tested on all other items
    RANDOM = "random"
    FOLDS = "folds"  # k-fold: disjoint test folds
    OFFICIAL = "official"  # the table says which items train; splits differ by their seed


class RecordError(StudyError):
    """A record file that cannot be read, or does not belong to this study."""


class DamagedRecordError(RecordError):
    """A record file whose content is not what was written.

    Attributes:
        problem: Which file, and what is wrong with it.
    """

    def __init__(self, problem: str) -> None:
        self.problem = problem
        super().__init__(f"{problem}. `study run` sets it aside and trains its trials again.")


@dataclass(frozen=True, order=True)
class Candidate:
    """A method with its hyperparameters, without a split.

    Attributes:
        method: Name in the registry of methods.
        params: Hyperparameters as (name, value), sorted by name.
    """

    method: str
    params: tuple[tuple[str, float], ...] = ()

    @classmethod
    def of(cls, method: str, params: Mapping[str, float]) -> Candidate:
        """Return a candidate from a mapping of hyperparameters, in canonical order."""
        return cls(method, tuple(sorted((name, float(value)) for name, value in params.items())))

    def __str__(self) -> str:
        values = ", ".join(f"{name}={value_text(name, value)}" for name, value in self.params)
        return f"{self.method}({values})" if values else self.method

    @property
    def key(self) -> str:
        """Exact identity, also across processes: unlike `str`, it does not round."""
        return f"{self.method}({','.join(f'{name}={value!r}' for name, value in self.params)})"

    @property
    def objective(self) -> str:
        """`CONTRASTIVE` or `SUPERVISED`, from the method's name."""
        return CONTRASTIVE if self.method.startswith(f"{CONTRASTIVE}_") else SUPERVISED

    @property
    def is_reference(self) -> bool:
        """Whether the classifier is no network: it is fitted at once, and cannot be exported."""
        return self.method.startswith(f"{REFERENCE}_")

    @property
    def augmentation(self) -> str:
        """The method's name without its objective."""
        return self.method.removeprefix(f"{CONTRASTIVE}_")


def value_text(name: str, value: float) -> str:
    """Return a hyperparameter's value as text: four digits, or `auto`."""
    return "auto" if name == "layer" and value == AUTO else f"{value:.4g}"


class SplitId(NamedTuple):
    """Which split a trial is trained on.

    Attributes:
        seed: Seed of the split.
        inner: Number of the inner split, from 0, in the search phase; else None.
    """

    seed: int
    inner: int | None = None

    def __str__(self) -> str:
        return str(self.seed) if self.inner is None else f"{self.seed}/{self.inner}"

    @classmethod
    def parse(cls, text: str) -> SplitId:
        """Return the split that a text names: a seed, or a seed and the number of an inner split, as in `3/0`.

        Raises:
            ValueError: The text names no split.
        """
        seed, *inner = map(int, text.split("/", 1))
        return cls(seed, *inner)

    @property
    def outer(self) -> SplitId:
        """The split that an inner split is part of."""
        return SplitId(self.seed)

    @property
    def stream_seed(self) -> int:
        """Seed of the random streams of its trials; every inner split has its own."""
        return self.seed if self.inner is None else self.seed + ((self.inner + 1) << 32)


@dataclass(frozen=True)
class Calibration:
    """What an inner split has chosen for a trial on test items; NaN where there is no inner split.

    Attributes:
        threshold: Logit above which a class is predicted, of the highest balanced accuracy of known and "none".
        temperature: The logits are divided by it.
    """

    threshold: float = math.nan
    temperature: float = math.nan


NOT_CALIBRATED = Calibration()


@dataclass(frozen=True, order=True)
class TrialConfig:
    """The coordinates of a trial: with the study's settings they determine its result.

    Attributes:
        phase: `SEARCH` or `TEST`.
        candidate: The method and its hyperparameters.
        split: The split, an inner one in the search phase.
    """

    phase: str
    candidate: Candidate
    split: SplitId

    def __str__(self) -> str:
        return f"{self.candidate} on {self.phase} split {self.split}"

    @property
    def key(self) -> str:
        """Exact identity of the trial within its study."""
        return f"{self.phase}/{self.candidate.key}/{self.split}"


@dataclass(frozen=True)
class Pack:
    """Several trials of one candidate, which one Tune trial trains together.

    Attributes:
        phase: Phase of every trial.
        candidate: Candidate of every trial.
        splits: Their splits.
    """

    phase: str
    candidate: Candidate
    splits: tuple[SplitId, ...]

    @property
    def trials(self) -> list[TrialConfig]:
        """The coordinates of the trials."""
        return [TrialConfig(self.phase, self.candidate, split) for split in self.splits]


@dataclass(frozen=True)
class Curves:
    """The curves of one trial; every field but the last is float32 (points,).

    Attributes:
        epoch: Epochs at which the trial was evaluated.
        epoch_loss: Mean training loss since the previous evaluation.
        epoch_accuracy: Accuracy over all test items at the study's threshold.
        epoch_accuracy_known: The same over items of known classes.
        epoch_accuracy_none: The same over "none" items; NaN where there are none.
        epoch_top1: Accuracy over items of known classes without a threshold.
        epoch_auc_weighted: Weighted AUC; outside the search phase, where it judges nothing, NaN before the last point.
        threshold: Confidence thresholds of the next three curves.
        threshold_accuracy: Accuracy over all test items at each threshold.
        threshold_accuracy_known: The same over items of known classes.
        threshold_accuracy_none: The same over "none" items; NaN where there are none.
        roc_fpr: Grid of false-positive rates.
        roc_tpr: Weighted mean over classes and "none" of the true-positive rate at each of them.
        epoch_cka: float32 (points of `epoch`, hidden layers + 1), linear CKA of each layer with the next, from the
            input (0) to the output; NaN where the hidden layers no longer train.
    """

    epoch: npt.NDArray[np.float32]
    epoch_loss: npt.NDArray[np.float32]
    epoch_accuracy: npt.NDArray[np.float32]
    epoch_accuracy_known: npt.NDArray[np.float32]
    epoch_accuracy_none: npt.NDArray[np.float32]
    epoch_top1: npt.NDArray[np.float32]
    epoch_auc_weighted: npt.NDArray[np.float32]
    threshold: npt.NDArray[np.float32]
    threshold_accuracy: npt.NDArray[np.float32]
    threshold_accuracy_known: npt.NDArray[np.float32]
    threshold_accuracy_none: npt.NDArray[np.float32]
    roc_fpr: npt.NDArray[np.float32]
    roc_tpr: npt.NDArray[np.float32]
    epoch_cka: npt.NDArray[np.float32] = field(default_factory=lambda: np.empty((0, 0), np.float32))


def _not_computed() -> npt.NDArray[np.int32]:
    return np.empty(0, np.int32)


@dataclass(frozen=True)
class ItemResults:
    """The prediction for each test item; every field is (items,).

    Attributes:
        item: int32, row of the item in the embedding store.
        label: int32, index of its label in the study's sorted label names.
        known: bool, whether the label's class has a training item in this split.
        predicted: int32, index of the most probable known class, thresholded or not.
        logit: float32, logit of that class. It ranks items where the probability, rounded to 1, no longer does.
        correct: bool, correctness at the study's threshold ("none" counts as a prediction).
        auc_influence: float32, influence on `auc_weighted`; its mean is the AUC.
        nll: float32, the item's negative log-likelihood, rounded to 8 binary digits, which halves its bytes: its binary
            cross-entropies, summed over the known classes.
        joint_energy: int32, place of the item's joint energy among those of the "none" items (`figures.places`), from
            which every figure about the detection of "none" items follows. A place takes less than half the
            bytes of the score. This and the next fields are empty where the score was not computed or is not defined.
        gen: The same of the generalised entropy.
        knn_hidden: The same of the distance to the k-th nearest training item in the last hidden layer.
        relative_mahalanobis_hidden: The same of the relative Mahalanobis distance in the last hidden layer.
        knn_input: As `knn_hidden`, in the input.
        relative_mahalanobis_input: As `relative_mahalanobis_hidden`, in the input.
    """

    item: npt.NDArray[np.int32]
    label: npt.NDArray[np.int32]
    known: npt.NDArray[np.bool_]
    predicted: npt.NDArray[np.int32]
    logit: npt.NDArray[np.float32]
    correct: npt.NDArray[np.bool_]
    auc_influence: npt.NDArray[np.float32]
    nll: npt.NDArray[np.float32]
    joint_energy: npt.NDArray[np.int32] = field(default_factory=_not_computed)
    gen: npt.NDArray[np.int32] = field(default_factory=_not_computed)
    knn_hidden: npt.NDArray[np.int32] = field(default_factory=_not_computed)
    relative_mahalanobis_hidden: npt.NDArray[np.int32] = field(default_factory=_not_computed)
    knn_input: npt.NDArray[np.int32] = field(default_factory=_not_computed)
    relative_mahalanobis_input: npt.NDArray[np.int32] = field(default_factory=_not_computed)

    @property
    def confidence(self) -> npt.NDArray[np.float64]:
        """Probability of the most probable class (items,), to be shown or binned; items are ranked by `logit`."""
        return self.scaled_confidence(1.0)

    def scaled_confidence(self, temperature: float) -> npt.NDArray[np.float64]:
        """Return the probability of the most probable class if every logit is divided by a temperature (items,)."""
        return np.asarray((1 + np.tanh(self.logit.astype(np.float64) / temperature / 2)) / 2)


@dataclass(frozen=True)
class TrialRecord:
    """A finished trial.

    Attributes:
        config: Its coordinates.
        metrics: Metrics by name (`auc_weighted`, `accuracy`, ...; see `trainables.evaluation.metrics`), and counts
            (`n_train`, `n_validation`, `n_known_classes`, `n_none`).
        curves: Learning, threshold and ROC curves.
        items: Per-item results; None if they were not read.
        started_at_s: Start of its pack, seconds since 1970.
        duration_s: Device seconds: its share of the time that its pack trained.
        provenance: Digests of settings and embeddings, versions, hardware and commit that made it.
    """

    config: TrialConfig
    metrics: Mapping[str, float]
    curves: Curves
    items: ItemResults | None
    started_at_s: float
    duration_s: float
    provenance: Mapping[str, str]

    @property
    def calibration(self) -> Calibration:
        """What its figures at a chosen threshold and temperature rest on."""
        return Calibration(self.metrics.get(THRESHOLD, math.nan), self.metrics.get(TEMPERATURE, math.nan))
