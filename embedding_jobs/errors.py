"""The errors of embedding that a user can fix."""

from __future__ import annotations


class EncoderError(ValueError):
    """An encoder that cannot be had or used; the message names the model and the remedy."""


class StoreError(ValueError):
    """A store that is not there, damaged, or not the one asked for; the message names the field and the remedy."""


class SourceError(ValueError):
    """A source that cannot be used as it is; the message names the rule, the value, the place and the remedy."""
