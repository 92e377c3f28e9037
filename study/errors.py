"""The errors of a study that a user can fix."""

from __future__ import annotations

from analysis.format import plural


class SpecError(ValueError):
    """A study file with problems.

    Attributes:
        problems: One sentence each: key, rule, value, remedy.
    """

    def __init__(self, path: str, problems: list[str]) -> None:
        self.problems = problems
        super().__init__(
            "\n".join([f"{path} has {plural(len(problems), 'problem')}:", *(f"  - {problem}" for problem in problems)])
        )


class ClusterError(RuntimeError):
    """A cluster that cannot be reached, or that refuses us; the message names the remedy."""


class ModelError(ValueError):
    """Files that are no classifier, or embeddings that are not the ones it takes."""


class StudyError(RuntimeError):
    """A study that cannot be run as it stands."""


class TrackingError(RuntimeError):
    """The tracking server cannot be used; the records are not concerned."""
