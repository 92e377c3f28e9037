"""The report's table as text: the same rows for the terminal, the page and LaTeX."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from analysis.format import SCORE_NAMES, UNDEFINED_TEXT, figure_name, heading, number, signed
from analysis.results.aggregate import CandidateSummary, MethodSummary, Spread, StudyResults
from analysis.results.controls import references_text
from analysis.results.selection import ChosenValues, chosen_values
from analysis.statistics.decisions import MethodEvidence
from analysis.statistics.intervals import Decision
from trainables.records.figures import LOWER_IS_BETTER
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


# Columns of figures: by heading, the figures of which the first that the study has is shown, and the decimals.
_Column = tuple[str, tuple[str, ...], int]
_COLUMNS: Mapping[str, _Column] = {
    "top1": ("Top-1", ("top1",), 3),
    "macro_f1": ("Macro-F1", ("macro_f1",), 3),
    "accuracy": ("Accuracy", ("accuracy_chosen", "accuracy"), 3),
    "accuracy_known": ("Known", ("accuracy_known_chosen", "accuracy_known"), 3),
    "accuracy_none": ("“None”", ("accuracy_none_chosen", "accuracy_none"), 3),
    "auc_weighted": ("Weighted AUC", ("auc_weighted",), 4),
    "ood_auroc": ("OOD AUROC", ("ood_auroc",), 3),
    "ece": ("ECE", ("ece_known",), 3),
    "ece_scaled": ("ECE, scaled", ("ece_known_scaled",), 3),
    "epochs_to_control": ("Epochs to control", ("epochs_to_control",), 0),
}

# One line of the table as text, by column, ready to print; a dash stands for what is not defined. Besides the columns
# of figures there are: `method`; `hyperparameters`, what the splits chose, or why there is nothing; `objective`, mean ±
# maximum deviation; `published`, the same in the paper; `n_splits`, J; `none_fraction`, "none" items among the test
# items; `duration`, mean device seconds of a trial; `interval`, 95 % interval of the objective; `difference` to the
# method's control with its interval, and the `decision`; `best`, "yes" for the best objective of what has converged.
Row = Mapping[str, str]


@dataclass(frozen=True)
class TerminalTable:
    """A table for a terminal: its headings, and rows with a text for each heading."""

    headings: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]


def headings(results: StudyResults, evidence: Evidence = NO_EVIDENCE) -> dict[str, str]:
    """Return the headings of the table's columns, by column; only of columns that hold something."""
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
        **{name: text for name, (text, figures, _) in _COLUMNS.items() if figures != (objective,)},
        "none_fraction": "“None” items",
        "duration": "Time per trial (s)",
    }
    always = {"method", "hyperparameters", "objective", "n_splits", "accuracy", "duration"}
    never = set() if has_none_items(results) else {"accuracy_known", "accuracy_none", "none_fraction"}
    rows = table_rows(results, evidence)
    return {
        name: text
        for name, text in columns.items()
        if name in always or (name not in never and any(row[name] not in ("", UNDEFINED_TEXT) for row in rows))
    }


def has_none_items(results: StudyResults) -> bool:
    """Return whether a reported split has a “none” item among its test items, or none is finished yet."""
    finished = [summary for summary in results.methods if summary.finished]
    return not finished or any(summary.figure("accuracy_none").n for summary in finished)


def has_chosen_thresholds(results: StudyResults) -> bool:
    """Return whether accuracies are shown at the thresholds that inner splits chose, not at the study's."""
    return any(summary.figure("accuracy_chosen").n for summary in results.methods)


def repeats_the_paper(results: StudyResults) -> bool:
    """Return whether the paper's published figures belong beside this study's."""
    return results.description.preset == "paper" and results.description.objective == "auc_weighted"


def terminal_table(results: StudyResults) -> TerminalTable:
    """Return the table as headings and rows of text, in the study's order of methods."""
    columns = headings(results)
    rows = tuple(tuple(row[name] for name in columns) for row in table_rows(results))
    return TerminalTable(tuple(columns.values()), rows)


def table_rows(results: StudyResults, evidence: Evidence = NO_EVIDENCE) -> list[Row]:
    """Return one row per method, in the study's order; without evidence the columns of intervals stay empty."""
    finished = [one for one in results.methods if one.finished and one.method not in results.not_converged]
    best = min if results.description.objective in LOWER_IS_BETTER else max
    top = best((summary.objective.mean for summary in finished), default=math.nan)
    return [_row(summary, top, results, evidence.get(summary.method)) for summary in results.methods]


def candidate_row(summary: CandidateSummary, results: StudyResults) -> Row:
    """Return one candidate as text, for the table of all candidates."""
    hyperparameters = values_text([summary.candidate])
    if not summary.complete:
        hyperparameters += f" (incomplete: {len(summary.missing_splits)} missing)"
    return {
        "method": summary.candidate.method,
        "hyperparameters": hyperparameters,
        "objective": plus_minus(summary.figures[results.description.objective]),
        "n_splits": str(len({split.outer for split in summary.splits})),
        **_figures(summary.figures, len(summary.splits)),
        "duration": number(summary.duration_s, 2),
        "interval": "",
    }


def values_text(choices: Iterable[Candidate]) -> str:
    """Return the hyperparameters that the splits chose: one value, or median and range; a dash for none."""
    found = chosen_values(choices)
    return ", ".join(f"{name} {_value(name, values)}" for name, values in found.items()) or UNDEFINED_TEXT


def _value(name: str, chosen: ChosenValues) -> str:
    text = value_text(name, chosen.median)
    details = []
    if chosen.low < chosen.high:
        details.append(f"{value_text(name, chosen.low)}–{value_text(name, chosen.high)}")
    if 0 < chosen.n_auto < chosen.n:
        details.append(f"auto on {chosen.n_auto} of {chosen.n}")
    return f"{text} ({', '.join(details)})" if details else text


