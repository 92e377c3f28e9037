"""The report of a study: one self-contained page, its table as LaTeX and CSV, its figures as files."""

from __future__ import annotations

import base64
import html
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jinja2

from analysis import figures
from analysis.aggregate import MethodSummary, missing_trials, reported_records, summarise, summarise_candidates
from analysis.curves import LineFigure, line_figures
from analysis.load import ReportError, StudyResults, load_study
from analysis.styles import method_styles
from analysis.tables import (
    PUBLISHED,
    TerminalTable,
    candidate_row,
    headings,
    repeats_the_paper,
    table_rows,
    terminal_table,
    to_csv,
    to_latex,
)

__all__ = ["ReportFiles", "TerminalTable", "terminal_table", "write_report"]

_MEDIA_TYPES: Mapping[str, str] = {"svg": "image/svg+xml", "pdf": "application/pdf", "csv": "text/csv"}

_PHASE_WORDS: Mapping[str, str] = {
    "paper": "random split",
    "search": "search split",
    "confirm": "training fold",
}


@dataclass(frozen=True)
class ReportFiles:
    """Where a report lies.

    Attributes:
        html: The page; it needs no other file and no network.
        latex: The table, for booktabs.
        csv: The table, unrounded.
        figures: Every figure as SVG, PDF and CSV of its numbers.
    """

    html: Path
    latex: Path
    csv: Path
    figures: tuple[Path, ...]


@dataclass(frozen=True)
class _PageFigure:
    """A figure as the page shows it: drawn for the page, and as files to save."""

    figure: LineFigure
    svg: str
    files: Mapping[str, bytes]

    @property
    def links(self) -> dict[str, str]:
        """The files as addresses that hold them whole, by kind."""
        return {
            kind: f"data:{_MEDIA_TYPES[kind]};base64,{base64.b64encode(content).decode()}"
            for kind, content in self.files.items()
        }


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
    if not results.records:
        raise ReportError(
            f"{directory} holds no finished trial to report, of {len(results.description.methods)} planned methods. "
            "Run the study first."
        )
    output = directory / "report" if output is None else output
    summaries = summarise(results)
    drawn = list(_draw(results, summaries))
    figure_paths = [
        _write(output / "figures" / f"{item.figure.name}.{kind}", content)
        for item in drawn
        for kind, content in item.files.items()
    ]
    return ReportFiles(
        html=_write(output / "report.html", _page(results, summaries, drawn).encode()),
        latex=_write(output / "table.tex", to_latex(results).encode()),
        csv=_write(output / "table.csv", to_csv(results).encode()),
        figures=tuple(figure_paths),
    )


def _draw(results: StudyResults, summaries: Sequence[MethodSummary]) -> Iterator[_PageFigure]:
    threshold = results.description.threshold
    styles = method_styles(results.description.methods)
    for figure in line_figures(reported_records(results, summaries), threshold):
        whole = figures.draw(figure, styles, threshold=threshold, legend=True)
        bare = figures.draw(figure, styles, threshold=threshold, legend=False)
        label = html.escape(figure.alternative_text)
        yield _PageFigure(
            figure=figure,
            svg=figures.for_page(figures.to_svg(bare, figure.name), figure.name, label, styles),
            files={
                "svg": figures.to_svg(whole, figure.name).encode(),
                "pdf": figures.to_pdf(whole),
                "csv": figures.to_csv(figure).encode(),
            },
        )


