"""The page: texts and figures for its template."""

from __future__ import annotations

import base64
import html
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import jinja2

from analysis.figures import draw as figures
from analysis.figures.curves import crossings, over_splits
from analysis.figures.styles import LineStyle, method_styles
from analysis.figures.types import ForestFigure, LineFigure
from analysis.format import UNDEFINED_TEXT, figure_name, flatten, heading, p_text, plural, signed
from analysis.layers.figures import family_name, layer_name
from analysis.layers.section import Layers, drawings
from analysis.report import text as texts
from analysis.report.tables import (
    Evidence,
    beside_tables,
    candidate_row,
    has_chosen_thresholds,
    has_none_items,
    headings,
    repeats_the_paper,
    table_rows,
    values_text,
)
from analysis.results.aggregate import StudyResults
from analysis.results.controls import each_with_its_own, missing_references, references_text
from analysis.statistics.decisions import Pair
from trainables.records.types import TEST, TrialRecord

_MEDIA_TYPES: Mapping[str, str] = {"svg": "image/svg+xml", "pdf": "application/pdf", "csv": "text/csv"}

# Headings of the figures, and how the names of the figures under each begin.
_GROUPS: Mapping[str, tuple[str, ...]] = {
    "Against {references}": ("differences-", "class-gains"),
    "Thresholds": ("accuracy-by", "none-accuracy-by"),
    "Ranking": ("roc",),
    "Confidence": ("reliability", "confidence-"),
    "Learning": ("learning-",),
    "Search": ("response-", "budget"),
}


@dataclass(frozen=True)
class PageFigure:
    """A figure drawn for the page, and as files to save.

    Attributes:
        figure: The values that it shows.
        svg: The drawing, as part of the page.
        files: The figure with title and legend as SVG, PDF and CSV, by kind.
        x_positions: Where x = 0 and x = 1 lie in the drawing.
        legend: Names and styles of its series, where they are not the page's methods.
    """

    figure: LineFigure | ForestFigure
    svg: str
    files: Mapping[str, bytes]
    x_positions: tuple[float, float]
    legend: tuple[tuple[str, LineStyle], ...] = ()

    @property
    def links(self) -> dict[str, str]:
        """Data URLs of the files, by kind."""
        return {
            kind: f"data:{_MEDIA_TYPES[kind]};base64,{base64.b64encode(content).decode()}"
            for kind, content in self.files.items()
        }

    @property
    def methods(self) -> list[str]:
        """The methods in it, in the order of their marks in the drawing."""
        rows = self.figure.rows if isinstance(self.figure, ForestFigure) else self.figure.series
        return [row.method for row in rows]


def draw_of_study(figure: LineFigure | ForestFigure, results: StudyResults) -> PageFigure:
    """Draw a figure of a study for the page and for the files."""
    return draw_figure(figure, method_styles(results.description.methods), threshold=results.description.threshold)


def draw_figure(figure: LineFigure | ForestFigure, styles: Mapping[str, LineStyle], *, threshold: float) -> PageFigure:
    """Draw a figure for a page and for files; an axis of thresholds marks the study's."""
    whole = figures.draw(figure, styles, threshold=threshold, legend=True)
    bare = figures.draw(figure, styles, threshold=threshold, legend=False)
    label = html.escape(figure.alternative_text)
    return PageFigure(
        figure=figure,
        svg=figures.for_page(figures.to_svg(bare, figure.name), figure.name, label, styles),
        files={
            "svg": figures.to_svg(whole, figure.name).encode(),
            "pdf": figures.to_pdf(whole),
            "csv": figures.to_csv(figure).encode(),
        },
        x_positions=figures.x_positions(bare),
    )


def draw_layers(layers: Layers) -> list[PageFigure]:
    """Draw the figures of the layers, whose series are not the study's methods."""
    found = []
    for figure, styles in drawings(layers):
        item = draw_figure(figure, styles, threshold=math.nan)
        found.append(replace(item, legend=tuple((series.method, styles[series.method]) for series in figure.series)))
    return found


def environment() -> jinja2.Environment:
    """Return the environment of the page templates, which escapes all text."""
    found = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent / "templates"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    words = (family_name, figure_name, heading, layer_name, p_text, plural, signed)
    found.filters |= {function.__name__: function for function in words}
    return found


