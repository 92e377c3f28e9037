"""Numbers, settings and errors as text. This module imports nothing heavy."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import Any


def signed(value: float, digits: int = 4) -> str:
    """Return a difference with its sign, "+0.0123" or "−0.0123"."""
    return f"{value:+.{digits}f}".replace("-", "−")


def p_text(p_value: float) -> str:
    """Return a p-value, "p = 0.012"."""
    return "p < 0.001" if p_value < 0.001 else f"p = {p_value:.3f}"


# Shown where a figure is not defined.
UNDEFINED_TEXT = "–"

# Scores of how unknown an item is, by the ending of their figures' names; the published one has none.
SCORE_NAMES: Mapping[str, str] = {
    "": "max probability",
    "_joint_energy": "joint energy",
    "_gen": "GEN",
    "_knn_hidden": "kNN, last hidden layer",
    "_relative_mahalanobis_hidden": "relative Mahalanobis, last hidden layer",
    "_knn_input": "kNN, input",
    "_relative_mahalanobis_input": "relative Mahalanobis, input",
}

# Names of figures in texts.
FIGURE_NAMES: Mapping[str, str] = {
    "auc_weighted": "weighted AUC",
    "top1": "top-1",
    "macro_f1": "macro-F1",
    "balanced_accuracy": "balanced accuracy",
    "accuracy": "accuracy",
    "accuracy_chosen": "accuracy at the chosen threshold",
    "ece_known": "ECE",
    "ece_open": "ECE with “none”",
    "overconfidence_known": "overconfidence",
    "overconfidence_open": "overconfidence with “none”",
    "nll": "NLL",
    "brier": "Brier score",
    "aurc": "AURC",
    "oscr": "OSCR",
    "probe_auc_weighted": "linear probe’s weighted AUC",
    "probe_accuracy": "linear probe’s accuracy",
    **{
        f"ood_{kind}{ending}": f"OOD {text}{f' by {score}' if ending else ''}"
        for kind, text in (("auroc", "AUROC"), ("aupr", "AUPR"), ("fpr95", "FPR at 95 % TPR"))
        for ending, score in SCORE_NAMES.items()
    },
}


def figure_name(figure: str) -> str:
    """Return the name of a figure in texts, by default its own name."""
    plain = figure.removesuffix("_scaled")
    scaled = " after temperature scaling" if plain != figure else ""
    return FIGURE_NAMES.get(plain, plain) + scaled


def heading(text: str) -> str:
    """Return a text with its first letter in upper case and the rest unchanged."""
    return text[:1].upper() + text[1:]


def number(value: float, digits: int) -> str:
    """Return a number with fixed decimals; a dash if it is not finite."""
    return f"{value:.{digits}f}" if math.isfinite(value) else UNDEFINED_TEXT


def flatten(settings: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, str]]:
    """Yield nested settings as (dotted key, value as text)."""
    for key, value in settings.items():
        name = f"{prefix}{key}"
        if isinstance(value, Mapping) and value:
            yield from flatten(value, f"{name}.")
        elif isinstance(value, list | tuple) and any(isinstance(entry, Mapping) for entry in value):
            yield from flatten({str(place): entry for place, entry in enumerate(value)}, f"{name}.")
        elif isinstance(value, list | tuple):
            yield name, ", ".join(str(entry) for entry in value) or UNDEFINED_TEXT
        else:
            yield name, UNDEFINED_TEXT if value is None else str(value)


def plural(count: int, noun: str, several: str | None = None) -> str:
    """Return a count with its noun: "1 split", "1,010 trials"; `several` is a plural that does not just add an s."""
    return f"{count:,} {noun if count == 1 else several or f'{noun}s'}"


def cause(error: BaseException) -> str:
    """Return why a server was not reached: the operating system's message, else the first line of the error."""
    inner: BaseException | None = error
    while inner is not None:
        if isinstance(inner, OSError) and inner.strerror:
            return inner.strerror
        inner = inner.__cause__ or inner.__context__
    return (str(error).strip() or type(error).__name__).splitlines()[0][:200]


def duration(seconds: float) -> str:
    """Return a time in at most two units: "2 d 3 h", "5 min 10 s"."""
    minutes, s = divmod(round(seconds), 60)
    hours, m = divmod(minutes, 60)
    days, h = divmod(hours, 24)
    if days:
        return f"{days} d {h} h"
    if hours:
        return f"{hours} h {m} min"
    return f"{m} min {s} s" if m else f"{s} s"
