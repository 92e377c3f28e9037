"""Numbers of things, and errors, in words. Imports nothing heavy."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import Any


def signed(value: float, digits: int = 4) -> str:
    """A difference with its sign."""
    return f"{value:+.{digits}f}".replace("-", "−")


def p_text(p_value: float) -> str:
    """Return a p-value, "p = 0.012"."""
    return "p < 0.001" if p_value < 0.001 else f"p = {p_value:.3f}"


UNDEFINED_TEXT = "–"


FIGURE_NAMES: Mapping[str, str] = {
    "auc_weighted": "weighted AUC",
    "accuracy": "accuracy",
    "ece_known": "ECE",
    "ood_auroc": "OOD AUROC",
    "ood_aupr": "OOD AUPR",
    "probe_auc_weighted": "linear probe’s weighted AUC",
    "probe_accuracy": "linear probe’s accuracy",
}


def figure_name(figure: str) -> str:
    """Return what a figure is called in texts; one that has no such name keeps its own."""
    return FIGURE_NAMES.get(figure, figure)


def heading(text: str) -> str:
    """A text with a capital letter at its head, and the rest as it is."""
    return text[:1].upper() + text[1:]


def number(value: float, digits: int) -> str:
    """A number with fixed decimals, or a dash."""
    return f"{value:.{digits}f}" if math.isfinite(value) else UNDEFINED_TEXT


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


def plural(count: int, noun: str) -> str:
    """A number of things: "1 split", "1,010 trials"."""
    return f"{count:,} {noun}" + ("" if count == 1 else "s")


def cause(error: BaseException) -> str:
    """Why a server could not be reached: the system's own word where it has one, else the error's first line."""
    inner: BaseException | None = error
    while inner is not None:
        if isinstance(inner, OSError) and inner.strerror:
            return inner.strerror
        inner = inner.__cause__ or inner.__context__
    return (str(error).strip() or type(error).__name__).splitlines()[0][:200]


def duration(seconds: float) -> str:
    """A time to read: two units at most."""
    minutes, s = divmod(round(seconds), 60)
    hours, m = divmod(minutes, 60)
    days, h = divmod(hours, 24)
    if days:
        return f"{days} d {h} h"
    if hours:
        return f"{hours} h {m} min"
    return f"{m} min {s} s" if m else f"{s} s"
