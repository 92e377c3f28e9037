"""Verify a cell of a study's table: train it again with the same engine, and compare the figures."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path

import numpy as np

from analysis.report.tables import TerminalTable
from study.config.schema import Resources
from study.errors import RunError
from study.model.retrain import find_trial, open_study
from study.state.provenance import versions
from trainables.methods.registry import method_code
from trainables.packs.single import train_trial
from trainables.records.types import THRESHOLD, Curves, ItemResults, SplitId, TrialConfig

# Endings of figures that are shown but not judged where the hardware is another: they jump between evaluations.
_JUMPING = ("crossing_threshold", THRESHOLD)

# What determines how numbers round, besides the CPU.
_COMPUTING = ("package", "numpy", "torch", "method_code")

# Beginning of a figure that is a time, which no two trainings share.
_TIME = "seconds_"


@dataclass(frozen=True)
class VerifiedFigure:
    """One figure, and whether its two values agree; None for a figure that is not judged."""

    name: str
    recorded: float
    retrained: float
    agrees: bool | None


@dataclass(frozen=True)
class Verification:
    """The comparison of a cell with its retraining.

    Attributes:
        figures: Every recorded figure.
        n_items: Validation items.
        n_changed: Validation items with another prediction or another judgement.
        logit_difference: Largest difference in the logit of an item's most probable class.
        recorded_on: Hardware that made the record.
        retrained_on: Hardware of the retraining.
        equal: Whether every figure but times, every curve and every item's result is equal to the bit.
        must_be_equal: Whether they must be: both trainings were on one kind of CPU, by the same code.
        other_versions: What the record was made with and what is installed, by library, where the two differ; the
            method's code too.
    """

    trial: TrialConfig
    figures: tuple[VerifiedFigure, ...]
    n_items: int
    n_changed: int
    logit_difference: float
    recorded_on: str
    retrained_on: str
    equal: bool
    must_be_equal: bool
    other_versions: Mapping[str, tuple[str, str]]

    @property
    def agrees(self) -> bool:
        """Whether the results are equal, or need not be and every judged figure agrees."""
        return self.equal or (not self.must_be_equal and all(figure.agrees is not False for figure in self.figures))


def verify_cell(
    root: Path, cell: str, split: SplitId | None, tolerance: float = 0.001, resources: Resources | None = None
) -> Verification:
    """Retrain the trial that `find_trial` finds, from the study's own description, and compare.

    On the kind of CPU that made the record, the same code must give results that are equal to the bit. Elsewhere,
    figures agree within `tolerance`; rounding on other hardware explains differences below the default. `resources` is
    what it trains on; None for that of the study's last run.

    Raises:
        RunError: No finished trial matches, or the study's embeddings have changed.
        ReportError: The study is not readable.
        TrainingError: A GPU is asked for, and there is none.
    """
    record = find_trial(root, cell, split)
    trained = train_trial(open_study(root, resources).context, record.config, record.calibration)
    before, after = record.items, trained.result.items
    if before is None or not np.array_equal(before.item, after.item):
        raise RunError(f"{record.config} was evaluated on other items than its split gives now. Run the study again.")
    recorded_on = record.provenance.get("hardware", trained.hardware)
    installed = {**versions(), "method_code": method_code(record.config.candidate.method)}
    recorded_with = {name: record.provenance.get(name, "unknown") for name in installed}
    other = {name: (recorded_with[name], now) for name, now in installed.items() if recorded_with[name] != now}
    same_code = not any(name in other for name in _COMPUTING)
    must_be_equal = same_code and recorded_on == trained.hardware and recorded_on.startswith("cpu")
    figures = []
    for name, value in record.metrics.items():
        now = trained.result.metrics.get(name, np.nan)
        agrees: bool | None = None
        if not name.startswith(_TIME) and (must_be_equal or not name.endswith(_JUMPING)):
            limit = 0.0 if must_be_equal else tolerance
            agrees = bool(abs(now - value) <= limit or (np.isnan(value) and np.isnan(now)))
        figures.append(VerifiedFigure(name, value, now, agrees))
    judged = [one for one in figures if not one.name.startswith(_TIME)]
    return Verification(
        trial=record.config,
        figures=tuple(figures),
        n_items=len(after.item),
        n_changed=int(((before.predicted != after.predicted) | (before.correct != after.correct)).sum()),
        logit_difference=float(np.abs(before.logit - after.logit).max()),
        recorded_on=recorded_on,
        retrained_on=trained.hardware,
        equal=np.array_equal([one.recorded for one in judged], [one.retrained for one in judged], equal_nan=True)
        and _equal(record.curves, trained.result.curves)
        and _equal(before, after),
        must_be_equal=must_be_equal,
        other_versions=other,
    )


def _equal(one: Curves | ItemResults, other: Curves | ItemResults) -> bool:
    """Return whether two values of one kind are equal in every element of every field."""
    return all(
        np.array_equal(getattr(one, field.name), getattr(other, field.name), equal_nan=True) for field in fields(one)
    )


def verification_table(found: Verification) -> TerminalTable:
    """Return the figures as a table for a terminal, one per row; without those that are defined on neither side."""
    words = {True: "agrees", False: "differs", None: "not judged"}
    rows = []
    for one in found.figures:
        if np.isnan(one.recorded) and np.isnan(one.retrained):
            continue
        difference = f"{one.retrained - one.recorded:.2g}"
        rows.append((one.name, f"{one.recorded:.6g}", f"{one.retrained:.6g}", difference, words[one.agrees]))
    return TerminalTable(("Figure", "Recorded", "Retrained", "Difference", ""), tuple(rows))
