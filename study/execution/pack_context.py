"""Build the context that the packs of a study share: embeddings, labels, settings and provenance."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import numpy.typing as npt

from embedding_jobs.encoders.config import column_name
from embedding_jobs.store.store import Embeddings, Store
from study.config.schema import StudySpec, split_rules
from study.errors import RunError
from study.state.provenance import provenance
from trainables.packs.pack import PackContext
from trainables.records.description import StudyDescription
from trainables.sampling.splits import SplitItems
from trainables.training.settings import Settings


def load_embeddings(spec: StudySpec) -> Embeddings:
    """Load the embeddings that a study's trials read.

    Raises:
        StoreError: A column is missing, or was made by another encoder.
    """
    return Store(spec.store).load([column_name(column, config) for column, config in spec.column_encoders.items()])


def pack_context(
    spec: StudySpec, embeddings: Embeddings, labels: np.ndarray, description: StudyDescription
) -> PackContext:
    """Return the context of a study's packs; `labels` (items,) are indices of the sorted label names.

    Raises:
        RunError: `splits.unknown_classes` names a class that no item has.
    """
    items = SplitItems(labels.astype(np.int64), embeddings.groups, embeddings.roles)
    return _context(spec, embeddings.matrix, items, description.data.class_names, provenance(spec, description))


def pilot_context(spec: StudySpec, items: SplitItems, class_names: Sequence[str], n_features: int) -> PackContext:
    """Return the context of packs that measure the cost of training. It has no embeddings yet: they are random."""
    return _context(spec, np.empty((0, n_features), np.float32), items, class_names, {})


def _context(
    spec: StudySpec,
    matrix: npt.NDArray[np.float32],
    items: SplitItems,
    class_names: Sequence[str],
    made_by: Mapping[str, str],
) -> PackContext:
    return PackContext(
        embeddings=matrix,
        items=items,
        rules=split_rules(spec.splits, spec.search, _label_indices(spec.splits.unknown_classes, class_names)),
        settings=Settings(
            **vars(spec.training), threshold=spec.objective.threshold, cuda_graph=spec.resources.cuda_graph
        ),
        records=str(spec.records),
        objective=spec.objective.metric,
        n_threads=max(1, int(spec.resources.cpus_per_pack)),
        provenance=made_by,
        on_gpu=spec.resources.n_gpus > 0,
    )


def _label_indices(wanted: Sequence[str], class_names: Sequence[str]) -> tuple[int, ...]:
    """Return the indices of labels among the sorted label names.

    Raises:
        RunError: No item has one of the labels.
    """
    absent = [name for name in wanted if name not in class_names]
    if absent:
        raise RunError(
            f"`splits.unknown_classes` names {', '.join(absent)}, which no item has as its label. "
            "Write labels as the table does."
        )
    return tuple(class_names.index(name) for name in wanted)
