"""Draws the figures of a report, for files and for the page.

Every method keeps its colour and its line style in every figure. The colours are those of Okabe and Ito, which
people with any common colour vision tell apart; the line styles differ too, for print in black.

References:
    Okabe and Ito (2008), "Color Universal Design", https://jfly.uni-koeln.de/color/
"""

from __future__ import annotations

import csv
import io
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import matplotlib
import numpy as np
from matplotlib.figure import Figure

from analysis.curves import LineFigure, Series

INK = "#1b1f24"
_FAINT = "#d5d9de"
_MUTED = "#5b6470"

_SIZE_INCHES = (4.8, 3.5)
_LEGEND_INCHES = 0.22
"""Height of one row of the legend."""
_TITLE_INCHES = 0.25

_STYLE: Mapping[str, Any] = {
    "font.family": "DejaVu Sans",
    "font.size": 9.5,
    "axes.edgecolor": _MUTED,
    "axes.labelcolor": INK,
    "axes.linewidth": 0.8,
    "axes.spines.right": False,
    "axes.spines.top": False,
    "axes.grid": True,
    "grid.color": _FAINT,
    "grid.linewidth": 0.7,
    "text.color": INK,
    "xtick.color": _MUTED,
    "ytick.color": _MUTED,
    "xtick.labelcolor": INK,
    "ytick.labelcolor": INK,
    "figure.dpi": 72,
    "figure.facecolor": "none",
    "axes.facecolor": "none",
    "savefig.facecolor": "none",
    "lines.linewidth": 1.8,
    "pdf.fonttype": 42,
    "svg.fonttype": "none",
}


@dataclass(frozen=True)
class LineStyle:
    """How a method is drawn.

    Attributes:
        color: Hexadecimal colour on white.
        color_dark: The same hue, light enough for a dark page.
        dashes: On and off lengths in points; empty for a solid line.
    """

    color: str
    color_dark: str
    dashes: tuple[float, ...] = ()


_BLACK = ("#101010", "#f0f2f5")
_ORANGE = ("#e69f00", "#f2b632")
_SKY = ("#56b4e9", "#7cc8f3")
_GREEN = ("#009e73", "#2fc79a")
_BLUE = ("#0072b2", "#4a9fe0")
_VERMILION = ("#d55e00", "#ff8637")
_PURPLE = ("#cc79a7", "#e29cc2")
_GREY = ("#808080", "#a8adb5")

_DASHED = (6.0, 2.2)
_DASH_DOT = (6.0, 2.0, 1.6, 2.0)
_SHORT = (3.0, 1.6)

_METHOD_STYLES: Mapping[str, LineStyle] = {
    "control": LineStyle(*_BLACK),
    "e_mixup": LineStyle(*_ORANGE),
    "soft_e_mixup": LineStyle(*_VERMILION, _DASHED),
    "e_stitchup": LineStyle(*_SKY),
    "soft_e_stitchup": LineStyle(*_BLUE, _DASHED),
    "soft_control": LineStyle(*_GREY, _DASHED),
    "label_smoothing": LineStyle(*_GREY, _DASH_DOT),
    "gaussian_noise": LineStyle(*_GREEN),
    "feature_corruption": LineStyle(*_GREEN, _DASH_DOT),
    "manifold_mixup": LineStyle(*_ORANGE, _DASH_DOT),
    "deep_dropout": LineStyle(*_PURPLE),
    "deep_pca": LineStyle(*_PURPLE, _DASH_DOT),
}
_FURTHER_STYLES = tuple(
    LineStyle(*color, _SHORT) for color in (_GREEN, _PURPLE, _BLUE, _VERMILION, _SKY, _ORANGE, _GREY)
)


def method_styles(methods: Sequence[str]) -> dict[str, LineStyle]:
    """The style of each method; the known ones have the same in every study."""
    others = [method for method in methods if method not in _METHOD_STYLES]
    further = {method: _FURTHER_STYLES[place % len(_FURTHER_STYLES)] for place, method in enumerate(others)}
    return {method: _METHOD_STYLES[method] if method in _METHOD_STYLES else further[method] for method in methods}


