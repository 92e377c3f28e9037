"""The errors that a user can fix, as one tree. The command catches the root; a program can catch any of them.

StudyError
├── SourceError        the source table                      embedding_jobs.errors
├── EncoderError       an encoder                            embedding_jobs.errors
├── StoreError         the embedding store                   embedding_jobs.errors
├── MethodError        an unknown method                     trainables.methods.registry
├── TrainingError      a pack that cannot be trained         trainables.training.protocol
├── RecordError        the records                           trainables.records.types
├── ReportError        a study that cannot be reported       analysis.results.load
├── DescriptionError   the study's directory                trainables.records.description
├── SpecError          the study file
├── RunError           a run that cannot start or go on
├── TrackingError      a tracking server that a study writes to
│   └── SlowTrackerError   it did not take everything in time
├── TrackerError       a tracking server that cannot start
├── ModelError         an exported model
└── ClusterError       a Ray cluster
    ├── LostError      a Ray that stopped in the middle of a command
    └── TransferError  a report that did not arrive from a cluster as it was sent
"""

from __future__ import annotations

from embedding_jobs.errors import StudyError

__all__ = [
    "RAY_IS_DEAD",
    "ClusterError",
    "LostError",
    "ModelError",
    "RunError",
    "SlowTrackerError",
    "SpecError",
    "StudyError",
    "TrackerError",
    "TrackingError",
    "TransferError",
]


# The message of a `LostError` where the Ray is one on this machine.
RAY_IS_DEAD = (
    "A process of Ray on this machine was killed, perhaps for lack of memory. Recorded trials are kept: the same "
    "command continues."
)


class SpecError(StudyError):
    """A study file with problems.

    Attributes:
        problems: One sentence each: key, rule, value, remedy.
    """

    def __init__(self, path: str, problems: list[str]) -> None:
        self.problems = problems
        count = "1 problem" if len(problems) == 1 else f"{len(problems)} problems"
        super().__init__("\n".join([f"{path} has {count}:", *(f"  - {problem}" for problem in problems)]))


class RunError(StudyError):
    """A run that cannot start, or cannot go on."""


class TrackingError(StudyError):
    """A tracking server that cannot be used. The records are not affected."""


class SlowTrackerError(TrackingError):
    """A tracking server that did not take everything in time."""

    def __init__(self, limit_s: float) -> None:
        super().__init__(
            f"MLflow has not stored everything within {limit_s:g} s; nothing waits for it any longer. Nothing is lost: "
            "once it answers as it should, `study sync` writes what is missing."
        )


class TrackerError(StudyError):
    """A tracking server that cannot be started as asked."""


class ModelError(StudyError):
    """Files that are no classifier, or embeddings that do not fit it."""


class ClusterError(StudyError):
    """A cluster that cannot be reached, or that rejects the request."""


class LostError(ClusterError):
    """A Ray that has stopped in the middle of a command: the same command continues."""

    exit_code = 3


class TransferError(ClusterError):
    """A report that did not arrive as it was sent."""
