"""Verify a cell of a study's table: train it again with the same engine, and compare the figures."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from analysis.report.tables import TerminalTable
from study.errors import RunError
from study.model.retrain import find_trial, open_study
from trainables.packs.single import train_trial
from trainables.records.types import TrialConfig

# Endings of figures that are shown but not judged: they jump between evaluations, or are times.
_NOT_JUDGED = ("_to_99", "crossing_threshold")


@dataclass(frozen=True)
class VerifiedFigure:
    """One figure, and whether its two values agree within the tolerance; None for a figure that is not judged."""

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
        confidence_difference: Largest difference in the confidence of an item.
        recorded_on: Hardware that made the record.
        retrained_on: Hardware of the retraining.
    """

    trial: TrialConfig
    figures: tuple[VerifiedFigure, ...]
    n_items: int
    n_changed: int
    confidence_difference: float
    recorded_on: str
    retrained_on: str

    @property
    def agrees(self) -> bool:
        """Whether every judged figure agrees."""
        return all(figure.agrees is not False for figure in self.figures)


def verify_cell(root: Path, cell: str, split: int | None, tolerance: float = 0.001) -> Verification:
    """Retrain the trial that `find_trial` finds, from the study's own description, and compare.

    `tolerance` is the largest difference that agrees; rounding on other hardware explains those below the default.

    Raises:
        RunError: No finished trial matches, or the study's embeddings have changed.
        ReportError: The study is not readable.
    """
    record = find_trial(root, cell, split)
    trained = train_trial(open_study(root).context, record.config)
    before, after = record.items, trained.result.items
    if before is None or not np.array_equal(before.item, after.item):
        raise RunError(f"{record.config} was evaluated on other items than its split gives now. Run the study again.")
    figures = []
    for name, value in record.metrics.items():
        now = trained.result.metrics.get(name, np.nan)
        agrees: bool | None = None
        if not name.endswith(_NOT_JUDGED):
            agrees = bool(abs(now - value) <= tolerance or (np.isnan(value) and np.isnan(now)))
        figures.append(VerifiedFigure(name, value, now, agrees))
    return Verification(
        trial=record.config,
        figures=tuple(figures),
        n_items=len(after.item),
        n_changed=int(((before.predicted != after.predicted) | (before.correct != after.correct)).sum()),
        confidence_difference=float(np.abs(before.confidence - after.confidence).max()),
        recorded_on=record.provenance.get("hardware", trained.hardware),
        retrained_on=trained.hardware,
    )


def verification_table(found: Verification) -> TerminalTable:
    """Return the figures as a table for a terminal, one per row."""
    words = {True: "agrees", False: "differs", None: "not judged"}
    rows = []
    for one in found.figures:
        difference = f"{one.retrained - one.recorded:.2g}"
        rows.append((one.name, f"{one.recorded:.6g}", f"{one.retrained:.6g}", difference, words[one.agrees]))
    return TerminalTable(("Figure", "Recorded", "Retrained", "Difference", ""), tuple(rows))
