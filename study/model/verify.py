"""Whether a cell of a study's table can be had again: retrained through the same engine, and compared."""

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

TOLERANCE = 0.001

"""Largest difference of a share (AUC, accuracy, ...) that is put down to rounding on other hardware."""

_NOT_JUDGED = ("_to_99", "crossing_threshold")

"""How figures end that jump from evaluation to evaluation, or are times: shown, and not judged."""


@dataclass(frozen=True)
class VerifiedFigure:
    """One figure, as recorded and as retrained.

    Attributes:
        name: Name of the figure.
        recorded: Its value in the record.
        retrained: Its value now.
        agrees: Whether the two agree within the tolerance; None where it is not judged.
    """

    name: str
    recorded: float
    retrained: float
    agrees: bool | None


@dataclass(frozen=True)
class Verification:
    """What retraining a cell showed.

    Attributes:
        trial: The cell.
        figures: Every figure that is recorded.
        tolerance: Largest difference that agrees.
        n_items: Validation items.
        n_otherwise: Those of them that are judged otherwise now.
        confidence_difference: Largest difference in the confidence of an item.
        differing: What made the record and is otherwise now: (what, then, now).
    """

    trial: TrialConfig
    figures: tuple[VerifiedFigure, ...]
    tolerance: float
    n_items: int
    n_otherwise: int
    confidence_difference: float
    differing: tuple[tuple[str, str, str], ...]

    @property
    def agrees(self) -> bool:
        """Whether every judged figure agrees."""
        return all(figure.agrees is not False for figure in self.figures)


def verify(root: Path, cell: str, split: int | None, tolerance: float = TOLERANCE) -> Verification:
    """Retrains a cell from what the study says of itself.

    Args:
        root: The study's directory.
        cell: A method, for its best candidate, or a candidate as the report names it.
        split: Split seed; None for the first that is recorded.
        tolerance: Largest difference that agrees.

    Raises:
        RunError: No finished trial is meant, or the study's data are no longer there.
        analysis.load.ReportError: The study cannot be read.
    """
    record = find_trial(root, cell, split)
    trained = train_trial(open_study(root).context, record.config)
    before, after = record.items, trained.result.items
    if before is None or not np.array_equal(before.item, after.item):
        raise RunError(f"{record.config} was judged on other items than the study's splits give. Run the study again.")
    now = {"hardware": trained.hardware}
    return Verification(
        trial=record.config,
        figures=tuple(_compared(record.metrics, trained.result.metrics, tolerance)),
        tolerance=tolerance,
        n_items=len(after.item),
        n_otherwise=int(((before.predicted != after.predicted) | (before.correct != after.correct)).sum()),
        confidence_difference=float(np.abs(before.confidence - after.confidence).max()),
        differing=tuple((k, record.provenance[k], v) for k, v in now.items() if record.provenance.get(k, v) != v),
    )


def verification_table(found: Verification) -> TerminalTable:
    """The figures, one a row, for a terminal."""
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