def plus_minus(spread: Spread, digits: int = 4) -> str:
    """Return mean ± maximum deviation; the mean alone for one split, which has no deviation."""
    if spread.n == 0:
        return UNDEFINED_TEXT
    if spread.n == 1:
        return number(spread.mean, digits)
    return f"{spread.mean:.{digits}f} ± {spread.maximum_deviation:.{digits}f}"


def _row(summary: MethodSummary, top: float, results: StudyResults, own: MethodEvidence | None) -> Row:
    published = ""
    if repeats_the_paper(results):
        known = PUBLISHED.get(summary.method)
        published = UNDEFINED_TEXT if known is None else "{:.4f} ± {:.4f}".format(*known)
    if summary.finished:
        text = values_text(summary.choices.values())
    elif summary.n_complete == summary.n_planned:
        text = "chosen candidates not yet tested"
    else:
        text = f"incomplete: {summary.n_complete} of {summary.n_planned} candidates"
    converged = summary.method not in results.not_converged
    return {
        "method": summary.method,
        "hyperparameters": text,
        "objective": plus_minus(summary.objective),
        "published": published,
        "n_splits": str(summary.n_splits),
        **_figures(summary.figures, summary.n_splits),
        "duration": number(summary.duration_s, 2),
        "best": "yes" if converged and summary.objective.mean == top else "",
        **_evidence_cells(own, results.description.objective, converged=converged),
    }


def _evidence_cells(own: MethodEvidence | None, objective: str, *, converged: bool) -> dict[str, str]:
    cells = {"interval": UNDEFINED_TEXT, "difference": UNDEFINED_TEXT, "decision": UNDEFINED_TEXT}
    interval = own.intervals.get(objective) if own else None
    if interval is not None and math.isfinite(interval.low):
        cells["interval"] = f"{number(interval.low, 4)} to {number(interval.high, 4)}"
    difference = own.differences.get(objective) if own else None
    if difference is not None:
        seen = difference.interval
        cells["difference"] = signed(seen.estimate)
        if math.isfinite(seen.low):
            cells["difference"] += f" [{signed(seen.low)}, {signed(seen.high)}]"
            cells["decision"] = str(difference.decision)
    if not converged:
        cells["decision"] = str(Decision.NOT_CONVERGED)
    return cells


def _figures(figures: Mapping[str, Spread], n_splits: int) -> dict[str, str]:
    cells = {}
    for name, (_, shown, digits) in _COLUMNS.items():
        there = [figures[one] for one in shown if one in figures]
        cells[name] = _mean(next((one for one in there if one.n), there[-1] if there else None), n_splits, digits)
    none, validation = figures.get("n_none"), figures.get("n_validation")
    share = none.mean / validation.mean if none and validation and validation.mean else math.nan
    cells["none_fraction"] = f"{100 * share:.1f} %" if math.isfinite(share) else UNDEFINED_TEXT
    return cells


def _mean(figure: Spread | None, n_splits: int, digits: int = 3) -> str:
    if figure is None or figure.n == 0:
        return UNDEFINED_TEXT
    return number(figure.mean, digits) + ("" if figure.n == n_splits else f" ({figure.n} of {n_splits} splits)")


@dataclass(frozen=True)
class BesideTable:
    """A table of exploratory figures, beside the main one.

    Attributes:
        name: Its identifier on the page.
        note: How to read it.
        headings: Of the columns after the method.
        rows: By method, the text of each column and, in short, its difference to the control; empty where unknown.
    """

    name: str
    title: str
    note: str
    headings: tuple[str, ...]
    rows: Mapping[str, tuple[tuple[str, str], ...]]


def beside_tables(results: StudyResults, evidence: Evidence) -> list[BesideTable]:
    """Return the tables of scores that find unknown classes, and of calibration before and after scaling.

    Each is there where the trials have more than the plain figures: another score, or a temperature.
    """
    scores = {f"ood_auroc{ending}": heading(name) for ending, name in SCORE_NAMES.items()}
    plain = [name for name in ("ece_known", "ece_open", "overconfidence_known", "nll", "brier")]
    scaled = {
        name + ending: heading(figure_name(name)) + words
        for name in plain
        for ending, words in (("", ", before"), ("_scaled", ", after"))
    }
    found = []
    for name, title, note, columns, needed in (
        (
            "scores",
            "Finding unknown classes by each score",
            "AUROC of “none” items against the others, by the score that ranks them. Exploratory.",
            scores,
            [figure for figure in scores if figure != "ood_auroc"],
        ),
        (
            "calibration",
            "Calibration before and after temperature scaling",
            "On the test items; inner splits chose the temperature. Less is better, and overconfidence is best at 0. "
            "Exploratory.",
            scaled,
            [f"{figure}_scaled" for figure in plain],
        ),
    ):
        there = [figure for figure in columns if any(one.figure(figure).n for one in results.methods)]
        if set(there) & set(needed):
            rows = {
                one.method: tuple(
                    (plus_minus(one.figure(figure), 3), _short(one, figure, evidence)) for figure in there
                )
                for one in results.methods
                if one.finished
            }
            found.append(BesideTable(name, title, note, tuple(columns[figure] for figure in there), rows))
    return found


def _short(summary: MethodSummary, figure: str, evidence: Evidence) -> str:
    own = evidence.get(summary.method)
    difference = own.differences.get(figure) if own else None
    if not difference or not difference.interval.ends:
        return ""
    return f"{signed(difference.interval.estimate, 3)}, {difference.decision}"
