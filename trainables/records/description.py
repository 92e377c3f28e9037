"""The description of a study, `study.json`: what was asked for, of which data, and what the search has proposed so far.

A run writes it before its first trial; `study status`, the report and retraining read it.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter, ValidationError
from pydantic_core import ErrorDetails

from embedding_jobs.errors import StudyError
from embedding_jobs.files import read_json, write_whole
from trainables.records.choice import choose_best, mean_score
from trainables.records.types import SEARCH, SELECTIONS, TEST, Candidate, Design, SplitId, TrialConfig

DESCRIPTION = "study.json"

# Part of the message about a directory without a study, by which it is recognised in the output of a cluster.
NO_STUDY = "holds no study"

_FORMAT = 3


def search_name(method: str, split: int | None = None) -> str:
    """Return the name of a method's search: on one split, by its seed, or on all together."""
    return method if split is None else f"{method} on split {split}"


def method_of(search: str) -> str:
    """Return the method of a search, given its name."""
    return search.split(" ", 1)[0]


class DescriptionError(StudyError):
    """A directory that holds no study, or another one."""


@dataclass(frozen=True)
class Proposed:
    """The candidates that a search has proposed.

    Attributes:
        asked: Digest of what the proposals follow from, besides scores: with another digest, others would be proposed.
        proposed: Hyperparameters of each candidate, in the order of the proposals.
    """

    asked: str
    proposed: tuple[Mapping[str, float], ...]


@dataclass(frozen=True)
class StudyPlan:
    """What a study trains.

    Attributes:
        methods: Method names in the study file's order.
        splits: Planned splits of each phase.
        n_candidates: Planned candidates of each method, on each split.
        candidates: The candidates that are known, by the name of their search: `search_name`. Where a method is not
            listed, every candidate is part of the study.
    """

    methods: tuple[str, ...]
    splits: Mapping[str, tuple[SplitId, ...]]
    n_candidates: Mapping[str, int]
    candidates: Mapping[str, Proposed]

    @cached_property
    def proposed(self) -> Mapping[str, list[Candidate]]:
        """The known candidates by the name of their search, in the order of the proposals."""
        return {
            name: [Candidate.of(method_of(name), one) for one in known.proposed]
            for name, known in self.candidates.items()
        }

    @cached_property
    def _known(self) -> Mapping[str, frozenset[Candidate]]:
        return {name: frozenset(candidates) for name, candidates in self.proposed.items()}

    def asks_for(self, candidate: Candidate, split: SplitId) -> bool:
        """Return whether a candidate is part of the study on a split."""
        method = candidate.method
        if method not in self.methods:
            return False
        found = [self._known[name] for name in (method, search_name(method, split.seed)) if name in self._known]
        return not found or any(candidate in known for known in found)

    def includes(self, trial: TrialConfig) -> bool:
        """Return whether a trial is part of the study."""
        return trial.split in self.splits.get(trial.phase, ()) and self.asks_for(trial.candidate, trial.split)

    def chosen(self, scores: Mapping[TrialConfig, float]) -> dict[str, dict[SplitId, Candidate]]:
        """Return the candidate that each split has chosen, by method and split.

        With inner splits, a split chooses among the candidates that are scored on all of its own. Without, all splits
        have the candidate of the best mean over them. A split without such a candidate is left out.

        Args:
            scores: Score of each recorded trial, higher is better.
        """
        phase = SEARCH if SEARCH in self.splits else TEST
        of_split: dict[SplitId, list[SplitId]] = {}
        for split in self.splits[phase]:
            of_split.setdefault(split.outer, []).append(split)
        groups = list(of_split.values()) if phase == SEARCH else [list(self.splits[phase])]
        tried: dict[str, set[Candidate]] = {method: set() for method in self.methods}
        for trial in scores:
            if trial.phase == phase and trial.candidate.method in tried:
                tried[trial.candidate.method].add(trial.candidate)
        found: dict[str, dict[SplitId, Candidate]] = {method: {} for method in self.methods}
        for method, candidates in tried.items():
            for group in groups:
                means = {}
                for one in candidates:
                    own = [scores.get(TrialConfig(phase, one, split), math.nan) for split in group]
                    if not any(map(math.isnan, own)) and self.asks_for(one, group[0]):
                        means[one] = mean_score(own)
                if best := choose_best(means):
                    found[method] |= {split.outer: best for split in group}
        return found


@dataclass(frozen=True)
class DataDescription:
    """The data of a study.

    Attributes:
        digest: Digest of all that the study reads of the table.
        metadata_digests: Digest of the labels ("label"), and of groups and official split where the study reads them.
        n_items: Number of items.
        n_classes: Number of classes.
        class_names: Sorted label names; per-item labels index this.
        n_features: Length of the concatenated embedding.
        embeddings: What encoded each column, by column.
        notes: Plain sentences to show the reader.
    """

    digest: str
    metadata_digests: Mapping[str, str]
    n_items: int
    n_classes: int
    class_names: tuple[str, ...]
    n_features: int
    embeddings: Mapping[str, Mapping[str, Any]]
    notes: tuple[str, ...]

    def __post_init__(self) -> None:
        if len(self.class_names) != self.n_classes:
            raise ValueError(f"class_names must be {self.n_classes}, got {len(self.class_names)}")


