"""The reference of each method: the method with the same objective and without augmentation."""

from __future__ import annotations

from collections.abc import Iterable

from trainables.records.types import CONTRASTIVE, Candidate

CONTROL = "control"


def objective_of(method: str) -> str:
    """Return what a method minimises while the hidden layers train: `supervised` or `contrastive`."""
    return Candidate(method).objective


def reference_of(method: str) -> str:
    """Return the method that a method is compared with; a reference is its own."""
    return f"{CONTRASTIVE}_{CONTROL}" if objective_of(method) == CONTRASTIVE else CONTROL


def is_reference(method: str) -> bool:
    """Return whether a method has no augmentation, so that others are compared with it."""
    return method == reference_of(method)


def missing_references(methods: Iterable[str]) -> list[tuple[str, str]]:
    """Return the references that are missing from a study, each with the methods that it is for, in words."""
    names = list(methods)
    asked = dict.fromkeys(map(reference_of, names))
    return [
        (name, "Methods" if len(asked) == 1 else f"{objective_of(name).capitalize()} methods")
        for name in asked
        if name not in names
    ]


def uncompared(methods: Iterable[str]) -> str:
    """Return a sentence for each reference that is missing from a study; empty if none is."""
    missing = missing_references(methods)
    return " ".join(f"No {reference}: {whose.lower()} are compared with nothing." for reference, whose in missing)


def references_text(methods: Iterable[str]) -> str:
    """Return the name of the methods' reference, or `its own control` if they have several."""
    names = list(dict.fromkeys(map(reference_of, methods)))
    return names[0] if len(names) == 1 else "its own control"


def each_with_its_own(methods: Iterable[str]) -> str:
    """Return a sentence on which method has which reference; empty if all have the same."""
    if len(set(map(reference_of, methods))) < 2:
        return ""
    return f"Contrastive methods against {CONTRASTIVE}_{CONTROL}, the others against {CONTROL}."