def draw(figure: LineFigure, styles: Mapping[str, LineStyle], *, threshold: float, legend: bool) -> Figure:
    """Draws one figure.

    Args:
        figure: What it shows.
        styles: The style of each of its methods.
        threshold: The study's threshold, marked where it runs along the x axis.
        legend: Whether to set the legend below the axes and the title above; the page has its own.
    """
    with matplotlib.rc_context(dict(_STYLE)):
        rows = -(-len(figure.series) // 3) if legend else 0
        width, height = _SIZE_INCHES
        height += rows * _LEGEND_INCHES + (_TITLE_INCHES if legend else 0.0)
        canvas = Figure(figsize=(width, height), layout="constrained")
        axes = canvas.add_subplot()
        for place, series in enumerate(figure.series):
            _draw_series(axes, series, styles[series.method], place, figure.spread)
        if figure.x_label == "threshold":
            axes.axvline(threshold, color=_MUTED, linewidth=1.0, dashes=(2, 2), zorder=1, gid="threshold")
        axes.set_xlim(*figure.x_limits)
        if figure.y_limits is not None:
            axes.set_ylim(*figure.y_limits)
        axes.set_xlabel(figure.x_label)
        axes.set_ylabel(figure.y_label)
        axes.tick_params(length=3)
        if legend:
            axes.set_title(figure.title, fontsize=10.5, loc="left")
            canvas.legend(
                loc="outside lower center",
                ncols=min(3, len(figure.series)),
                frameon=False,
                fontsize=8.5,
                handlelength=3.2,
                columnspacing=1.6,
            )
        # The layout is settled once, not at every saving.
        canvas.draw_without_rendering()
        canvas.set_layout_engine("none")
    return canvas


def to_svg(canvas: Figure, name: str) -> str:
    """The figure as an SVG document, the same for the same figure: no date, no random identifiers."""
    stream = io.StringIO()
    with matplotlib.rc_context({**_STYLE, "svg.hashsalt": name}):
        canvas.savefig(stream, format="svg", metadata={"Date": None, "Creator": None, "Title": name})
    return stream.getvalue()


def to_pdf(canvas: Figure) -> bytes:
    """The figure as a PDF document, without a date."""
    stream = io.BytesIO()
    with matplotlib.rc_context(dict(_STYLE)):
        canvas.savefig(stream, format="pdf", metadata={"CreationDate": None, "Creator": None, "Producer": None})
    return stream.getvalue()


def to_csv(figure: LineFigure) -> str:
    """The figure's numbers, one row a method and point."""
    stream = io.StringIO()
    writer = csv.writer(stream, lineterminator="\n")
    writer.writerow(["method", figure.x_label, "mean", "minimum", "maximum"])
    for series in figure.series:
        for point in zip(series.x, series.mean, series.low, series.high, strict=True):
            writer.writerow([series.method, *(f"{value:.7g}" for value in point)])
    return stream.getvalue()


def for_page(svg: str, name: str, label: str, styles: Mapping[str, LineStyle]) -> str:
    """An SVG document as part of a page: themed by its style sheet, with an accessible text.

    Args:
        svg: A document of `to_svg`.
        name: Prefix of its identifiers, unique on the page.
        label: The accessible text, already escaped for an attribute.
        styles: The styles that drew it.
    """
    body = svg[svg.index("<svg") :]
    body = re.sub(r"<metadata>.*?</metadata>\s*", "", body, flags=re.DOTALL)
    body = re.sub(r'\bid="', f'id="{name}-', body)
    body = re.sub(r'(href="|url\()#', rf"\1#{name}-", body)
    for color, variable in ((INK, "ink"), (_MUTED, "muted"), (_FAINT, "line")):
        body = body.replace(color, f"var(--{variable})")
    for style in styles.values():
        body = body.replace(f": {style.color}", f": var(--c{style.color[1:]})")
    # The page scales the figure: of the opening tag only the view box stays.
    return re.sub(r"<svg[^>]*?(viewBox=\"[^\"]*\")[^>]*>", rf'<svg \1 role="img" aria-label="{label}">', body, count=1)


def _draw_series(axes: Any, series: Series, style: LineStyle, place: int, spread: str) -> None:
    line = {"color": style.color, "zorder": 3}
    if spread == "dotted":
        # One line with a gap: minimum and maximum are one thing to show or hide.
        gap = [math.nan]
        x, y = np.concatenate([series.x, gap, series.x]), np.concatenate([series.low, gap, series.high])
        axes.plot(x, y, linestyle=":", linewidth=1.0, alpha=0.75, gid=f"range-{place}", **line)
    else:
        shade = {"color": style.color, "alpha": 0.13, "linewidth": 0, "zorder": 2}
        axes.fill_between(series.x, series.low, series.high, gid=f"range-{place}", **shade)
    dashes = (0, style.dashes) if style.dashes else "solid"
    axes.plot(series.x, series.mean, linestyle=dashes, label=series.method, gid=f"series-{place}", **line)