def render(
    results: StudyResults,
    reported: Mapping[str, Sequence[TrialRecord]],
    evidence: Evidence,
    drawn: Sequence[PageFigure],
    layers: Layers | None = None,
    of_layers: Sequence[PageFigure] = (),
    pairs: Sequence[Pair] = (),
    left_out: Sequence[str] = (),
) -> str:
    """Return the page.

    Args:
        results: The study.
        reported: The trials behind each method's reported figures, by method.
        evidence: What their items say of each method.
        drawn: The figures.
        layers: What the study says of the layers that it augments.
        of_layers: The figures of the layers.
        pairs: Further comparisons of methods.
        left_out: Titles of figures that are not drawn, as every value in them is 0.
    """
    description, no_none = results.description, not has_none_items(results)
    against = references_text(description.methods)
    styles = method_styles(description.methods)
    columns = headings(results, evidence)
    only_of_methods = ("published", "interval", "difference", "decision", "epochs_to_control")
    candidate_columns = {name: text for name, text in columns.items() if name not in only_of_methods}
    for name in ("hyperparameters", "interval"):
        columns.pop(name, None)  # They stand under the method and the mean.
    return (
        environment()
        .get_template("report.html.j2")
        .render(
            results=results,
            description=description,
            paragraph=texts.paragraph(results),
            findings=texts.findings(results, evidence),
            headings=columns,
            candidate_headings=candidate_columns,
            rows=table_rows(results, evidence),
            one_split=any(summary.n_splits == 1 for summary in results.methods),
            paper=repeats_the_paper(results),
            convergence=results.convergence,
            optimistic=texts.optimistic(results),
            luck=texts.luck(results),
            references=against,
            sampling=texts.sampling_note(results),
            chosen_thresholds=has_chosen_thresholds(results),
            beside=beside_tables(results, evidence),
            pairs={(method, difference.reference): difference for method, difference in pairs},
            choices=_choices(results),
            candidates=[
                (candidate_row(one, results), [*results.choices[one.candidate.method].values()].count(one.candidate))
                for one in results.candidates[description.choosing_phase]
            ],
            missing=results.missing,
            saved=texts.what_was_saved(results.stops),
            no_none=no_none,
            left_out=left_out,
            without_items=any(record.items is None for records in reported.values() for record in records),
            missing_references=missing_references(description.methods),
            own_references=each_with_its_own(description.methods),
            groups=[
                (title.format(references=against), [item for item in drawn if item.figure.name.startswith(names)])
                for title, names in _GROUPS.items()
            ],
            reader=None if no_none else _reader(reported, description.threshold),
            layers=layers,
            of_layers=of_layers,
            styles=styles,
            colors=[*styles.values(), *(style for item in of_layers for _, style in item.legend)],
            embeddings=[texts.embedding(column, options) for column, options in description.data.embeddings.items()],
            settings=list(flatten(description.settings)),
            provenance=texts.provenance_rows(results),
        )
    )


def _choices(results: StudyResults) -> dict[str, list[str]]:
    """Return what each split chose, as text by method; nothing where all splits chose alike."""
    splits = sorted(results.description.splits[TEST])
    if all(len(set(own.values())) < 2 for own in results.choices.values()):
        return {}
    return {
        method: [values_text([own[split]]) if split in own else UNDEFINED_TEXT for split in splits]
        for method, own in results.choices.items()
        if results.description.n_candidates[method] > 1
    }


def _reader(reported: Mapping[str, Sequence[TrialRecord]], threshold: float) -> dict[str, Any] | None:
    """Return the numbers behind the slider: each method's mean accuracies at every threshold."""
    overall = over_splits(reported, "threshold", "threshold_accuracy")
    if not overall:
        return None
    curves = {
        name: {series.method: series.mean for series in over_splits(reported, "threshold", f"threshold_accuracy{end}")}
        for name, end in (("accuracy", ""), ("known", "_known"), ("none", "_none"))
    }
    met = crossings(overall, over_splits(reported, "threshold", "threshold_accuracy_none"))
    positions = overall[0].x
    return {
        "thresholds": [round(float(x), 4) for x in positions],
        "start": int(abs(positions - threshold).argmin()),
        "methods": [
            {
                "name": series.method,
                "crossing": met.get(series.method),
                **{name: _rounded(values.get(series.method)) for name, values in curves.items()},
            }
            for series in overall
        ],
    }


def _rounded(values: Any) -> list[float | None] | None:
    if values is None:
        return None
    return [round(float(value), 5) if math.isfinite(value) else None for value in values]
