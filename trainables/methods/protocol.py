"""The contract of a method: a batch of lanes in, a batch of lanes out, under hyperparameters with known ranges.

Importing this module does not import torch.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class Hyperparameter:
    """The valid values of a hyperparameter.

    Attributes:
        default: Value where the study file gives none.
        low: Lower bound.
        high: Upper bound, included.
        low_included: Whether `low` itself is valid.
        whole: Whether only whole numbers are valid.
        auto: Whether a study file may give `auto` (the value `AUTO` of `trainables.records.types`), with which each
            trial finds its own value.
    """

    default: float
    low: float
    high: float
    low_included: bool = True
    whole: bool = False
    auto: bool = False

    def __str__(self) -> str:
        """Return the default and the range, as in `0.3, in (0, 10]`."""
        kind = ", whole" if self.whole else ""
        left = "[" if self.low_included else "("
        return f"{self.default:g}, in {left}{self.low:g}, {self.high:g}]{kind}{', or auto' if self.auto else ''}"

    def problem(self, value: float) -> str | None:
        """Return the rule that a value breaks, as "must be ...", or None if it is valid."""
        above = value >= self.low if self.low_included else value > self.low
        if above and value <= self.high and (not self.whole or value == int(value)):
            return None
        bounds = f"{'at least' if self.low_included else 'above'} {self.low:g} and at most {self.high:g}"
        return f"must be {'auto or ' if self.auto else ''}{'a whole number, ' if self.whole else ''}{bounds}"


# Training settings that a candidate of any method may override; without a value, the study's setting applies.
LANE_SETTINGS = {
    "learning_rate_low": Hyperparameter(default=3e-4, low=0, high=10, low_included=False),
    "learning_rate_high": Hyperparameter(default=3e-3, low=0, high=10, low_included=False),
    "weight_decay": Hyperparameter(default=1e-4, low=0, high=10),
    "dropout": Hyperparameter(default=0.3, low=0, high=0.99),
}


@dataclass(frozen=True)
class Batch:
    """One mini-batch of every lane.

    Attributes:
        x: Embeddings (lanes, rows, features).
        y: Targets in [0, 1] (lanes, rows, classes); zero on classes that pad a lane. A method that combines items at a
            hidden layer returns fewer rows than in `x`: the loss is then of the first rows.
        is_class: 1 for each class of a lane, 0 for padding (lanes, 1, classes).
        deviation: Standard deviation of each feature over the lane's training items (lanes, 1, features).
        n_hidden: Number of hidden layers that the batch passes.
        at_layer: Transforms the output of a hidden layer, given the layer's number from 1 and its activations
            (lanes, rows, width); None for no change.
    """

    x: Tensor
    y: Tensor
    is_class: Tensor
    deviation: Tensor
    n_hidden: int
    at_layer: Callable[[int, Tensor], Tensor] | None = None


class Draws(Protocol):
    """Random numbers, from one independent stream per lane."""

    def bernoulli(self, probability: Tensor, rows: int, columns: int) -> Tensor:
        """Draw bool (lanes, rows, columns), true with the given probability (lanes, rows or 1, 1)."""
        ...

    def beta(self, alpha: Tensor, rows: int) -> Tensor:
        """Draw Beta(alpha, alpha) numbers (lanes, rows, 1), for alpha (lanes, 1, 1)."""
        ...

    def uniform(self, rows: int, columns: int) -> Tensor:
        """Draw uniform numbers in [0, 1): (lanes, rows, columns)."""
        ...

    def normal(self, rows: int, columns: int) -> Tensor:
        """Draw standard normal numbers: (lanes, rows, columns)."""
        ...

    def of(self, lanes: Sequence[int]) -> Draws:
        """Return the streams of some lanes, given their positions; the other streams are not drawn from."""
        ...


class Transform(Protocol):
    """What a method does to a batch."""

    def __call__(self, batch: Batch, params: Mapping[str, Tensor], draws: Draws) -> Batch:
        """Return the batch to train on; the given one is not changed.

        Args:
            batch: Items in random order, an even number of rows per lane.
            params: Each hyperparameter as (lanes, 1, 1).
            draws: The lanes' random streams.
        """
        ...


class Method(Protocol):
    """An augmentation of embeddings and their targets.

    A method may have further attributes. `label_free`: true if it neither reads nor changes targets; it can then also
    augment a view in contrastive training. `static`: true if, apart from its draws, it never reads a value from the
    device (`item`, `tolist`, a mask as an index) and never sends one there (a list as an index); its steps can then be
    captured as a CUDA graph. `canonical(params)`: maps hyperparameters to the ones that represent all that train the
    same. `version`: a text that changes with every change of what the method computes; without it, the source file of
    its transform stands for it, so a method whose code is in several files, or in none, should have a version.
    `summary` and `source`: one sentence, and the publication, for `study methods`.

    Attributes:
        name: Its name in study files, records and reports.
        hyperparameters: The valid values of each hyperparameter.
        transform: The augmentation, a function like `Transform`.
    """

    @property
    def name(self) -> str: ...  # noqa: D102

    @property
    def hyperparameters(self) -> Mapping[str, Hyperparameter]: ...  # noqa: D102

    @property
    def transform(self) -> Transform: ...  # noqa: D102


@dataclass(frozen=True)
class Augmentation:
    """A method made of a function; see `Method` for the attributes."""

    name: str
    transform: Transform
    hyperparameters: Mapping[str, Hyperparameter] = field(default_factory=dict)
    label_free: bool = False
    static: bool = True
    canonical: Callable[[Mapping[str, float]], Mapping[str, float]] | None = None
    version: str = ""
    summary: str = ""
    source: str = ""
