"""Draw the figures of a report, for files and for the page. A method has the same style in every figure."""

from __future__ import annotations

import csv
import io
import math
import re
from collections.abc import Mapping
from typing import Any

import matplotlib
import numpy as np
from matplotlib.figure import Figure

from analysis.figures.styles import FAINT, INK, MUTED, SHEET, LineStyle
from analysis.figures.types import ForestFigure, LineFigure, Series

_SIZE_INCHES = (4.8, 3.5)

_TITLE_INCHES = 0.25
_LEGEND_INCHES = 0.22  # per row of the legend
_ROW_INCHES = 0.46  # per row of a forest plot

# Distance between bars at one position, in units of the x axis.
_BESIDE = 0.12


def draw(
    figure: LineFigure | ForestFigure, styles: Mapping[str, LineStyle], *, threshold: float, legend: bool
) -> Figure:
    """Return a drawn figure; an axis of thresholds marks the study's.

    With `legend` it has a title and a legend: the page has its own.
    """
    with matplotlib.rc_context(dict(SHEET)):
        if isinstance(figure, ForestFigure):
            canvas = _draw_forest(figure, styles)
        else:
            canvas = _draw_lines(figure, styles, threshold, legend)
        if legend:
            canvas.axes[0].set_title(figure.title, fontsize=10.5, loc="left")
        # Compute the layout once, not for each file format.
        canvas.draw_without_rendering()
        canvas.set_layout_engine("none")
    return canvas


def x_positions(canvas: Figure) -> tuple[float, float]:
    """Return the positions of x = 0 and x = 1, in units of the SVG's view box."""
    (left, right) = canvas.axes[0].transData.transform([(0.0, 0.0), (1.0, 0.0)])[:, 0]
    return float(left), float(right)


def to_svg(canvas: Figure, name: str) -> str:
    """Return the figure as an SVG document without a date and random identifiers, so that it is reproducible."""
    stream = io.StringIO()
    with matplotlib.rc_context({**SHEET, "svg.hashsalt": name}):
        canvas.savefig(stream, format="svg", metadata={"Date": None, "Creator": None, "Title": name})
    return stream.getvalue()


def to_pdf(canvas: Figure) -> bytes:
    """Return the figure as a PDF document, without a date."""
    stream = io.BytesIO()
    with matplotlib.rc_context(dict(SHEET)):
        canvas.savefig(stream, format="pdf", metadata={"CreationDate": None, "Creator": None, "Producer": None})
    return stream.getvalue()


def to_csv(figure: LineFigure | ForestFigure) -> str:
    """Return the figure's values as CSV: one row per method and point, or per method of a forest plot."""
    stream = io.StringIO()
    writer = csv.writer(stream, lineterminator="\n")
    if isinstance(figure, ForestFigure):
        writer.writerow(["method", "difference", "low", "high", "decision"])
        for row in figure.rows:
            numbers = (row.estimate, *row.interval)
            writer.writerow([row.method, *(f"{value:.7g}" for value in numbers), row.decision])
        return stream.getvalue()
    writer.writerow(["method", figure.x_label, *figure.columns])
    for series in figure.series:
        for x, *values in zip(series.x, series.mean, series.low, series.high, strict=True):
            position = figure.ticks[float(x)].replace("\n", " ") if figure.ticks else f"{x:.7g}"
            writer.writerow([series.method, position, *(f"{value:.7g}" for value in values)])
    return stream.getvalue()


def for_page(svg: str, name: str, label: str, styles: Mapping[str, LineStyle]) -> str:
    """Return an SVG document as an element of the page, with the page's colours and an accessible text.

    Args:
        svg: A document from `to_svg`.
        name: Prefix of its identifiers, unique on the page.
        label: The accessible text, escaped for an attribute.
        styles: The styles of its methods.
    """
    body = svg[svg.index("<svg") :]
    body = re.sub(r"<metadata>.*?</metadata>\s*", "", body, flags=re.DOTALL)
    body = re.sub(r'\bid="', f'id="{name}-', body)
    body = re.sub(r'(href="|url\()#', rf"\1#{name}-", body)
    for color, variable in ((INK, "ink"), (MUTED, "muted"), (FAINT, "line")):
        body = body.replace(color, f"var(--{variable})")
    for style in styles.values():
        body = body.replace(f": {style.color}", f": var(--c{style.color[1:]})")
    # The page sets the size: keep only the view box of the opening tag.
    return re.sub(r"<svg[^>]*?(viewBox=\"[^\"]*\")[^>]*>", rf'<svg \1 role="img" aria-label="{label}">', body, count=1)


