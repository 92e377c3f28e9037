"""Open a finished study from its directory, and find the trial to train again."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from pydantic import ValidationError

from analysis.results.aggregate import StudyResults
from analysis.results.load import each_with_items, load_study
from embedding_jobs.store.store import Embeddings
from study.config.schema import Resources, StudySpec
from study.errors import RunError
from study.execution.devices import with_own_device
from study.execution.pack_context import load_embeddings, pack_context
from trainables.packs.pack import PackContext
from trainables.records.choice import score_of
from trainables.records.description import DESCRIPTION, StudyDescription, read_description
from trainables.records.types import TEST, Candidate, SplitId, TrialConfig, TrialRecord


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
    spec = spec.model_copy(update={"resources": with_own_device(resources or spec.resources)})
    labels = np.searchsorted(np.asarray(description.data.class_names, dtype=object), embeddings.labels)
    return FinishedStudy(spec, description, embeddings, pack_context(spec, embeddings, labels, description))


def best_method(results: StudyResults) -> str | None:
    """Return the method of the best objective, where possible one that has converged; None while none has finished.

    References are left out: they are no networks.
    """
    objective = results.description.objective
    finished = {one.method: one for one in results.methods if one.finished and not Candidate(one.method).is_reference}
    names = [name for name in finished if name not in results.not_converged] or list(finished)
    return max(names, key=lambda name: score_of({objective: finished[name].objective.mean}, objective), default=None)


def trials_of(results: StudyResults, cell: str | None) -> list[TrialConfig]:
    """Return the recorded trials of a cell: those on test items first, each in the order of the splits.

    Args:
        results: The study's results.
        cell: A method, for the candidate that each split has chosen, or a candidate as the report names it, such as
            `e_mixup(alpha=0.3)`; None for the best method.

    Raises:
        RunError: No finished trial matches.
    """
    cell = cell or best_method(results)
    if cell is None:
        raise RunError(
            "No method has all its trials yet, so there is no best candidate. Run `study run`, or name a cell, as in "
            "`study export control`; for `study label`, give an exported model (--model)."
        )
    choices = {one.method: one.choices for one in results.methods if one.choices}
    recorded = [record.config for record in results.records]
    if cell in choices:
        trials = [one for one in recorded if one.candidate == choices[cell].get(one.split.outer)]
    else:
        trials = [one for one in recorded if cell in (str(one.candidate), one.candidate.key)]
    if not trials:
        known = ", ".join(dict.fromkeys(str(one.candidate) for one in recorded))
        raise RunError(f"The cell must be a method or a candidate with results, got {cell!r}: use one of {known}.")
    return sorted(trials, key=lambda one: (one.phase != TEST, one.split))


def find_trial(root: Path, cell: str | None, split: SplitId | None) -> TrialRecord:
    """Find a recorded trial, with its per-item results.

    Args:
        root: The study's directory.
        cell: A method or a candidate, see `trials_of`.
        split: A split, or an inner split; None for the first recorded one.

    Raises:
        RunError: No finished trial matches.
        ReportError: The study is not readable.
    """
    trials = trials_of(load_study(root), cell)
    trial = next((trial for trial in trials if split in (None, trial.split)), None)
    if trial is None:
        listed = ", ".join(dict.fromkeys(str(trial.split) for trial in trials))
        raise RunError(f"--split must be a recorded split of {cell or trials[0].candidate} ({listed}), got {split}.")
    return next(each_with_items(root, {trial}))