def _page(results: StudyResults, summaries: Sequence[MethodSummary], drawn: Sequence[_PageFigure]) -> str:
    description = results.description
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent / "templates"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    styles = method_styles(description.methods)
    candidates = summarise_candidates(results, description.choosing_phase)
    best = {summary.candidate for summary in summaries}
    return environment.get_template("report.html.j2").render(
        description=description,
        n_trials=len(results.records),
        n_unplanned=results.n_unplanned,
        paragraph=_paragraph(results),
        facts=_facts(results),
        headings=headings(results),
        rows=table_rows(results),
        n_splits_differ=len({summary.n_splits for summary in summaries if summary.candidate}) > 1,
        one_split=any(summary.n_splits == 1 for summary in summaries),
        paper=repeats_the_paper(results),
        published=PUBLISHED,
        candidates=[
            (candidate_row(summary, description.objective), summary.candidate in best) for summary in candidates
        ],
        missing=missing_trials(results),
        no_none=all(summary.figure("accuracy_none").n == 0 for summary in summaries),
        no_control="control" not in description.methods,
        figures=drawn,
        styles=styles,
        settings=list(flatten(description.settings)),
        provenance=_provenance(results),
    )


def _paragraph(results: StudyResults) -> list[str]:
    """What was studied, in plain sentences."""
    description, data = results.description, results.description.data
    n_methods, n_candidates = len(description.methods), sum(description.n_candidates.values())
    items = f"{data.n_items:,} items" if data.n_items is not None else "the study’s items"
    classes = f" of {data.n_classes:,} classes" if data.n_classes is not None else ""
    columns = ", ".join(
        f"{column} ({options['encoder']})" if "encoder" in options else column
        for column, options in data.embeddings.items()
    )
    inputs = f", from embeddings of {columns}" if columns else ""
    sentences = [
        f"{n_methods} {'method' if n_methods == 1 else 'methods'} of augmenting embeddings, in {n_candidates} "
        f"{'candidate' if n_candidates == 1 else 'candidates'}, on {items}{classes}{inputs}."
    ]
    train = [record.metrics["n_train"] for record in results.records if "n_train" in record.metrics]
    share = f" on {100 * max(train) / data.n_items:.2g} % of the items" if train and data.n_items else ""
    phase = description.reported_phase
    n_splits = len(description.splits[phase])
    word = _PHASE_WORDS[phase] + ("" if n_splits == 1 else "s")
    if description.protocol == "paper":
        sentences.append(f"Each candidate was trained{share} in {n_splits} {word}, shared by all methods.")
    else:
        sentences.append(
            f"Each method’s best candidate was chosen inside training folds, then trained{share} in {n_splits} {word}, "
            "shared by all methods, and judged on the other items."
        )
    return sentences


def _facts(results: StudyResults) -> list[tuple[str, str]]:
    """The few numbers at the head of the page, as (value, what it counts)."""
    description, data = results.description, results.description.data
    facts = [
        (f"{data.n_items:,}", "items") if data.n_items is not None else None,
        (f"{data.n_classes:,}", "classes") if data.n_classes is not None else None,
        (f"{data.n_features:,}", "numbers an item") if data.n_features is not None else None,
        (str(len(description.splits[description.reported_phase])), "splits"),
        (f"{len(results.records):,}", "finished trials"),
        (f"{sum(record.duration_s for record in results.records) / 60:,.1f}", "device minutes"),
    ]
    return [fact for fact in facts if fact is not None]


def _provenance(results: StudyResults) -> list[tuple[str, list[str]]]:
    """What made the trials: each field with every value found, so that mixed machines show."""
    found: dict[str, dict[str, None]] = {}
    for name, digest in results.description.digests.items():
        found[f"digest of {name}"] = {digest: None}
    for record in results.records:
        for name, value in record.provenance.items():
            found.setdefault(name, {})[value] = None
    return [(name, list(values)) for name, values in found.items()]


def flatten(settings: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, str]]:
    """Nested settings as (dotted key, value as text)."""
    for key, value in settings.items():
        name = f"{prefix}{key}"
        if isinstance(value, Mapping) and value:
            yield from flatten(value, f"{name}.")
        elif isinstance(value, list | tuple):
            yield name, ", ".join(str(entry) for entry in value) or "–"
        else:
            yield name, "–" if value is None else str(value)


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
