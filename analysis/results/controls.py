"""What each method is compared with: the method of its own objective that augments nothing."""

from __future__ import annotations

from collections.abc import Iterable

from trainables.records.types import CONTRASTIVE, Candidate

CONTROL = "control"


def objective_of(method: str) -> str:
    """What a method minimises while the hidden layers train: `supervised` or `contrastive`."""
    return Candidate(method).objective


def reference_of(method: str) -> str:
    """The method that a method's differences are taken to; its own name for such a method."""
    return f"{CONTRASTIVE}_{CONTROL}" if objective_of(method) == CONTRASTIVE else CONTROL


def is_reference(method: str) -> bool:
    """Whether a method augments nothing, so that others are compared with it."""
    return method == reference_of(method)


def missing_references(methods: Iterable[str]) -> list[tuple[str, str]]:
    """The references that a study's methods ask for and that are not among them, and whose they would be, in words."""
    names = list(methods)
    asked = dict.fromkeys(map(reference_of, names))
    return [
        (name, "Methods" if len(asked) == 1 else f"{objective_of(name).capitalize()} methods")
        for name in asked
        if name not in names
    ]


def uncompared(methods: Iterable[str]) -> str:
    """A sentence for each reference that a study lacks; empty where it has all."""
    missing = missing_references(methods)
    return " ".join(f"No {reference}: {whose.lower()} are compared with nothing." for reference, whose in missing)


def references_text(methods: Iterable[str]) -> str:
    """What the differences of some methods are to: one name, or `its own control` where objectives are mixed."""
    names = list(dict.fromkeys(map(reference_of, methods)))
    return names[0] if len(names) == 1 else "its own control"


def each_with_its_own(methods: Iterable[str]) -> str:
    """A sentence for where objectives are mixed; empty elsewhere."""
    if len(set(map(reference_of, methods))) < 2:
        return ""
    return f"Contrastive methods against {CONTRASTIVE}_{CONTROL}, the others against {CONTROL}."
