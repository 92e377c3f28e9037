"""The comparison of studies as a page, as CSV, and as a table for the terminal."""

from __future__ import annotations

import csv
import dataclasses
import io
import math
from collections.abc import Sequence
from pathlib import Path

from analysis.figures.styles import method_styles
from analysis.figures.types import ForestFigure, ForestRow
from analysis.format import FIGURE_NAMES, UNDEFINED_TEXT, heading, number, signed
from analysis.report.page import draw_figure, environment
from analysis.report.tables import TerminalTable, plus_minus, values_text
from analysis.results.controls import each_with_its_own
from analysis.statistics.across_studies import Comparison, Contrast, Side
from embedding_jobs.files import write_whole

_NAN = (math.nan, math.nan)


@dataclasses.dataclass(frozen=True)
class CompareFiles:
    """Where a comparison lies.

    Attributes:
        html: The page; it needs no other file and no network.
        csv: Every difference, unrounded.
    """

    html: Path
    csv: Path


def write_comparison(comparison: Comparison, output: Path) -> CompareFiles:
    """Writes the page and the numbers of a comparison.

    Args:
        comparison: What to write.
        output: Folder to write into.
    """
    return CompareFiles(
        html=write_whole(output / "compare.html", render(comparison).encode()),
        csv=write_whole(output / "compare.csv", to_csv(comparison).encode()),
    )


def render(comparison: Comparison) -> str:
    """The page."""
    styles = method_styles(comparison.methods)
    drawn = [draw_figure(figure, styles, threshold=math.nan) for figure in _forests(comparison)]
    return (
        environment()
        .get_template("compare.html.j2")
        .render(
            comparison=comparison,
            styles=styles,
            colors=list(styles.values()),
            rows=[[_cell(side, method) for side in comparison.sides] for method in comparison.methods],
            contrasts=[(contrast, *_texts(contrast)) for contrast in comparison.contrasts],
            figure_names={name: heading(text) for name, text in FIGURE_NAMES.items()},
            drawn=drawn,
            mixed=bool(each_with_its_own(comparison.methods)),
            unpaired=[contrast for contrast in comparison.contrasts if contrast.n_splits == 0],
        )
    )


def to_csv(comparison: Comparison) -> str:
    """One row a difference."""
    stream = io.StringIO()
    writer = csv.writer(stream, lineterminator="\n")
    ends = ("estimate", "low", "high", "standard_error", "p_value")
    first = comparison.sides[0].name
    writer.writerow(["method", "study", "against", "figure", *ends, "adjusted_p", "decision", "basis"])
    for contrast in comparison.contrasts:
        values = [getattr(contrast.interval, end) for end in ends]
        cells = ["" if math.isnan(value) else value for value in (*values, contrast.adjusted_p)]
        decision = contrast.decision if math.isfinite(contrast.adjusted_p) else ""
        writer.writerow([contrast.method, contrast.study, first, contrast.figure, *cells, decision, contrast.basis])
    return stream.getvalue()


def comparison_table(comparison: Comparison) -> TerminalTable:
    """The comparison for a terminal: each method's objective in every study, and the differences."""
    columns = ["Method", "Figure", *(side.name for side in comparison.sides)]
    columns += ["Study", "Difference", "95 % interval", "Decision", "Basis"]
    rows = []
    for contrast in comparison.contrasts:
        estimate, interval, decision = _texts(contrast)
        means = [_mean(side, contrast.method, contrast.figure) for side in comparison.sides]
        name = FIGURE_NAMES.get(contrast.figure, contrast.figure)
        rows.append((contrast.method, name, *means, contrast.study, estimate, interval, decision, contrast.basis))
    return TerminalTable(tuple(columns), tuple(rows))


def _cell(side: Side, method: str) -> tuple[str, str, str, int]:
    """Hyperparameters, weighted AUC and accuracy of a method in a study, and its number of splits."""
    summary = side.summaries.get(method)
    if summary is None or summary.candidate is None:
        return UNDEFINED_TEXT, UNDEFINED_TEXT, UNDEFINED_TEXT, 0
    accuracy = number(summary.figure("accuracy").mean, 3)
    return values_text(summary.candidate), plus_minus(summary.figure("auc_weighted")), accuracy, summary.n_splits


def _mean(side: Side, method: str, figure: str) -> str:
    summary = side.summaries.get(method)
    return UNDEFINED_TEXT if summary is None else plus_minus(summary.figure(figure))


def _texts(contrast: Contrast) -> tuple[str, str, str]:
    interval = contrast.interval
    if math.isnan(interval.low):
        return signed(interval.estimate), UNDEFINED_TEXT, UNDEFINED_TEXT
    return signed(interval.estimate), f"{signed(interval.low)} to {signed(interval.high)}", str(contrast.decision)


def _forests(comparison: Comparison) -> Sequence[ForestFigure]:
    found = []
    first = comparison.sides[0].name
    for figure in dict.fromkeys(contrast.figure for contrast in comparison.contrasts):
        for place, side in enumerate(comparison.sides[1:], start=1):
            rows = tuple(
                ForestRow(
                    contrast.method,
                    contrast.interval.estimate,
                    (contrast.interval.low, contrast.interval.high),
                    _NAN,
                    _NAN,
                    str(contrast.decision),
                )
                for contrast in comparison.contrasts
                if (contrast.figure, contrast.study) == (figure, side.name) and math.isfinite(contrast.interval.low)
            )
            if rows:
                name = FIGURE_NAMES.get(figure, figure)
                region = next(contrast.region for contrast in comparison.contrasts if contrast.figure == figure)
                found.append(
                    ForestFigure(
                        f"differences-{figure}-{place}",
                        f"{heading(name)}: {side.name} against {first}",
                        f"Bar: 95 % interval. Shade: ±{region:g}, practically equal.",
                        f"difference in {name}",
                        region,
                        rows,
                    )
                )
    return found
