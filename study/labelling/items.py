"""What to label next: another table, embedded by the study's encoders, judged by a classifier, ranked."""

from __future__ import annotations

import csv
import io
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pandas as pd

from embedding_jobs.encoders.config import encoder_name
from embedding_jobs.errors import SourceError
from embedding_jobs.pipeline.extract import extract
from embedding_jobs.sources.items import Source, iter_items
from embedding_jobs.sources.tables import table_columns
from embedding_jobs.store.manifests import comparable
from embedding_jobs.store.store import Embeddings, Store
from study.config.schema import StudySpec
from study.errors import ModelError
from study.execution.pack_context import encoder_configs
from study.execution.progress import Progress
from study.execution.ray_connection import connect
from study.labelling.ranking import rank
from study.model.classifier import NONE, Classifier

_FORMULA = ("=", "+", "-", "@", "\t", "\r")


@dataclass(frozen=True)
class RankedItem:
    """One item of the list.

    Attributes:
        rank: From 1.
        row: Its row in the table.
        id: Its id.
        predicted: The class predicted, or "none".
        confidence: Probability of the most probable class.
        most_probable: That class.
        texts: Its texts, by column.
        image: Its picture's path; None without one, and where pictures lie in the table.
    """

    rank: int
    row: int
    id: str
    predicted: str
    confidence: float
    most_probable: str
    texts: dict[str, str]
    image: str | None


def unlabelled_source(spec: StudySpec, table: Path) -> Source:
    """A table without labels, with the study's columns; its ids stand where labels are asked for.

    Raises:
        SourceError: The table cannot be read, or lacks columns.
    """
    columns = table_columns(str(table.resolve()))
    wanted = (spec.data.id, *spec.data.columns)
    if missing := [name for name in wanted if name not in columns]:
        raise SourceError(
            f"{table} must have the study's columns {', '.join(wanted)}; it lacks {', '.join(missing)}, and has "
            f"{', '.join(columns)}."
        )
    return replace(spec.data.source, table=str(table.resolve()), label=spec.data.id)


def embed_table(spec: StudySpec, source: Source, store: Path, progress: Progress) -> Embeddings:
    """Encodes a table's columns as the study's were; what is there is not encoded again.

    Args:
        spec: The study.
        source: The table.
        store: Directory of its embeddings.
        progress: Where to show it.

    Raises:
        embedding_jobs.sources.SourceError: The table is unsound, or lacks one of the study's columns.
        embedding_jobs.encoders.EncoderError: An encoder cannot be had.
        embedding_jobs.store.StoreError: The store is of another table or encoder.
    """
    connect(spec)
    configs = encoder_configs(spec)
    extract(source, configs, store, rows_per_shard=spec.resources.rows_per_shard, on_progress=progress.embedding)
    progress.end_embedding()
    return Store(store).load([f"{column}--{encoder_name(config)}" for column, config in configs.items()])


def rank_items(classifier: Classifier, embeddings: Embeddings, source: Source, n_top: int) -> list[RankedItem]:
    """Every item of a table, the first to label first; see `study.ranking` for the order.

    Args:
        classifier: Judges the items.
        embeddings: Of the table.
        source: The table.
        n_top: Places at the top for which items of one kind do not compete.

    Raises:
        ModelError: The classifier takes the embeddings of other encoders.
    """
    _check_inputs(classifier, embeddings)
    found = classifier.predict(embeddings.matrix)
    confidence = found["confidence"].to_numpy()
    order = rank(confidence, (found["class"] == NONE).to_numpy(), embeddings.matrix, n_top)
    return _items(found, order, embeddings, source)


def to_csv(items: list[RankedItem]) -> str:
    """The list: rank, id, prediction, texts and picture; nothing in it starts as a spreadsheet's formula."""
    columns = list(items[0].texts) if items else []
    stream = io.StringIO()
    writer = csv.writer(stream, lineterminator="\n")
    writer.writerow(["rank", "id", "predicted", "confidence", "most_probable", *columns, "image"])
    for item in items:
        texts = [item.id, item.predicted, item.most_probable, *(item.texts[name] for name in columns), item.image or ""]
        one, predicted, most_probable, *others = map(_harmless, texts)
        writer.writerow([item.rank, one, predicted, f"{item.confidence:.6f}", most_probable, *others])
    return stream.getvalue()


def _items(
    found: pd.DataFrame, order: npt.NDArray[np.int64], embeddings: Embeddings, source: Source
) -> list[RankedItem]:
    rank_of = {str(embeddings.ids[item]): place for place, item in enumerate(order.tolist(), start=1)}
    place_of = {str(one): place for place, one in enumerate(embeddings.ids)}
    predicted, confidence = found["class"].to_numpy(), found["confidence"].to_numpy()
    items = []
    for batch in iter_items(source):
        for offset, one in enumerate(batch.ids):
            if one not in rank_of:
                continue  # without a vector there is nothing to rank it by
            place = place_of[one]
            image = batch.inputs[source.image][offset] if source.image else ""
            items.append(
                RankedItem(
                    rank=rank_of[one],
                    row=batch.first_row + offset,
                    id=one,
                    predicted=str(predicted[place]),
                    confidence=float(confidence[place]),
                    most_probable=str(found["most_probable"].iat[place]),
                    texts={name: batch.inputs[name][offset] for name in source.text},
                    image=None if not image or image.startswith("blake2b:") else image,
                )
            )
    return sorted(items, key=lambda item: item.rank)


def _check_inputs(classifier: Classifier, embeddings: Embeddings) -> None:
    columns = [embeddings.provenance["columns"][name] for name in embeddings.columns]
    mine = [(one["column"], comparable(one["fingerprint"])) for one in columns]
    asked = [(one.column, comparable(dict(one.fingerprint))) for one in classifier.inputs]
    if mine != asked:
        names = ", ".join(f"{one.column} by {one.encoder}" for one in classifier.inputs)
        raise ModelError(
            f"The embeddings must be those that the classifier was trained on ({names}), they are "
            f"{', '.join(embeddings.columns)} or of other weights. Use the study whose model it is."
        )


def _harmless(text: str) -> str:
    """A text that no spreadsheet takes for a formula."""
    return f"'{text}" if text.startswith(_FORMULA) else text
