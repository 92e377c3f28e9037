"""The report's table as text: the same rows for the terminal, the page, LaTeX and CSV."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from analysis.aggregate import CandidateSummary, MethodSummary, Spread, summarise
from analysis.load import StudyResults
from trainables.records import Candidate

UNDEFINED_TEXT = "–"
"""Stands where a figure is not defined, such as "none" accuracy without "none" items."""

PUBLISHED: Mapping[str, tuple[float, float]] = {
    "control": (0.9582, 0.0015),
    "e_mixup": (0.9763, 0.0002),
    "e_stitchup": (0.9768, 0.0002),
    "soft_e_mixup": (0.9795, 0.0001),
    "soft_e_stitchup": (0.9812, 0.0004),
}
"""Weighted AUC, mean and maximum deviation, that the paper reports.

References:
    Wolfe and Lundgaard (2019), "Data Augmentation for Deep Transfer Learning", version 1, Table 1: 44K items, 171
    classes, title, description and image. https://arxiv.org/abs/1912.00772
"""

FIGURE_NAMES: Mapping[str, str] = {"auc_weighted": "Weighted AUC", "accuracy": "Accuracy"}
"""How an objective is called in headings; others go by their own name."""


@dataclass(frozen=True)
class TableRow:
    """One method as text, ready to print.

    Attributes:
        method: Name of the method.
        hyperparameters: Those of its best candidate, or why there is none.
        objective: Mean ± maximum deviation of the study's objective.
        published: The same in the paper; empty unless the study repeats the paper's.
        n_splits: J, the number of splits behind every figure of the row.
        accuracy: Over all validation items, at the study's threshold.
        accuracy_known: Over items of known classes.
        accuracy_none: Over "none" items.
        none_fraction: "None" items among the validation items, in percent.
        duration: Mean device seconds of a trial.
        best: Whether its objective is the highest of the table.
    """

    method: str
    hyperparameters: str
    objective: str
    published: str
    n_splits: str
    accuracy: str
    accuracy_known: str
    accuracy_none: str
    none_fraction: str
    duration: str
    best: bool = False


@dataclass(frozen=True)
class TerminalTable:
    """The report's table for a terminal.

    Attributes:
        headings: Of the columns.
        rows: One a method, a text for each heading.
    """

    headings: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]


def headings(results: StudyResults) -> dict[str, str]:
    """The headings of the table's columns, by field of `TableRow`; without the paper's where it does not apply."""
    objective = results.description.objective
    columns = {
        "method": "Method",
        "hyperparameters": "Hyperparameters",
        "objective": FIGURE_NAMES.get(objective, objective),
        "published": "Paper",
        "n_splits": "J",
        "accuracy": "Accuracy",
        "accuracy_known": "Known",
        "accuracy_none": "“None”",
        "none_fraction": "“None” share",
        "duration": "s a trial",
    }
    if not repeats_the_paper(results):
        del columns["published"]
    return columns


def repeats_the_paper(results: StudyResults) -> bool:
    """Whether the paper's published figures belong beside this study's."""
    return results.description.preset == "paper" and results.description.objective == "auc_weighted"


def terminal_table(results: StudyResults) -> TerminalTable:
    """The table as headings and rows of text, in the study's order of methods."""
    columns = headings(results)
    rows = tuple(tuple(getattr(row, name) for name in columns) for row in table_rows(results))
    return TerminalTable(tuple(columns.values()), rows)


def table_rows(results: StudyResults) -> list[TableRow]:
    """One row a method, in the study's order."""
    summaries = summarise(results)
    top = max((summary.objective.mean for summary in summaries if summary.candidate), default=math.nan)
    paper = repeats_the_paper(results)
    return [_row(summary, top, paper) for summary in summaries]


def candidate_row(summary: CandidateSummary, objective: str) -> TableRow:
    """One candidate as text, for the table of all candidates."""
    hyperparameters = values_text(summary.candidate)
    if not summary.complete:
        hyperparameters += f" (incomplete: {len(summary.missing_splits)} missing)"
    return TableRow(
        method=summary.candidate.method,
        hyperparameters=hyperparameters,
        objective=plus_minus(summary.figures[objective]),
        published="",
        n_splits=str(len(summary.splits)),
        **_figures(summary.figures, len(summary.splits)),
        duration=number(summary.duration_s, 2),
    )


def values_text(candidate: Candidate) -> str:
    """The hyperparameters of a candidate, or a dash."""
    return ", ".join(f"{name} {value:.4g}" for name, value in candidate.params) or UNDEFINED_TEXT


