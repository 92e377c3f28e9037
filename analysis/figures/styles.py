"""Styles of figures: one style sheet for all, and a colour and line style for each method.

The colours are those of Okabe and Ito, which remain distinct with any common colour vision deficiency. Line styles
differ too, for print in black and white.

References:
    Okabe and Ito (2008), "Color Universal Design", https://jfly.uni-koeln.de/color/
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from trainables.records.types import CONTRASTIVE, SUPERVISED, Candidate

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
    """The style of a method.

    Attributes:
        color: Hexadecimal colour on a light page.
        color_dark: Hexadecimal colour on a dark page.
        dashes: On and off lengths in points; empty for a solid line.
        marker: Matplotlib's marker for points.
    """

    color: str
    color_dark: str
    dashes: tuple[float, ...] = ()
    marker: str = "o"


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
_SHORT_DOT = (3.0, 1.4, 1.0, 1.4)

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
    "uniform_dropout": LineStyle(*_BLUE),
    "manifold_mixup": LineStyle(*_ORANGE, _DASH_DOT),
    "deep_dropout": LineStyle(*_PURPLE),
    "deep_pca": LineStyle(*_PURPLE, _DASH_DOT),
}

_FURTHER_STYLES = tuple(
    LineStyle(*color, _SHORT) for color in (_GREEN, _PURPLE, _BLUE, _VERMILION, _SKY, _ORANGE, _GREY)
)

_OF_FAMILIES = {
    ("deep_dropout", False): LineStyle(*_PURPLE),
    ("deep_dropout", True): LineStyle(*_PURPLE, _SHORT, "D"),
    ("deep_pca", False): LineStyle(*_BLUE, (), "s"),
    ("deep_pca", True): LineStyle(*_BLUE, _SHORT, "^"),
    ("uniform_dropout", False): LineStyle(*_VERMILION, (), "v"),
    ("gaussian_noise", False): LineStyle(*_GREEN, (), "P"),
    ("feature_corruption", False): LineStyle(*_GREEN, (), "X"),
}

# The style of each objective, for figures with one curve per objective.
OBJECTIVE_STYLES: Mapping[str, LineStyle] = {
    CONTRASTIVE: LineStyle(*_VERMILION),
    SUPERVISED: LineStyle(*_BLUE, (), "s"),
}

_BY_DEPTH = (_BLACK, _SKY, _BLUE, _GREEN, _ORANGE, _VERMILION, _PURPLE, _GREY)


def method_styles(methods: Sequence[str]) -> dict[str, LineStyle]:
    """Return the style of each method; the built-in methods have the same style in every study."""
    known = {method: style for method in methods if (style := _known(method)) is not None}
    free = [style for style in _FURTHER_STYLES if style not in known.values()] or _FURTHER_STYLES
    others = [method for method in methods if method not in known]
    further = {method: free[place % len(free)] for place, method in enumerate(others)}
    return {method: known[method] if method in known else further[method] for method in methods}


def family_styles(families: Sequence[tuple[str, bool]]) -> list[LineStyle]:
    """Return the style of each (augmentation, stop-gradient), for figures with layers along the x axis."""
    further = iter(_FURTHER_STYLES * len(families))
    return [_OF_FAMILIES.get(family) or next(further) for family in families]


def depth_styles(n: int) -> list[LineStyle]:
    """Return a style for each of n places in a network, from the input on; from the ninth, colours repeat, dashed."""
    return [LineStyle(*_BY_DEPTH[place % 8], _DASHED if place >= 8 else ()) for place in range(n)]


def _known(method: str) -> LineStyle | None:
    """Return the style of a built-in method; a contrastive one has its augmentation's colour, with short dashes."""
    candidate = Candidate(method)
    style = _METHOD_STYLES.get(candidate.augmentation)
    if style is None or candidate.objective != CONTRASTIVE:
        return style
    return replace(style, dashes=_SHORT_DOT if style.dashes else _SHORT)
