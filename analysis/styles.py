"""How figures look: one sheet for all, and a colour and line style of its own for every method.

The colours are those of Okabe and Ito, which people with any common colour vision tell apart; the line styles
differ too, for print in black.

References:
    Okabe and Ito (2008), "Color Universal Design", https://jfly.uni-koeln.de/color/
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

INK = "#1b1f24"
FAINT = "#d5d9de"
MUTED = "#5b6470"

SHEET: Mapping[str, Any] = {
    "font.family": "DejaVu Sans",
    "font.size": 9.5,
    "axes.edgecolor": MUTED,
    "axes.labelcolor": INK,
    "axes.linewidth": 0.8,
    "axes.spines.right": False,
    "axes.spines.top": False,
    "axes.grid": True,
    "grid.color": FAINT,
    "grid.linewidth": 0.7,
    "text.color": INK,
    "xtick.color": MUTED,
    "ytick.color": MUTED,
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
