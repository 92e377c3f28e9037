"""The report's table as text: the same rows for the terminal, the page and LaTeX."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from analysis.format import UNDEFINED_TEXT, figure_name, heading, number, signed
from analysis.results.aggregate import CandidateSummary, MethodSummary, Spread, StudyResults
from analysis.results.controls import references_text
from analysis.statistics.decisions import MethodEvidence
from analysis.statistics.intervals import Decision
from trainables.records.types import Candidate, value_text

Evidence = Mapping[str, MethodEvidence]

NO_EVIDENCE: Evidence = {}

# Weighted AUC, mean and maximum deviation, as published.
#
# References:
#     Wolfe and Lundgaard (2019), "Data Augmentation for Deep Transfer Learning", version 1, Table 1: 44K items, 171
#     classes, title, description and image. https://arxiv.org/abs/1912.00772
PUBLISHED: Mapping[str, tuple[float, float]] = {
    "control": (0.9582, 0.0015),
    "e_mixup": (0.9763, 0.0002),
    "e_stitchup": (0.9768, 0.0002),
    "soft_e_mixup": (0.9795, 0.0001),
    "soft_e_stitchup": (0.9812, 0.0004),
}


@dataclass(frozen=True)
class TableRow:
    """One method as text, ready to print; a dash stands for a figure that is not defined.

    Attributes:
        method: Name of the method.
        hyperparameters: Those of its best candidate, or why there is none.
        objective: Mean ± maximum deviation of the study's objective.
        published: The same in the paper; empty unless the study repeats the paper's.
        n_splits: J, the number of splits behind every figure of the row.
        accuracy: Over all validation items, at the study's threshold; `accuracy_known` and `accuracy_none` over those
            of known classes and over "none" items.
        none_fraction: "None" items among the validation items, in percent.
        ece: Expected calibration error over known items.
        ood_auroc: How well confidence separates "none" items from the others.
        epochs_to_99: Epochs to 99 % of the final accuracy.
        duration: Mean device seconds of a trial.
        interval: 95 % interval of the objective, over splits and items.
        difference: Of the objective to the method's control, with its 95 % interval and the `decision`, which is "not
            converged" where that is so of the method, whether or not it is compared.
        optimism: By how much the search's best score exceeds the confirmed one.
        best: Whether its objective is the highest of the table, among methods that have converged.
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
    ece: str
    ood_auroc: str
    epochs_to_99: str
    duration: str
    interval: str = ""
    difference: str = ""
    decision: str = ""
    optimism: str = ""
    best: bool = False


@dataclass(frozen=True)
class TerminalTable:
    """A table for a terminal: its headings, and rows with a text for each heading."""

    headings: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]


def headings(results: StudyResults, evidence: Evidence = NO_EVIDENCE) -> dict[str, str]:
    """Return the headings of the table's columns, by field of `TableRow`; only of columns that hold something."""
    objective = results.description.objective
    columns = {
        "method": "Method",
        "hyperparameters": "Hyperparameters",
        "objective": heading(figure_name(objective)),
        "published": "Paper",
        "interval": "95 % interval",
        "difference": f"Against {references_text(results.description.methods)}",
        "decision": "Decision",
        "n_splits": "J",
        "accuracy": "Accuracy",
        "accuracy_known": "Known",
        "accuracy_none": "“None”",
        "none_fraction": "“None” items",
        "ece": "ECE",
        "ood_auroc": "OOD AUROC",
        "epochs_to_99": "Epochs to 99 %",
        "optimism": "Optimism",
        "duration": "Time per trial (s)",
    }
    always = {"method", "hyperparameters", "objective", "n_splits", "accuracy", "accuracy_known", "accuracy_none"}
    always |= {"none_fraction", "duration"}
    rows = table_rows(results, evidence)
    return {
        name: text
        for name, text in columns.items()
        if name in always or any(getattr(row, name) not in ("", UNDEFINED_TEXT) for row in rows)
    }


def repeats_the_paper(results: StudyResults) -> bool:
    """Return whether the paper's published figures belong beside this study's."""
    return results.description.preset == "paper" and results.description.objective == "auc_weighted"


def terminal_table(results: StudyResults) -> TerminalTable:
    """Return the table as headings and rows of text, in the study's order of methods."""
    columns = headings(results)
    rows = tuple(tuple(getattr(row, name) for name in columns) for row in table_rows(results))
    return TerminalTable(tuple(columns.values()), rows)


