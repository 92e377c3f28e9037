"""The report of a study: one self-contained page, its table as LaTeX and CSV, its results as JSON, its figures."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from analysis import page, texts
from analysis.aggregate import reported_records, summarise
from analysis.curves import LineFigure, line_figures
from analysis.decisions import regions, weigh
from analysis.export import to_csv, to_json, to_latex
from analysis.item_curves import ForestFigure, forest_figures, item_figures
from analysis.load import ReportError, load_items, load_study
from analysis.search_curves import search_figures
from analysis.tables import FIGURE_NAMES, TerminalTable, terminal_table

__all__ = ["ReportError", "ReportFiles", "TerminalTable", "terminal_table", "write_report"]


@dataclass(frozen=True)
class ReportFiles:
    """Where a report lies.

    Attributes:
        html: The page; it needs no other file and no network.
        latex: The table, for booktabs.
        csv: The table, unrounded.
        figures: Every figure as SVG, PDF and CSV of its numbers.
        json: The results for other programs; `analysis.export` documents it.
        findings: One plain sentence for each method that was compared with control.
    """

    html: Path
    latex: Path
    csv: Path
    figures: tuple[Path, ...]
    json: Path
    findings: tuple[str, ...]


def write_report(directory: Path, output: Path | None = None) -> ReportFiles:
    """Writes the report of a study, of as much of it as is finished.

    Args:
        directory: The study's directory: `study.json` and `records/`.
        output: Folder of the report; `<directory>/report` where not given. Files of an earlier report are replaced.

    Raises:
        ReportError: The study cannot be read, or has no finished trial.
        RecordError: A record file is damaged or of another version.
    """
    results = load_study(directory)
    description = results.description
    if not results.records:
        raise ReportError(
            f"{directory} holds no finished trial to report, of {len(description.methods)} planned methods. "
            "Run the study first."
        )
    output = directory / "report" if output is None else output
    summaries = summarise(results)
    # Of a thousand trials only the best candidates' items are read: the rest of the report needs none.
    chosen = reported_records(results, summaries)
    wanted = {record.config for records in chosen.values() for record in records}
    whole = {record.config: record for record in load_items(directory, wanted)}
    reported = {method: [whole[record.config] for record in records] for method, records in chosen.items()}
    evidence = weigh(reported, regions(description.settings))
    figures: list[LineFigure | ForestFigure] = [
        *forest_figures(evidence, FIGURE_NAMES),
        *line_figures(reported, description.threshold),
        *item_figures(reported),
        *search_figures(results, FIGURE_NAMES.get(description.objective, description.objective)),
    ]
    drawn = [page.draw(figure, results) for figure in figures]
    figure_paths = [
        _write(output / "figures" / f"{item.figure.name}.{kind}", content)
        for item in drawn
        for kind, content in item.files.items()
    ]
    return ReportFiles(
        html=_write(output / "report.html", page.render(results, reported, evidence, drawn).encode()),
        latex=_write(output / "table.tex", to_latex(results, evidence).encode()),
        csv=_write(output / "table.csv", to_csv(results).encode()),
        figures=tuple(figure_paths),
        json=_write(output / "results.json", to_json(results, evidence).encode()),
        findings=tuple(finding.text for finding in texts.findings(results, evidence)),
    )


def _write(path: Path, content: bytes) -> Path:
    """Writes a file whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    aside = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        aside.write_bytes(content)
        aside.replace(path)
    finally:
        aside.unlink(missing_ok=True)
    return path
