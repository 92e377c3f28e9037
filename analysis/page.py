"""What the page shows: texts and figures for the template."""

from __future__ import annotations

import base64
import html
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jinja2

from analysis import figures
from analysis.aggregate import missing_trials, summarise, summarise_candidates
from analysis.curves import LineFigure, crossings, over_splits
from analysis.decisions import CONTROL, in_short, sentence
from analysis.item_curves import ForestFigure
from analysis.load import StudyResults
from analysis.styles import method_styles
from analysis.tables import FIGURE_NAMES, Evidence, candidate_row, headings, repeats_the_paper, table_rows
from trainables.records import TrialRecord

_MEDIA_TYPES: Mapping[str, str] = {"svg": "image/svg+xml", "pdf": "application/pdf", "csv": "text/csv"}

_PHASE_WORDS: Mapping[str, str] = {"paper": "random split", "search": "search split", "confirm": "training fold"}

_GROUPS: Mapping[str, tuple[str, ...]] = {
    "Against control": ("differences-",),
    "Predicting “none”": ("accuracy-by", "none-accuracy-by", "confidence-"),
    "Ranking": ("roc",),
    "Learning": ("learning-",),
    "Calibration and classes": ("reliability", "class-gains"),
    "Search": ("response-", "budget"),
}
"""Headings of the figures, and how the names of the figures under each begin."""


@dataclass(frozen=True)
class PageFigure:
    """A figure drawn for the page, and as files to save.

    Attributes:
        figure: What it shows.
        svg: The drawing, as part of the page.
        files: The figure with title and legend as SVG, PDF and CSV, by kind.
        x_positions: Where x = 0 and x = 1 lie in the drawing.
    """

    figure: LineFigure | ForestFigure
    svg: str
    files: Mapping[str, bytes]
    x_positions: tuple[float, float]

    @property
    def links(self) -> dict[str, str]:
        """The files as addresses that hold them whole, by kind."""
        return {
            kind: f"data:{_MEDIA_TYPES[kind]};base64,{base64.b64encode(content).decode()}"
            for kind, content in self.files.items()
        }

    @property
    def methods(self) -> list[str]:
        """The methods in it, in the order of their marks in the drawing."""
        rows = self.figure.rows if isinstance(self.figure, ForestFigure) else self.figure.series
        return [row.method for row in rows]


def draw(figure: LineFigure | ForestFigure, results: StudyResults) -> PageFigure:
    """Draws a figure for the page and for the files."""
    threshold = results.description.threshold
    styles = method_styles(results.description.methods)
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


def render(
    results: StudyResults,
    reported: Mapping[str, Sequence[TrialRecord]],
    evidence: Evidence,
    drawn: Sequence[PageFigure],
) -> str:
    """The page.

    Args:
        results: The study.
        reported: The trials behind each method's reported figures, by method.
        evidence: What their items say of each method.
        drawn: The figures.
    """
    description = results.description
    summaries = summarise(results)
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent / "templates"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    best = {summary.candidate for summary in summaries}
    columns = headings(results, evidence)
    candidate_columns = {
        name: heading
        for name, heading in columns.items()
        if name not in ("published", "interval", "difference", "decision", "optimism")
    }
    for name in ("hyperparameters", "interval"):
        columns.pop(name, None)  # They stand under the method and the mean.
    return environment.get_template("report.html.j2").render(
        description=description,
        n_unplanned=results.n_unplanned,
        paragraph=_paragraph(results),
        facts=_facts(results),
        findings=findings(results, evidence),
        headings=columns,
        candidate_headings=candidate_columns,
        rows=table_rows(results, evidence),
        one_split=any(summary.n_splits == 1 for summary in summaries),
        paper=repeats_the_paper(results),
        chosen=description.protocol == "paper" and max(description.n_candidates.values()) > 1,
        candidates=[
            (candidate_row(summary, description.objective), summary.candidate in best)
            for summary in summarise_candidates(results, description.choosing_phase)
        ],
        missing=missing_trials(results),
        no_none=all(summary.figure("accuracy_none").n == 0 for summary in summaries),
        no_control=CONTROL not in description.methods,
        groups=[
            (title, [item for item in drawn if item.figure.name.startswith(names)]) for title, names in _GROUPS.items()
        ],
        reader=_reader(reported, description.threshold),
        styles=method_styles(description.methods),
        embeddings=[_embedding(column, options) for column, options in description.data.embeddings.items()],
        settings=list(flatten(description.settings)),
        provenance=_provenance(results),
    )


@dataclass(frozen=True)
class Finding:
    """One method against control, in words.

    Attributes:
        method: Name of the method.
        decision: On the study's objective, in a word.
        text: The same as a sentence.
        beside: What the other figures say, in short.
    """

    method: str
    decision: str
    text: str
    beside: str


def findings(results: StudyResults, evidence: Evidence) -> list[Finding]:
    """Each method's decision in the study's objective, and what the other figures say beside it."""
    objective = results.description.objective
    return [
        Finding(
            method=own.method,
            decision=str(own.differences[objective].decision),
            text=sentence(own.differences[objective], own.method, FIGURE_NAMES.get(objective, objective)),
            beside="; ".join(
                f"{FIGURE_NAMES.get(name, name)} {in_short(difference)}"
                for name, difference in own.differences.items()
                if name != objective and math.isfinite(difference.two_way.low)
            ),
        )
        for own in evidence.values()
        if objective in own.differences
    ]


def _reader(reported: Mapping[str, Sequence[TrialRecord]], threshold: float) -> dict[str, Any] | None:
    """The numbers that the slider reads off: each method's mean accuracies at every threshold."""
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


def _paragraph(results: StudyResults) -> list[str]:
    """What was studied, in plain sentences."""
    description, data = results.description, results.description.data
    n_methods, n_candidates = len(description.methods), sum(description.n_candidates.values())
    items = f"{data.n_items:,} items" if data.n_items is not None else "the study’s items"
    classes = f" of {data.n_classes:,} classes" if data.n_classes is not None else ""
    # An encoded column is named after its source and its encoder.
    columns = ", ".join(
        f"{column.partition('--')[0]} ({options['encoder']})" if "encoder" in options else column
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


def _embedding(column: str, options: Mapping[str, Any]) -> tuple[str, str, list[tuple[str, str]]]:
    """An encoded column: its name, what a reader asks first, and everything else."""
    counted = {
        "dimension": "numbers",
        "n_distinct": "distinct inputs",
        "n_empty": "empty",
        "n_truncated": "truncated",
        "n_skipped": "skipped",
    }
    facts = [str(options["encoder"])] if "encoder" in options else []
    facts += [f"{options[key]:,} {words}" for key, words in counted.items() if isinstance(options.get(key), int)]
    return str(options.get("column", column)), ", ".join(facts) or "–", list(flatten(options))


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
        elif isinstance(value, list | tuple) and any(isinstance(entry, Mapping) for entry in value):
            yield from flatten({str(place): entry for place, entry in enumerate(value)}, f"{name}.")
        elif isinstance(value, list | tuple):
            yield name, ", ".join(str(entry) for entry in value) or "–"
        else:
            yield name, "–" if value is None else str(value)
