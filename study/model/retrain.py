"""Open a finished study from its directory, and find the trial to train again."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from pydantic import ValidationError

from analysis.results.load import each_with_items, load_study
from embedding_jobs.store.store import Embeddings
from study.config.schema import Resources, StudySpec
from study.errors import RunError
from study.execution.pack_context import load_embeddings, pack_context
from trainables.packs.pack import PackContext
from trainables.records.choice import choose_best
from trainables.records.description import DESCRIPTION, StudyDescription, read_description
from trainables.records.types import TrialRecord


@dataclass(frozen=True)
class FinishedStudy:
    """A study with the settings that its records were made with, and the data of its trials."""

    spec: StudySpec
    description: StudyDescription
    embeddings: Embeddings
    context: PackContext


def open_study(root: Path, resources: Resources | None = None) -> FinishedStudy:
    """Open a study by its directory, to train on `resources`; None for those of its last run.

    Raises:
        DescriptionError: The directory holds no study.
        RunError: The study was run by another version, or its embeddings have changed since.
        StoreError: The embeddings are missing or damaged.
    """
    description = read_description(root)
    try:
        spec = StudySpec.model_validate({**description.settings, "directory": str(root.resolve())})
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        key = ".".join(map(str, first["loc"]))
        raise RunError(
            f"`{key}` in {root / DESCRIPTION} is not valid in this version ({first['msg']}). Use the version that ran "
            "the study, or run it again."
        ) from error
    embeddings = load_embeddings(spec)
    if embeddings.digest != description.digests["embeddings"]:
        raise RunError(
            f"The embeddings in {spec.store} must be those that the records were made from, with the digest "
            f"{description.digests['embeddings']}, got {embeddings.digest}. Restore them, or run the study again."
        )
    if resources is not None:
        spec = spec.model_copy(update={"resources": resources})
    labels = np.searchsorted(np.asarray(description.data.class_names, dtype=object), embeddings.labels)
    return FinishedStudy(spec, description, embeddings, pack_context(spec, embeddings, labels, description))


def find_trial(root: Path, cell: str | None, split: int | None) -> TrialRecord:
    """Find a recorded trial, with its per-item results.

    Args:
        root: The study's directory.
        cell: A method, for its best candidate, or a candidate as the report names it, such as `e_mixup(alpha=0.3)`;
            None for the best candidate of all, where possible of a method that has converged.
        split: Split seed; None for the first recorded one.

    Raises:
        RunError: No finished trial matches.
        ReportError: The study is not readable.
    """
    results = load_study(root)
    means = {one.candidate: one.objective.mean for one in results.methods if one.candidate is not None}
    if cell is None:
        converged = {one: mean for one, mean in means.items() if one.method not in results.not_converged}
        wanted = {choose_best(converged or means)}
    else:
        wanted = {candidate for candidate in means if candidate.method == cell}
        wanted |= {
            r.config.candidate for r in results.records if cell in (str(r.config.candidate), r.config.candidate.key)
        }
    phases = (results.description.reported_phase, results.description.choosing_phase)
    trials = [record.config for record in results.records if record.config.candidate in wanted]
    trials.sort(key=lambda trial: (phases.index(trial.phase), trial.split))
    if not trials and cell is None:
        raise RunError(
            f"No method in {root} has all its trials yet, so there is no best candidate. Run `study run`, or name a "
            "cell, as in `study export control`; for `study label`, give an exported model (--model)."
        )
    if not trials:
        known = ", ".join(dict.fromkeys(str(record.config.candidate) for record in results.records))
        raise RunError(f"The cell must be a method or a candidate with results, got {cell!r}: use one of {known}.")
    trial = next((trial for trial in trials if split in (None, trial.split)), None)
    if trial is None:
        listed = ", ".join(str(trial.split) for trial in trials if trial.phase == trials[0].phase)
        raise RunError(f"--split must be a recorded split of {trials[0].candidate} ({listed}), got {split}.")
    return next(each_with_items(root, {trial}))
