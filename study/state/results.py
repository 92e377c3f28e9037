"""The results of a study, for a program, a notebook or its MLflow run."""

from __future__ import annotations

import io
from collections.abc import Mapping
from dataclasses import dataclass, field
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING

import pandas as pd

from analysis.report.export import table_csv
from analysis.report.tables import terminal_table
from analysis.results.aggregate import CandidateSummary, StudyResults
from trainables.records.failures import Failure, Stop

if TYPE_CHECKING:
    from analysis.report.write import ReportFiles


@dataclass(frozen=True)
class StudyReport:
    """The results of a study and where they were written.

    Attributes:
        results: The finished trials, and why planned trials are missing.
        report: The files of the report; None if it could not be written.
        report_problem: Why the report could not be written; None if it was.
        tracking_problem: Why the study's MLflow run is not up to date; None if it is, or if a run works and will
            update it.
    """

    results: StudyResults = field(repr=False)
    report: ReportFiles | None = field(repr=False)
    report_problem: str | None
    tracking_problem: str | None


@dataclass(frozen=True)
class StudyResult(StudyReport):
    """The result of a run. A notebook shows it as the report's table.

    Attributes:
        n_trained: Trials trained by this run.
        n_recorded: Trials recorded in all.
        failures: The packs that failed for good, in this run or before it.
        stops: The candidates that early stopping ended.
    """

    directory: Path
    n_trained: int
    n_recorded: int
    failures: tuple[Failure, ...]
    stops: tuple[Stop, ...]

    def table(self) -> pd.DataFrame:
        """Return the report's table, unrounded: one row per method."""
        return pd.read_csv(io.StringIO(table_csv(self.results)))

    def trials(self) -> pd.DataFrame:
        """Return one row per trial: coordinates, hyperparameters, every metric."""
        return self.results.table()

    def _repr_html_(self) -> str:
        if not self.n_recorded:
            return f"<p>No trial is recorded in {escape(str(self.directory))}.</p>"
        shown = terminal_table(self.results)
        head = "".join(f"<th>{escape(heading)}</th>" for heading in shown.headings)
        rows = ("".join(f"<td>{escape(cell)}</td>" for cell in row) for row in shown.rows)
        failed = "".join(f"<li>{escape(str(failure))}</li>" for failure in self.failures)
        return (
            f"<table><thead><tr>{head}</tr></thead><tbody>{''.join(f'<tr>{row}</tr>' for row in rows)}</tbody></table>"
            f"<p>{self.n_recorded} trials recorded in {escape(str(self.directory))}, {self.n_trained} by this run.</p>"
            + (f"<p>Failed:</p><ul>{failed}</ul>" if failed else "")
        )


@dataclass(frozen=True)
class StudyOutcome:
    """The results that a study's MLflow run shows.

    Attributes:
        metrics: The mean objective of each method's best candidate, by `METRIC.METHOD`.
        candidates: Every candidate with a finished trial, of every phase.
        complete: Whether no planned trial is missing.
    """

    metrics: Mapping[str, float]
    candidates: tuple[CandidateSummary, ...]
    complete: bool


def outcome(results: StudyResults) -> StudyOutcome:
    """Return what a study's MLflow run shows of its results."""
    metric = results.description.objective
    means = {f"{metric}.{row.method}": row.objective.mean for row in results.methods if row.finished}
    candidates = (one for phase in results.description.splits for one in results.candidates[phase])
    return StudyOutcome(means, tuple(candidates), not results.missing)
