"""The errors that a user can fix: the root of the tree, and the errors of embedding.

`study.errors` draws the whole tree. Every message names the rule, the value, the place and the remedy.
"""


class StudyError(Exception):
    """An error that the user can fix. The command prints its message and ends with exit code 2."""


class SourceError(StudyError):
    """A source table that cannot be read, or has invalid content."""


class EncoderError(StudyError):
    """An encoder that is not available, or a setting that does not fit it."""


class StoreError(StudyError):
    """An embedding store that is missing, damaged, or made from other data or by another encoder."""
