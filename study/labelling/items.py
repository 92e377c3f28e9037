"""Rank the items of an unlabelled table: embed it with the study's encoders, classify it, and order it."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from embedding_jobs.encoders.config import column_name
from embedding_jobs.errors import SourceError
from embedding_jobs.pipeline.extract import check_extraction, run_extraction
from embedding_jobs.sources.items import Source, iter_items
from embedding_jobs.sources.tables import table_columns
from embedding_jobs.sources.vectors import VectorColumn
from embedding_jobs.store.manifests import comparable
from embedding_jobs.store.store import Embeddings, Store
from study.config.schema import StudySpec
from study.errors import ModelError
from study.execution.progress import Progress
from study.execution.ray_connection import connect_ray, loss_as_error
from study.labelling.ranking import rank
from study.model.classifier import NONE, Classifier

# First characters that make a spreadsheet take a text for a formula.
_FORMULA_STARTS = ("=", "+", "-", "@", "\t", "\r")


@dataclass(frozen=True)
class RankedItem:
    """One item of the list.

    Attributes:
        rank: From 1.
        row: Its row in the table.
        predicted: The predicted class, or "none".
        confidence: Probability of the most probable class.
        image: Path of its image; None if it has no image, or the table contains the images.
    """

    rank: int
    row: int
    id: str
    predicted: str
    confidence: float
    most_probable: str
    texts: dict[str, str]
    image: str | None


def unlabelled_source(spec: StudySpec, table: Path, files: Mapping[str, str]) -> Source:
    """Return the source of a table without labels, groups and roles.

    Args:
        spec: The study.
        table: The table.
        files: The table's file of each name of vectors that the study has a file of.

    Raises:
        SourceError: The table is not readable, or columns of the study or files of vectors are missing.
    """
    columns = table_columns(str(table.resolve()))
    of_file = [column.name for column in spec.data.vector_columns if column.file is not None]
    if set(of_file) != set(files):
        asked = " ".join(f"--vectors {name}=FILE" for name in of_file) or "none"
        raise SourceError(
            f"the files of {table}'s vectors must be those of the study, got {', '.join(files) or 'none'}; give {asked}"
        )
    used = (spec.data.id, *(name for name in spec.data.columns if name not in of_file))
    wanted = [name for name in used if name is not None]
    if missing := [name for name in wanted if name not in columns]:
        raise SourceError(
            f"{table} must have the study's columns {', '.join(wanted)}; missing: {', '.join(missing)}. It has "
            f"{', '.join(columns)}."
        )
    vectors = tuple(VectorColumn(one.name, files.get(one.name)) for one in spec.data.vector_columns)
    return replace(spec.data.source, table=str(table.resolve()), label=None, group=None, split=None, vectors=vectors)


def embed_table(spec: StudySpec, source: Source, store: Path, classifier: Classifier, progress: Progress) -> Embeddings:
    """Encode a table's columns with the study's encoders into a store; finished parts are not encoded again.

    Raises:
        SourceError: The table is not valid.
        EncoderError: An encoder is not available.
        StoreError: The store belongs to another table or encoder.
        ModelError: The classifier was trained on embeddings of other encoders; nothing is encoded.
    """
    configs = spec.column_encoders
    checked = check_extraction(source, configs, store, rows_per_shard=spec.resources.rows_per_shard)
    _refuse_other_encoders(classifier, checked.fingerprints)
    with loss_as_error():
        run_extraction(checked, on_progress=progress.embedding, start_ray=lambda: connect_ray(spec))
    progress.end_embedding()
    return Store(store).load([column_name(column, config) for column, config in configs.items()])


def rank_items(classifier: Classifier, embeddings: Embeddings, source: Source, n_top: int) -> list[RankedItem]:
    """Return every item of a table in the order in which to label them, by `study.labelling.ranking.rank`.

    Near-duplicates are avoided in the first `n_top` places.
    """
    predicted = classifier.predict(embeddings.matrix)
    confidence = predicted["confidence"].to_numpy()
    order = rank(predicted["logit"].to_numpy(), (predicted["class"] == NONE).to_numpy(), embeddings.matrix, n_top)
    rank_of = {item: place for place, item in enumerate(order.tolist(), start=1)}
    place_of = {str(one): place for place, one in enumerate(embeddings.ids)}
    items = []
    for batch in iter_items(source):
        for offset, one in enumerate(batch.ids):
            if one is None or one not in place_of:
                continue  # an item without a vector has no rank
            place = place_of[one]
            image = batch.inputs[source.image][offset] if source.image else ""
            items.append(
                RankedItem(
                    rank=rank_of[place],
                    row=batch.first_row + offset,
                    id=one,
                    predicted=str(predicted["class"].iat[place]),
                    confidence=float(confidence[place]),
                    most_probable=str(predicted["most_probable"].iat[place]),
                    texts={name: batch.inputs[name][offset] for name in source.text},
                    image=None if not image or image.startswith("blake2b:") else image,
                )
            )
    return sorted(items, key=lambda item: item.rank)


def label_csv(items: list[RankedItem]) -> str:
    """Return the list as CSV: rank, id, prediction, texts and image; no cell starts like a spreadsheet's formula."""
    columns = list(items[0].texts) if items else []
    stream = io.StringIO()
    writer = csv.writer(stream, lineterminator="\n")
    writer.writerow(["rank", "id", "predicted", "confidence", "most_probable", *columns, "image"])
    for item in items:
        texts = [item.id, item.predicted, item.most_probable, *(item.texts[name] for name in columns), item.image or ""]
        one, predicted, most_probable, *others = map(_harmless, texts)
        writer.writerow([item.rank, one, predicted, f"{item.confidence:.6f}", most_probable, *others])
    return stream.getvalue()


def _refuse_other_encoders(classifier: Classifier, fingerprints: Mapping[str, Mapping[str, Any]]) -> None:
    asked = [(column, comparable(dict(made_of))) for column, made_of in fingerprints.items()]
    if asked != [(one.column, comparable(dict(one.fingerprint))) for one in classifier.inputs]:
        names = ", ".join(f"{one.column} by {one.encoder}" for one in classifier.inputs)
        raise ModelError(
            f"The embeddings must come from the encoders that the classifier was trained on ({names}), but the study "
            f"encodes {', '.join(fingerprints)} by others, or with other weights or settings. Use the study that "
            "exported the model."
        )


def _harmless(text: str) -> str:
    return f"'{text}" if text.startswith(_FORMULA_STARTS) else text