def number(value: float, digits: int) -> str:
    """A number with fixed decimals, or a dash."""
    return f"{value:.{digits}f}" if math.isfinite(value) else UNDEFINED_TEXT


def plus_minus(spread: Spread, digits: int = 4) -> str:
    """Mean ± maximum deviation; the mean alone for one split, which has no deviation."""
    if spread.n == 0:
        return UNDEFINED_TEXT
    if spread.n == 1:
        return number(spread.mean, digits)
    return f"{spread.mean:.{digits}f} ± {spread.maximum_deviation:.{digits}f}"


def to_latex(results: StudyResults) -> str:
    r"""The table for a paper, to be set with `booktabs`: `\input{table.tex}`."""
    table = terminal_table(results)
    alignment = "".join("l" if name in ("method", "hyperparameters") else "r" for name in headings(results))
    lines = [
        "% Needs \\usepackage{booktabs}.",
        f"\\begin{{tabular}}{{{alignment}}}",
        "\\toprule",
        " & ".join(escape_latex(heading) for heading in table.headings) + " \\\\",
        "\\midrule",
        *(" & ".join(escape_latex(cell) for cell in row) + " \\\\" for row in table.rows),
        "\\bottomrule",
        "\\end{tabular}",
    ]
    return "\n".join(lines) + "\n"


def escape_latex(text: str) -> str:
    """Text as LaTeX sets it literally."""
    special = {
        "\\": r"\textbackslash{}", "{": r"\{", "}": r"\}", "&": r"\&", "%": r"\%", "$": r"\$", "#": r"\#",
        "_": r"\_", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}", "±": r"$\pm$", "–": "--",
        "“": "``", "”": "''", "−": "$-$", "<": r"\textless{}", ">": r"\textgreater{}",
    }  # fmt: skip
    return "".join(special.get(character, character) for character in text)


def to_csv(results: StudyResults) -> str:
    """The table's numbers unrounded, one row a method; an empty cell where a figure is not defined."""
    summaries = summarise(results)
    names = list(dict.fromkeys(name for summary in summaries for name in summary.figures))
    params = list(
        dict.fromkeys(name for summary in summaries if summary.candidate for name, _ in summary.candidate.params)
    )
    stream = io.StringIO()
    writer = csv.writer(stream, lineterminator="\n")
    spreads = [column for name in names for column in (name, f"{name}_maximum_deviation", f"{name}_n_splits")]
    writer.writerow(["method", *params, "n_splits", *spreads, "duration_s", "n_complete", "n_planned"])
    for summary in summaries:
        values = dict(summary.candidate.params) if summary.candidate else {}
        cells: list[float] = []
        for name in names:
            figure = summary.figure(name)
            cells += [figure.mean, figure.maximum_deviation, figure.n]
        writer.writerow(
            [
                summary.method,
                *(values.get(name, "") for name in params),
                summary.n_splits,
                *("" if math.isnan(cell) else cell for cell in cells),
                "" if math.isnan(summary.duration_s) else summary.duration_s,
                summary.n_complete,
                summary.n_planned,
            ]
        )
    return stream.getvalue()


def _row(summary: MethodSummary, top: float, paper: bool) -> TableRow:
    published = ""
    if paper:
        mean, deviation = PUBLISHED.get(summary.method, (math.nan, math.nan))
        published = f"{mean:.4f} ± {deviation:.4f}" if math.isfinite(mean) else UNDEFINED_TEXT
    if summary.candidate is None:
        text = f"incomplete: {summary.n_complete} of {summary.n_planned} candidates"
    else:
        text = values_text(summary.candidate)
    return TableRow(
        method=summary.method,
        hyperparameters=text,
        objective=plus_minus(summary.objective),
        published=published,
        n_splits=str(summary.n_splits),
        **_figures(summary.figures, summary.n_splits),
        duration=number(summary.duration_s, 2),
        best=summary.candidate is not None and summary.objective.mean == top,
    )


def _figures(figures: Mapping[str, Spread], n_splits: int) -> dict[str, Any]:
    cells = {name: _mean(figures.get(name), n_splits) for name in ("accuracy", "accuracy_known", "accuracy_none")}
    none, validation = figures.get("n_none"), figures.get("n_validation")
    share = none.mean / validation.mean if none and validation and validation.mean else math.nan
    cells["none_fraction"] = f"{100 * share:.1f} %" if math.isfinite(share) else UNDEFINED_TEXT
    return cells


def _mean(figure: Spread | None, n_splits: int) -> str:
    if figure is None or figure.n == 0:
        return UNDEFINED_TEXT
    return number(figure.mean, 3) + ("" if figure.n == n_splits else f" ({figure.n} of {n_splits} splits)")
