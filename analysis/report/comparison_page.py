"""Writes the comparison of studies as a page and as CSV, and lays it out as a table for the terminal."""

from __future__ import annotations

import dataclasses
import math
from pathlib import Path

import pandas as pd

from analysis.figures.styles import method_styles
from analysis.figures.types import ForestFigure, ForestRow
from analysis.format import UNDEFINED_TEXT, figure_name, heading, number, signed
from analysis.report.page import draw_figure, environment
from analysis.report.tables import TerminalTable, plus_minus, values_text
from analysis.report.text import optimistic
from analysis.results.controls import each_with_its_own
from analysis.statistics.across_studies import Comparison, Side
from embedding_jobs.files import replaceable, write_whole


@dataclasses.dataclass(frozen=True)
class CompareFiles:
    """The files of a comparison.

    Attributes:
        html: The page; it needs no other file and no network.
        csv: Every difference, unrounded.
    """

    html: Path
    csv: Path


def write_comparison(comparison: Comparison, output: Path) -> CompareFiles:
    """Write the page and the numbers of a comparison into a folder. An earlier comparison there is replaced.

    Raises:
        StudyError: The folder contains something other than a comparison.
    """
    replaceable(output, "compare.html", "an earlier comparison")
    return CompareFiles(
        html=write_whole(output / "compare.html", render_comparison(comparison).encode()),
        csv=write_whole(output / "compare.csv", comparison_csv(comparison).encode()),
    )


def render_comparison(comparison: Comparison) -> str:
    """Return the page."""
    styles = method_styles(comparison.methods)
    return (
        environment()
        .get_template("compare.html.j2")
        .render(
            comparison=comparison,
            styles=styles,
            colors=list(styles.values()),
            rows=[[_cell(side, method) for side in comparison.sides] for method in comparison.methods],
            optimistic=[(side.name, text) for side in comparison.sides if (text := optimistic(side.results))],
            drawn=[draw_figure(figure, styles, threshold=math.nan) for figure in _forests(comparison)],
            mixed=bool(each_with_its_own(comparison.methods)),
            unpaired=[contrast for contrast in comparison.contrasts if contrast.n_splits == 0],
        )
    )


def comparison_csv(comparison: Comparison) -> str:
    """Return one row per difference."""
    columns = ["method", "study", "against", "figure", "estimate", "low", "high", "standard_error", "p_value"]
    columns += ["decision", "basis"]
    rows = [
        {
            **dataclasses.asdict(contrast),
            "against": comparison.sides[0].name,
            **dataclasses.asdict(contrast.interval),
            "decision": contrast.decision if math.isfinite(contrast.interval.low) else "",
        }
        for contrast in comparison.contrasts
    ]
    return pd.DataFrame(rows, columns=columns).to_csv(index=False, lineterminator="\n")


def comparison_table(comparison: Comparison) -> TerminalTable:
    """Return the comparison for a terminal: each method's figures in every study, and the differences."""
    columns = ["Method", "Figure", *(side.name for side in comparison.sides)]
    columns += ["Study", "Difference", "95 % interval", "Decision", "Basis"]
    rows = []
    for contrast in comparison.contrasts:
        summaries = [side.summaries.get(contrast.method) for side in comparison.sides]
        means = [UNDEFINED_TEXT if one is None else plus_minus(one.figure(contrast.figure)) for one in summaries]
        ends = contrast.interval.ends
        seen = (signed(contrast.interval.estimate), ends or UNDEFINED_TEXT)
        decision = str(contrast.decision) if ends else UNDEFINED_TEXT
        name = figure_name(contrast.figure)
        rows.append((contrast.method, name, *means, contrast.study, *seen, decision, contrast.basis))
    return TerminalTable(tuple(columns), tuple(rows))


def _cell(side: Side, method: str) -> tuple[str, str, str, int]:
    """Return hyperparameters, weighted AUC and top-1 of a method in a study, and its number of splits."""
    summary = side.summaries.get(method)
    if summary is None or not summary.finished:
        return UNDEFINED_TEXT, UNDEFINED_TEXT, UNDEFINED_TEXT, 0
    values, auc = values_text(summary.choices.values()), plus_minus(summary.figure("auc_weighted"))
    return values, auc, number(summary.figure("top1").mean, 3), summary.n_splits


def _forests(comparison: Comparison) -> list[ForestFigure]:
    found = []
    for figure in dict.fromkeys(contrast.figure for contrast in comparison.contrasts):
        for place, side in enumerate(comparison.sides[1:], start=1):
            shown = [
                contrast
                for contrast in comparison.contrasts
                if (contrast.figure, contrast.study) == (figure, side.name) and contrast.interval.ends
            ]
            rows = tuple(
                ForestRow(one.method, one.interval.estimate, (one.interval.low, one.interval.high), one.decision)
                for one in shown
            )
            if rows:
                name, region = figure_name(figure), shown[0].region
                found.append(
                    ForestFigure(
                        f"differences-{figure}-{place}",
                        f"{heading(name)}: {side.name} against {comparison.sides[0].name}",
                        f"Bar: 95 % interval. Shade: ±{region:g}, practically equal.",
                        f"difference in {name}",
                        region,
                        rows,
                    )
                )
    return found
