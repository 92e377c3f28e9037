"""The protocols of encoders.

Another package adds a kind of encoder with an entry point of the group `embedding_ablation_study.encoders`: its name is
the kind, and its object follows `EncoderKind`. A `CustomEncoderConfig` selects it. The same conformance tests run for
every registered kind.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, Protocol

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray


@dataclass(frozen=True)
class Prepared:
    """The inputs of a unit, prepared for the network.

    Attributes:
        arrays: What the encoder of the same kind reads: token ids and lengths, or pixels. Only of readable inputs.
        notes: For each input a note for the store ("truncated"), or None.
        errors: For each input why it cannot be encoded, or None.
        amount: Number of tokens or pixels in the arrays.
    """

    arrays: dict[str, NDArray[Any]]
    notes: list[str | None]
    errors: list[str | None]
    amount: int


class Preprocessor(Protocol):
    """Turn inputs (texts, or image files as bytes) into arrays, on a CPU and without the network's weights."""

    def __call__(self, inputs: Sequence[Any]) -> Prepared:
        """Prepare one unit. An unreadable input becomes an entry in `errors`, never an exception."""


class Encoder(Protocol):
    """A network with its weights on one device."""

    dimension: int

    def __call__(self, prepared: Prepared) -> NDArray[np.float32]:
        """Return vectors of shape (inputs without errors, dimension); they depend only on `prepared`."""


class EncoderKind(Protocol):
    """A kind of encoder, as the registry holds it."""

    modality: Literal["text", "image"]

    def describe(self, config: Any) -> dict[str, Any]:
        """Return everything that a vector depends on, as JSON values, and check that the encoder is available.

        Raises:
            EncoderError: The model or its weights are not available, or a setting does not fit them.
        """

    def preprocessor(self, config: Any) -> Preprocessor:
        """Load the preprocessor."""

    def encoder(self, config: Any, device: str, n_threads: int) -> Encoder:
        """Load the network onto `device` ("cpu", "cuda")."""
