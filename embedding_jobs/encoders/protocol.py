"""What encoders are: their settings, the protocol they follow, where models come from, and the registry.

Importing this module loads neither torch nor transformers; the networks are in `text_encoder` and `image_encoder`.

A third party adds a kind of encoder with an entry point of the group `embedding_ablation_study.encoders`, whose name
is the kind and whose object follows `EncoderKind`; a `CustomEncoderConfig` names it. The same conformance tests run
over every registered kind.
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
    """A unit's inputs, ready for the network.

    Attributes:
        arrays: Whatever the encoder of the same kind takes: token ids and lengths, or pixels.
        notes: For each input None, or what the store has to say of it ("truncated").
        errors: For each input None, or why it cannot be encoded. Arrays hold the others only, in order.
        amount: Tokens, or pixels, that the network will see.
    """

    arrays: dict[str, NDArray[Any]]
    notes: list[str | None]
    errors: list[str | None]
    amount: int


class Preprocessor(Protocol):
    """Turns raw inputs (texts, or encoded image bytes) into arrays, on a CPU and without the network's weights."""

    def __call__(self, inputs: Sequence[Any]) -> Prepared:
        """Prepare one unit. An input that cannot be read becomes an entry in `errors`, never an exception."""


class Encoder(Protocol):
    """A network with its weights on one device."""

    dimension: int

    def __call__(self, prepared: Prepared) -> NDArray[np.float32]:
        """Return vectors of shape (inputs without errors, dimension); depends on `prepared` alone."""


class EncoderKind(Protocol):
    """A family of encoders. What the registry holds."""

    modality: Literal["text", "image"]

    def describe(self, config: Any) -> dict[str, Any]:
        """Everything that a vector depends on, as JSON values; checks that the encoder can be had.

        Raises:
            EncoderError: The model or its weights cannot be had, or a setting does not fit them.
        """

    def preprocessor(self, config: Any) -> Preprocessor:
        """Load what preparing inputs takes."""

    def encoder(self, config: Any, device: str, n_threads: int) -> Encoder:
        """Load the network onto `device` ("cpu", "cuda")."""