@dataclass(frozen=True)
class StudyDescription(StudyPlan):
    """The contents of `study.json`.

    Attributes:
        name: Name of the study.
        preset: The preset that it started from; None where it was written by hand.
        design: How its splits are made.
        selection: One of `SELECTIONS`.
        objective: The figure that chooses each method's best candidate; higher is better.
        threshold: Confidence above which a class is predicted, in [0, 1].
        settings: The whole study file, resolved.
        choices: Text of each choice made where the published method is silent, by short name.
        data: The data and its embeddings.
        deciding_settings: The settings that a trial's result depends on, flat.
        digests: Digests of `settings` (the deciding ones) and `embeddings`.
        method_code: What identifies the code of each method. It is no part of the digest of the settings: a method that
            is added later must not make another study of this one.
    """

    name: str
    preset: str | None
    design: Design
    selection: str
    objective: str
    threshold: float
    settings: Mapping[str, Any]
    choices: Mapping[str, str]
    data: DataDescription
    deciding_settings: Mapping[str, Any]
    digests: Mapping[str, str]
    method_code: Mapping[str, str]

    def __post_init__(self) -> None:
        phases = SELECTIONS.get(self.selection)
        if phases is None:
            raise ValueError(f"selection must be one of {', '.join(SELECTIONS)}, got {self.selection!r}")
        if sorted(self.splits) != sorted(phases):
            raise ValueError(f"splits must be given for {', '.join(phases)}, got {', '.join(self.splits) or 'none'}")
        if not self.methods:
            raise ValueError("methods is empty")
        if uncounted := [method for method in self.methods if method not in self.n_candidates]:
            raise ValueError(f"n_candidates is missing {', '.join(uncounted)}")
        if set(self.digests) != {"settings", "embeddings"}:
            raise ValueError(f"digests must be of settings and embeddings, got {', '.join(self.digests) or 'none'}")

    def mismatch(self, provenance: Mapping[str, str]) -> str | None:
        """Return why a record of some provenance is not of this study, in words; None where it is."""
        return made_otherwise(provenance, self.digests, self.method_code)

    @property
    def made_by(self) -> tuple[str, Mapping[str, str]]:
        """By what notes on failures and stops are known as the study's: the digest of the settings, and the code."""
        return self.digests["settings"], self.method_code

    @property
    def choosing_phase(self) -> str:
        """The phase whose scores choose candidates; the figures that are reported are of `TEST`."""
        return SELECTIONS[self.selection][0]


_FROM_JSON = TypeAdapter(StudyDescription)


def made_otherwise(
    provenance: Mapping[str, str], digests: Mapping[str, str], method_code: Mapping[str, str]
) -> str | None:
    """Return why a record of some provenance is not of the study with these digests and this code; None where it is."""
    found = {name: provenance.get(f"digest_{name}", "missing") for name in digests}
    other = [name for name, digest in digests.items() if found[name] != digest]
    if not other:
        method, code = provenance.get("method", ""), provenance.get("method_code", "missing")
        now = method_code.get(method, code)
        return None if code == now else f"made by other code of {method} ({code}, not {now})"
    differing = "; ".join(f"digest of {name} {found[name]}, not {digests[name]}" for name in other)
    return f"made with other {' and '.join(other)} than the study has ({differing})"


def read_description(directory: Path) -> StudyDescription:
    """Read and check the description of the study in a directory.

    Raises:
        DescriptionError: The file is missing, damaged, of another version, or has missing or wrong values.
    """
    path = directory / DESCRIPTION
    try:
        raw = read_json(path)
        found = raw.get("format") if isinstance(raw, dict) else type(raw).__name__
        if found != _FORMAT:
            raise ValueError(f"format must be {_FORMAT}, got {found}")
        return _FROM_JSON.validate_python(raw)
    except (FileNotFoundError, NotADirectoryError):
        raise DescriptionError(
            f"{directory} {NO_STUDY}: {DESCRIPTION} is missing. Run `study run` first, or name the study's directory. "
            "A study that has just been started has the file once its embeddings are made."
        ) from None
    except ValidationError as error:
        problem = "; ".join(map(_in_words, error.errors(include_url=False)))
    except ValueError as error:
        problem = str(error)
    raise DescriptionError(f"{path} is not valid: {problem}. Remove it: `study run` writes it anew.")


def _in_words(item: ErrorDetails) -> str:
    key = f"`{'.'.join(map(str, item['loc']))}`: " if item["loc"] else ""
    return key + item["msg"].removeprefix("Value error, ")


def write_description(directory: Path, description: StudyDescription) -> None:
    """Write `study.json`, whole or not at all."""
    write_whole(directory / DESCRIPTION, json.dumps({"format": _FORMAT, **asdict(description)}, indent=1).encode())
