"""What a study has come to, for a program or a notebook."""

from __future__ import annotations

import io
from collections.abc import Mapping
from dataclasses import dataclass
from html import escape
from pathlib import Path

import pandas as pd

from analysis.report.export import to_csv
from analysis.report.tables import terminal_table
from analysis.results.aggregate import CandidateSummary, missing_trials, summarise, summarise_candidates
from analysis.results.load import load_study
from trainables.records.failures import Failure, Stop


@dataclass(frozen=True)
class StudyResult:
    """How a run ended. A notebook shows it as the report's table.

    Attributes:
        directory: The study's directory.
        n_trained: Trials trained by this run.
        n_recorded: Trials recorded in all.
        failures: The packs that failed for good, in this run or before it.
        stops: The candidates that the search gave up.
        tracking_problem: Why the tracker is behind, if it is.
    """

    directory: Path
    n_trained: int
    n_recorded: int
    failures: tuple[Failure, ...]
    stops: tuple[Stop, ...]
    tracking_problem: str | None

    def table(self) -> pd.DataFrame:
        """The report's table, unrounded: one row a method."""
        return pd.read_csv(io.StringIO(to_csv(load_study(self.directory))))

    def trials(self) -> pd.DataFrame:
        """One row a trial: coordinates, hyperparameters, every figure."""
        return load_study(self.directory).table()

    def _repr_html_(self) -> str:
        if not self.n_recorded:
            return f"<p>No trial is recorded in {escape(str(self.directory))}.</p>"
        shown = terminal_table(load_study(self.directory))
        head = "".join(f"<th>{escape(heading)}</th>" for heading in shown.headings)
        rows = ("".join(f"<td>{escape(cell)}</td>" for cell in row) for row in shown.rows)
        failed = "".join(f"<li>{escape(str(failure))}</li>" for failure in self.failures)
        return (
            f"<table><thead><tr>{head}</tr></thead><tbody>{''.join(f'<tr>{row}</tr>' for row in rows)}</tbody></table>"
            f"<p>{self.n_recorded} trials recorded in {escape(str(self.directory))}, {self.n_trained} by this run.</p>"
            + (f"<p>Failed:</p><ul>{failed}</ul>" if failed else "")
        )


@dataclass(frozen=True)
class Outcome:
    """What a study has come to, as its tracker is told.

    Attributes:
        metrics: The mean objective of each method's best candidate, by `METRIC.METHOD`.
        candidates: Every candidate with a finished trial, of every phase.
        complete: Whether no planned trial is missing.
    """

    metrics: Mapping[str, float]
    candidates: tuple[CandidateSummary, ...]
    complete: bool


def outcome(directory: Path) -> Outcome:
    """What the study in a directory has come to.

    Args:
        directory: The study's directory.
    """
    results = load_study(directory)
    metric = results.description.objective
    means = {f"{metric}.{row.method}": row.objective.mean for row in summarise(results) if row.candidate}
    candidates = (one for phase in results.description.splits for one in summarise_candidates(results, phase))
    return Outcome(means, tuple(candidates), not missing_trials(results))
