"""Values that a command gives in place of those of a study file, such as `training.epochs=24`."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from study.config.paths import shown
from study.config.yaml_file import parse_yaml

_EXAMPLE = "such as --set training.epochs=24"


def assigned(raw: Mapping[str, Any], assignments: Sequence[str]) -> dict[str, Any]:
    """Return the contents of a study file with other values; the later of two for the same key counts.

    Args:
        raw: The contents; they are not changed.
        assignments: A key whose parts are separated by dots, `=`, and a value in YAML; each as `KEY=VALUE`.

    Raises:
        ValueError: An assignment is none, or its key leads into a value that has no keys.
    """
    found = dict(raw)
    for assignment in assignments:
        key, equals, text = assignment.partition("=")
        if not (key and equals):
            raise ValueError(f"--set must be KEY=VALUE, got {shown(assignment)}; write it {_EXAMPLE}")
        try:
            value = parse_yaml(text)
        except ValueError as error:  # the value may be secret, and is not shown
            raise ValueError(f"--set {key} must give a value in YAML: {error}") from error
        found = _with(found, key, value, "")
    return found


def with_sources(problems: Sequence[str], assignments: Sequence[str]) -> Iterator[str]:
    """Yield the problems of a study file; one about a key that was assigned says so."""
    keys = [assignment.partition("=")[0] for assignment in assignments]
    for problem in problems:
        named = re.match("`([^`]+)`", problem)
        place = f"{named[1]}." if named else ""
        given = [key for key in keys if place and (place.startswith(f"{key}.") or f"{key}.".startswith(place))]
        yield f"{problem} (--set {given[-1]})" if given else problem


def _with(tree: object, key: str, value: object, place: str) -> dict[str, Any]:
    """Return a mapping with another value, given the place of the mapping in the file. Nothing is changed in place."""
    tree = {} if tree is None else tree
    if not isinstance(tree, Mapping):
        raise ValueError(
            f"--set {place}{key} must name a key of a mapping, and `{place[:-1]}` is {shown(tree)}; give it as a whole"
        )
    # A key of the file may have dots itself.
    known = [name for name in tree if f"{key}.".startswith(f"{name}.")]
    name = max(known, key=len, default=key.partition(".")[0])
    rest = key[len(name) + 1 :]
    return {**tree, name: _with(tree.get(name), rest, value, f"{place}{name}.") if rest else value}
