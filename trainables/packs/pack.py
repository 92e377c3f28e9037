"""The context that all packs of a study share."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from trainables.training.settings import Settings


@dataclass(frozen=True)
class PackContext:
    """Everything that all packs of a study share; put into the object store once.

    Attributes:
        embeddings: float32 (items, features).
        labels: int64 (items,), index of each item's label among the sorted label names.
        train_fraction: Fraction of the items that a split trains on.
        settings: How every lane is trained.
        records: Folder of the study's records, on storage that every node sees.
        unknown_classes: Label indices of classes that are never trained on.
        unknown_class_fraction: Fraction of the other classes that each split withholds from training.
        objective: Metric that candidates are compared by; a trial where it is undefined fails.
        n_threads: CPU threads per pack.
        provenance: Written into every record.
        on_gpu: Whether packs train on the GPU that they are given, or on the CPU even where a GPU is visible.
    """

    embeddings: npt.NDArray[np.float32]
    labels: npt.NDArray[np.int64]
    train_fraction: float
    settings: Settings
    records: str
    unknown_classes: npt.NDArray[np.int64]
    unknown_class_fraction: float
    objective: str
    n_threads: int
    provenance: Mapping[str, str]
    on_gpu: bool = False