def table_rows(results: StudyResults, evidence: Evidence = NO_EVIDENCE) -> list[TableRow]:
    """Return one row per method, in the study's order; without evidence the columns of intervals stay empty."""
    finished = [one for one in results.methods if one.candidate and one.method not in results.not_converged]
    top = max((summary.objective.mean for summary in finished), default=math.nan)
    return [_row(summary, top, results, evidence.get(summary.method)) for summary in results.methods]


def candidate_row(summary: CandidateSummary, objective: str) -> TableRow:
    """Return one candidate as text, for the table of all candidates."""
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
    """Return the hyperparameters of a candidate, or a dash."""
    return ", ".join(f"{name} {value_text(name, value)}" for name, value in candidate.params) or UNDEFINED_TEXT


def plus_minus(spread: Spread, digits: int = 4) -> str:
    """Return mean ± maximum deviation; the mean alone for one split, which has no deviation."""
    if spread.n == 0:
        return UNDEFINED_TEXT
    if spread.n == 1:
        return number(spread.mean, digits)
    return f"{spread.mean:.{digits}f} ± {spread.maximum_deviation:.{digits}f}"


def _row(summary: MethodSummary, top: float, results: StudyResults, own: MethodEvidence | None) -> TableRow:
    published = ""
    if repeats_the_paper(results):
        known = PUBLISHED.get(summary.method)
        published = UNDEFINED_TEXT if known is None else "{:.4f} ± {:.4f}".format(*known)
    if summary.candidate is None and summary.n_complete == summary.n_planned:
        text = "best candidate not confirmed"
    elif summary.candidate is None:
        text = f"incomplete: {summary.n_complete} of {summary.n_planned} candidates"
    else:
        text = values_text(summary.candidate)
    converged = summary.method not in results.not_converged
    exceeds = summary.optimism if results.description.protocol == "nested" else math.nan
    return TableRow(
        method=summary.method,
        hyperparameters=text,
        objective=plus_minus(summary.objective),
        published=published,
        n_splits=str(summary.n_splits),
        **_figures(summary.figures, summary.n_splits),
        duration=number(summary.duration_s, 2),
        optimism=signed(exceeds) if math.isfinite(exceeds) else "",
        best=converged and summary.objective.mean == top,
        **_evidence_cells(own, results.description.objective, converged=converged),
    )


def _evidence_cells(own: MethodEvidence | None, objective: str, *, converged: bool) -> dict[str, str]:
    cells = {"interval": UNDEFINED_TEXT, "difference": UNDEFINED_TEXT, "decision": UNDEFINED_TEXT}
    interval = own.intervals.get(objective) if own else None
    if interval is not None and math.isfinite(interval.low):
        # With two or three splits an interval can be wider than the figure's range, which says no more than the range.
        cells["interval"] = f"{number(max(interval.low, 0.0), 4)} to {number(min(interval.high, 1.0), 4)}"
    difference = own.differences.get(objective) if own else None
    if difference is not None:
        seen = difference.interval
        cells["difference"] = signed(seen.estimate)
        if math.isfinite(seen.low):
            cells["difference"] += f" [{signed(max(seen.low, -1.0))}, {signed(min(seen.high, 1.0))}]"
            cells["decision"] = str(difference.decision)
    if not converged:
        cells["decision"] = str(Decision.NOT_CONVERGED)
    return cells


def _figures(figures: Mapping[str, Spread], n_splits: int) -> dict[str, Any]:
    cells = {name: _mean(figures.get(name), n_splits) for name in ("accuracy", "accuracy_known", "accuracy_none")}
    cells["ece"] = _mean(figures.get("ece_known"), n_splits)
    cells["ood_auroc"] = _mean(figures.get("ood_auroc"), n_splits)
    cells["epochs_to_99"] = _mean(figures.get("epochs_to_99"), n_splits, digits=0)
    none, validation = figures.get("n_none"), figures.get("n_validation")
    share = none.mean / validation.mean if none and validation and validation.mean else math.nan
    cells["none_fraction"] = f"{100 * share:.1f} %" if math.isfinite(share) else UNDEFINED_TEXT
    return cells


def _mean(figure: Spread | None, n_splits: int, digits: int = 3) -> str:
    if figure is None or figure.n == 0:
        return UNDEFINED_TEXT
    return number(figure.mean, digits) + ("" if figure.n == n_splits else f" ({figure.n} of {n_splits} splits)")
