"""Writes the report of a study: a self-contained page, tables as LaTeX and CSV, results as JSON, and the figures."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path

from analysis.figures.curves import line_figures
from analysis.figures.items import forest_figures, item_figures
from analysis.figures.search import search_figures
from analysis.figures.types import ForestFigure, LineFigure
from analysis.layers.section import Layers, gains_csv, study_layers
from analysis.report import page
from analysis.report import text as texts
from analysis.report.export import results_json, table_csv, table_latex
from analysis.report.tables import Evidence
from analysis.results.aggregate import StudyResults
from analysis.results.load import ReportError, load_study, read_items
from analysis.statistics.decisions import Pair, asked_pairs, compare_pairs, regions, sampling_of, weigh
from embedding_jobs.files import replaceable, write_whole
from trainables.records.types import TrialRecord


@dataclass(frozen=True)
class ReportFiles:
    """The files of a report.

    Attributes:
        html: The page; it needs no other file and no network.
        latex: The table, for booktabs.
        csv: The table, unrounded.
        figures: Every figure as SVG, PDF and CSV of its numbers.
        json: The results for other programs; `analysis.report.export` documents it.
        layers: Every gain of an augmented layer, unrounded; None where the study augments no layers.
        findings: One sentence for each method that was compared with its control.
    """

    html: Path
    latex: Path
    csv: Path
    figures: tuple[Path, ...]
    json: Path
    layers: Path | None
    findings: tuple[str, ...]


def write_report(
    directory: Path, output: Path | None = None, *, results: StudyResults | None = None, all_pairs: bool = False
) -> ReportFiles:
    """Write the report of a study, as far as it is finished.

    Args:
        directory: The study's directory: `study.json` and `records/`.
        output: Folder of the report; `<directory>/report` where not given. Files of an earlier report are replaced.
        results: The study's results; read from the directory if None.
        all_pairs: Whether to compare every method with every other, not only where the paper asks.

    Raises:
        ReportError: The study cannot be read, or has no finished trial.
        RecordError: A record file is damaged or of another version.
    """
    results = load_study(directory) if results is None else results
    reported = read_items(directory, _chosen(results, str(directory)))
    within = regions(results.description.settings)
    evidence, pairs = _judge(results, reported, within, all_pairs)
    layers = study_layers(directory, results, within)
    figures: list[LineFigure | ForestFigure] = [
        *forest_figures(evidence),
        *line_figures(reported, results.description.threshold),
        *item_figures(reported),
    ]
    output = directory / "report" if output is None else output
    return _write_all(results, reported, evidence, figures, layers, pairs, output)


def write_server_report(results: StudyResults, output: Path) -> ReportFiles:
    """Write as much of a report as the runs of an MLflow server allow; the page says what is left out.

    Args:
        results: The study, as `analysis.results.mlflow` reads it.
        output: Folder of the report. Files of an earlier report are replaced.

    Raises:
        ReportError: The study has no finished trial.
        StudyError: The folder contains something other than a report.
    """
    replaceable(output, "report.html", "an earlier report")
    reported = _chosen(results, "The server")
    return _write_all(results, reported, {}, line_figures(reported, results.description.threshold), None, [], output)


def _judge(
    results: StudyResults, reported: Mapping[str, Sequence[TrialRecord]], within: Mapping[str, float], all_pairs: bool
) -> tuple[Evidence, list[Pair]]:
    """Compare the methods with their controls and in pairs; nothing where candidates were chosen by these figures."""
    if results.chosen_on_reported:
        return {}, []
    objective, sampling = results.description.objective, sampling_of(results.description)
    evidence = weigh(reported, within, sampling, objective, results.not_converged)
    pairs = list(combinations(reversed(list(reported)), 2)) if all_pairs else asked_pairs(list(reported))
    if objective not in within or not pairs:
        return evidence, []
    return evidence, compare_pairs(reported, pairs, objective, within[objective], sampling, results.not_converged)


def _chosen(results: StudyResults, place: str) -> Mapping[str, list[TrialRecord]]:
    if not results.records:
        reasons = [*results.excluded, *(f"{failure}." for failure in results.failures)]
        why = f" {reasons[0]}" if reasons else ""
        raise ReportError(
            f"{place} holds no finished trial to report, of {len(results.description.methods)} planned methods.{why} "
            "Run the study first."
        )
    return results.reported_records


def _is_zero(figure: LineFigure | ForestFigure) -> bool:
    return isinstance(figure, LineFigure) and figure.is_zero


def _write_all(
    results: StudyResults,
    reported: Mapping[str, Sequence[TrialRecord]],
    evidence: Evidence,
    figures: Sequence[LineFigure | ForestFigure],
    layers: Layers | None,
    pairs: Sequence[Pair],
    output: Path,
) -> ReportFiles:
    figures = [*figures, *search_figures(results)]
    left_out = [figure.title for figure in figures if _is_zero(figure)]
    drawn = [page.draw_of_study(figure, results) for figure in figures if not _is_zero(figure)]
    of_layers = page.draw_layers(layers) if layers is not None else []
    figure_paths = [
        write_whole(output / "figures" / f"{item.figure.name}.{kind}", content)
        for item in (*drawn, *of_layers)
        for kind, content in item.files.items()
    ]
    whole = page.render(results, reported, evidence, drawn, layers, of_layers, pairs, left_out)
    return ReportFiles(
        html=write_whole(output / "report.html", whole.encode()),
        latex=write_whole(output / "table.tex", table_latex(results, evidence).encode()),
        csv=write_whole(output / "table.csv", table_csv(results).encode()),
        figures=tuple(figure_paths),
        json=write_whole(output / "results.json", results_json(results, evidence, layers, pairs).encode()),
        layers=None if layers is None else write_whole(output / "layers.csv", gains_csv(layers).encode()),
        findings=tuple(finding.text for finding in texts.findings(results, evidence)),
    )
