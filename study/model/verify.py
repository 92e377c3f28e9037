"""Verify a cell of a study's table: train it again with the same engine, and compare the figures."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from analysis.report.tables import TerminalTable
from study.errors import RunError
from study.model.retrain import find_trial, open_study
from trainables.packs.single import train_trial
from trainables.records.types import TrialConfig

# Largest difference of a fraction (AUC, accuracy, ...) that rounding on other hardware explains.
TOLERANCE = 0.001

# Endings of figures that are shown but not judged: they jump between evaluations, or are times.
_NOT_JUDGED = ("_to_99", "crossing_threshold")


@dataclass(frozen=True)
class VerifiedFigure:
    """One figure, as recorded and as retrained.

    Attributes:
        name: Name of the figure.
        recorded: Its value in the record.
        retrained: Its value now.
        agrees: Whether the two agree within the tolerance; None for a figure that is not judged.
    """

    name: str
    recorded: float
    retrained: float
    agrees: bool | None


@dataclass(frozen=True)
class Verification:
    """The comparison of a cell with its retraining.

    Attributes:
        trial: The cell.
        figures: Every recorded figure.
        tolerance: Largest difference that agrees.
        n_items: Validation items.
        n_changed: Validation items with another prediction or another judgement.
        confidence_difference: Largest difference in the confidence of an item.
        recorded_on: Hardware that made the record.
        retrained_on: Hardware of the retraining.
    """

    trial: TrialConfig
    figures: tuple[VerifiedFigure, ...]
    tolerance: float
    n_items: int
    n_changed: int
    confidence_difference: float
    recorded_on: str
    retrained_on: str

    @property
    def agrees(self) -> bool:
        """Whether every judged figure agrees."""
        return all(figure.agrees is not False for figure in self.figures)


def verify_cell(root: Path, cell: str, split: int | None, tolerance: float = TOLERANCE) -> Verification:
    """Train a cell again from the study's own description, and compare.

    Args:
        root: The study's directory.
        cell: A method, for its best candidate, or a candidate as the report names it.
        split: Split seed; None for the first recorded one.
        tolerance: Largest difference that agrees.

    Raises:
        RunError: No finished trial matches, or the study's embeddings have changed.
        ReportError: The study is not readable.
    """
    record = find_trial(root, cell, split)
    trained = train_trial(open_study(root).context, record.config)
    before, after = record.items, trained.result.items
    if before is None or not np.array_equal(before.item, after.item):
        raise RunError(f"{record.config} was evaluated on other items than its split gives now. Run the study again.")
    return Verification(
        trial=record.config,
        figures=tuple(_compared(record.metrics, trained.result.metrics, tolerance)),
        tolerance=tolerance,
        n_items=len(after.item),
        n_changed=int(((before.predicted != after.predicted) | (before.correct != after.correct)).sum()),
        confidence_difference=float(np.abs(before.confidence - after.confidence).max()),
        recorded_on=record.provenance.get("hardware", trained.hardware),
        retrained_on=trained.hardware,
    )


def verification_table(found: Verification) -> TerminalTable:
    """Return the figures as a table for a terminal, one per row."""
    words = {True: "agrees", False: "differs", None: "not judged"}
    return TerminalTable(
        ("Figure", "Recorded", "Retrained", "Difference", ""),
        tuple(
            (
                one.name,
                f"{one.recorded:.6g}",
                f"{one.retrained:.6g}",
                f"{one.retrained - one.recorded:.2g}",
                words[one.agrees],
            )
            for one in found.figures
        ),
    )


def _compared(recorded: Mapping[str, float], retrained: Mapping[str, float], tolerance: float) -> list[VerifiedFigure]:
    found = []
    for name, value in recorded.items():
        now = retrained.get(name, np.nan)
        agrees: bool | None = None
        if not name.endswith(_NOT_JUDGED):
            agrees = bool(abs(now - value) <= tolerance or (np.isnan(value) and np.isnan(now)))
        found.append(VerifiedFigure(name, value, now, agrees))
    return found
