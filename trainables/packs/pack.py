"""The context that all packs of a study share."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from trainables.sampling.splits import SplitItems, SplitRules
from trainables.training.settings import Settings


@dataclass(frozen=True)
class PackContext:
    """Everything that all packs of a study share; put into the object store once.

    Attributes:
        embeddings: float32 (items, features).
        items: What the splits depend on, of every item.
        rules: How splits are made.
        settings: How every lane is trained.
        records: Folder of the study's records, on storage that every node sees.
        objective: Metric that candidates are compared by; a trial where it is undefined fails.
        n_threads: CPU threads per pack.
        provenance: Written into every record.
        on_gpu: Whether packs train on the GPU that they are given, or on the CPU even where a GPU is visible.
    """

    embeddings: npt.NDArray[np.float32]
    items: SplitItems
    rules: SplitRules
    settings: Settings
    records: str
    objective: str
    n_threads: int
    provenance: Mapping[str, str]
    on_gpu: bool = False

    @property
    def labels(self) -> npt.NDArray[np.int64]:
        """Index of each item's label among the sorted label names (items,)."""
        return self.items.labels