def _draw_lines(figure: LineFigure, styles: Mapping[str, LineStyle], threshold: float, legend: bool) -> Figure:
    width, height = _SIZE_INCHES
    if legend:
        height += _TITLE_INCHES + _LEGEND_INCHES * -(-len(figure.series) // 3)
    canvas = Figure(figsize=(width, height), layout="constrained")
    axes = canvas.add_subplot()
    for place, series in enumerate(figure.series):
        _draw_series(axes, figure, series, styles[series.method], place)
    quiet: dict[str, Any] = {"color": MUTED, "linewidth": 1.0, "zorder": 1}
    if figure.x_label == "threshold":
        axes.axvline(threshold, dashes=(2, 2), gid="cursor", **quiet)
    if figure.region is not None:
        axes.axhspan(-figure.region, figure.region, color=MUTED, alpha=0.14, linewidth=0, zorder=0)
    if figure.reference == "zero":
        axes.axhline(0.0, **quiet)
    elif figure.reference == "diagonal":
        axes.axline((0.0, 0.0), (1.0, 1.0), dashes=(2, 2), **quiet)
    axes.set_xscale(figure.x_scale)
    if figure.x_scale == "log":
        axes.xaxis.set_major_formatter("{x:g}")
    if figure.ticks:
        axes.set_xticks(list(figure.ticks), list(figure.ticks.values()))
        axes.grid(visible=False, axis="x")
    axes.set_xlim(*figure.x_limits)
    if figure.y_limits is not None:
        axes.set_ylim(*figure.y_limits)
    axes.set_xlabel(figure.x_label)
    axes.set_ylabel(figure.y_label)
    axes.tick_params(length=3)
    if legend:
        canvas.legend(
            loc="outside lower center",
            ncols=min(3, len(figure.series)),
            frameon=False,
            fontsize=8.5,
            handlelength=3.2,
            columnspacing=1.6,
        )
    return canvas


def _draw_series(axes: Any, figure: LineFigure, series: Series, style: LineStyle, place: int) -> None:
    line = {"color": style.color, "zorder": 3, "drawstyle": "steps-post" if figure.steps else "default"}
    if figure.spread == "bars":
        _draw_bars(axes, figure, series, style, place)
        return
    if figure.spread == "dotted":
        # One line with a gap, so that the page shows or hides minimum and maximum together.
        gap = [math.nan]
        x, y = np.concatenate([series.x, gap, series.x]), np.concatenate([series.low, gap, series.high])
        axes.plot(x, y, linestyle=":", linewidth=1.0, alpha=0.75, gid=f"range-{place}", **line)
    elif figure.spread == "band":
        shade = {"color": style.color, "alpha": 0.13, "linewidth": 0, "zorder": 2}
        axes.fill_between(series.x, series.low, series.high, gid=f"range-{place}", **shade)
    if len(series.points):
        dots = {"color": style.color, "marker": "o", "markersize": 3.2, "markeredgewidth": 0, "alpha": 0.55}
        axes.plot(*series.points.T, linestyle="none", gid=f"range-{place}", zorder=2, **dots)
    dashes = (0, style.dashes) if style.dashes else "solid"
    axes.plot(series.x, series.mean, linestyle=dashes, label=series.method, gid=f"series-{place}", **line)
    if series.method in figure.marks:
        ring = {"marker": "o", "markersize": 6.5, "markeredgewidth": 1.6, "markerfacecolor": "none"}
        at, height = figure.marks[series.method]
        axes.plot([at], [height], linestyle="none", gid=f"mark-{place}", color=style.color, zorder=4, **ring)


def _draw_bars(axes: Any, figure: LineFigure, series: Series, style: LineStyle, place: int) -> None:
    # Bars at one position are drawn side by side, and a line joins the bars of one series.
    there = [[at for at, other in enumerate(figure.series) if position in other.x] for position in series.x]
    x = series.x + [_BESIDE * (own.index(place) - (len(own) - 1) / 2) for own in there]
    (gaps,) = np.nonzero(np.diff(series.x) > 1)
    line_x, line_y = np.insert(x, gaps + 1, math.nan), np.insert(series.mean, gaps + 1, math.nan)
    dashes = (0, style.dashes) if style.dashes else "solid"
    quiet = {"color": style.color, "linewidth": 1.1, "zorder": 3}
    axes.vlines(x, series.low, series.high, alpha=0.7, gid=f"range-{place}", **quiet)
    axes.plot(line_x, line_y, linestyle=dashes, label=series.method, gid=f"series-{place}", **quiet)
    dots = {"marker": style.marker, "markersize": 4.6, "markeredgewidth": 0}
    axes.plot(x, series.mean, linestyle="none", color=style.color, gid=f"mark-{place}", zorder=4, **dots)


def _draw_forest(figure: ForestFigure, styles: Mapping[str, LineStyle]) -> Figure:
    rows = figure.rows
    canvas = Figure(figsize=(_SIZE_INCHES[0], 0.75 + _ROW_INCHES * len(rows)), layout="constrained")
    axes = canvas.add_subplot()
    axes.axvspan(-figure.region, figure.region, color=MUTED, alpha=0.14, linewidth=0, zorder=0)
    axes.axvline(0.0, color=MUTED, linewidth=1.0, zorder=1)
    for place, row in enumerate(rows):
        color = styles[row.method].color
        axes.plot(row.interval, [place] * 2, color=color, linewidth=3.2, solid_capstyle="round", gid=f"series-{place}")
        axes.plot([row.estimate], [place], color=color, marker="o", markersize=7, gid=f"mark-{place}")
    ends = [end for row in rows for end in row.interval if math.isfinite(end)]
    ends += [-figure.region, figure.region]
    margin = 0.12 * (max(ends) - min(ends))
    low, high = min(ends) - margin, max(ends) + margin
    axes.set_xlim(low, high)
    axes.set_ylim(len(rows) - 0.45, -0.55)
    axes.set_yticks(range(len(rows)), [row.method for row in rows])
    axes.tick_params(length=3)
    axes.tick_params(axis="y", length=0)
    axes.grid(visible=False, axis="y")
    axes.spines["left"].set_visible(False)
    axes.set_xlabel(figure.x_label)
    return canvas
