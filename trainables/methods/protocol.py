"""What a method is: a batch of lanes in, a batch of lanes out, under hyperparameters with known ranges.

Importing this module does not import torch.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class Hyperparameter:
    """The legal values of a hyperparameter.

    Attributes:
        default: Value where the study file gives none.
        low: Lower bound.
        high: Upper bound, included.
        low_included: Whether `low` itself is legal.
        whole: Whether only whole numbers are legal.
        auto: Whether a study file may say `auto`, which is kept as `records.AUTO`: each trial then finds its own.
    """

    default: float
    low: float
    high: float
    low_included: bool = True
    whole: bool = False
    auto: bool = False

    def problem(self, value: float) -> str | None:
        """The rule that a value breaks, as "must be ...", or None if it is legal."""
        above = value >= self.low if self.low_included else value > self.low
        if above and value <= self.high and (not self.whole or value == int(value)):
            return None
        bounds = f"{'at least' if self.low_included else 'above'} {self.low:g} and at most {self.high:g}"
        return f"must be {'auto or ' if self.auto else ''}{'a whole number, ' if self.whole else ''}{bounds}"


LANE_SETTINGS = {
    "learning_rate_low": Hyperparameter(default=3e-4, low=0, high=10, low_included=False),
    "learning_rate_high": Hyperparameter(default=3e-3, low=0, high=10, low_included=False),
    "weight_decay": Hyperparameter(default=1e-4, low=0, high=10),
    "dropout": Hyperparameter(default=0.3, low=0, high=0.99),
}

"""Training settings that a candidate of any method may have of its own; where it has none, the study's hold."""


@dataclass(frozen=True)
class Batch:
    """One mini-batch of every lane.

    Attributes:
        x: Embeddings (lanes, rows, features).
        y: Targets in [0, 1] (lanes, rows, classes); zero on classes that pad a lane. Fewer rows than `x` where a method
            combines items at a hidden layer: the loss is then of the first rows.
        is_class: Which classes a lane really has, 1 or 0 (lanes, 1, classes).
        deviation: Standard deviation of each feature over the lane's training items (lanes, 1, features).
        at_layer: What is done to the output of a hidden layer, given its number from 1 and its activations
            (lanes, rows, width); None for nothing.
    """

    x: Tensor
    y: Tensor
    is_class: Tensor
    deviation: Tensor
    at_layer: Callable[[int, Tensor], Tensor] | None = None


class Draws(Protocol):
    """Random numbers, one independent stream a lane."""

    def bernoulli(self, probability: Tensor, rows: int, columns: int) -> Tensor:
        """True with the given probability: bool (lanes, rows, columns), from (lanes, rows or 1, 1)."""
        ...

    def beta(self, alpha: Tensor, rows: int) -> Tensor:
        """Beta(alpha, alpha) numbers: (lanes, rows, 1), from alpha (lanes, 1, 1)."""
        ...

    def uniform(self, rows: int, columns: int) -> Tensor:
        """Uniform numbers in [0, 1): (lanes, rows, columns)."""
        ...

    def normal(self, rows: int, columns: int) -> Tensor:
        """Standard normal numbers: (lanes, rows, columns)."""
        ...

    def of(self, lanes: Sequence[int]) -> Draws:
        """The streams of some lanes, given their places; the others' are not drawn from."""
        ...


class Method(Protocol):
    """An augmentation of embeddings and their targets.

    A method may also have `label_free`, true if it neither reads nor changes targets: it can then augment a view in
    contrastive training too; `static`, true if it never asks the device for a value (`item`, `tolist`, a mask as an
    index) and sends it none (a list as an index), its draws apart: its steps can then be a CUDA graph; and
    `canonical(params)`, which maps hyperparameters to those that stand for all that train the same.

    Attributes:
        name: Its name in study files, records and reports.
        hyperparameters: The legal values of each hyperparameter.
    """

    @property
    def name(self) -> str: ...  # noqa: D102

    @property
    def hyperparameters(self) -> Mapping[str, Hyperparameter]: ...  # noqa: D102

    def transform(self, batch: Batch, params: Mapping[str, Tensor], draws: Draws) -> Batch:
        """The batch to train on; the given one is left as it is.

        Args:
            batch: Items in random order, an even number of rows a lane.
            params: Each hyperparameter as (lanes, 1, 1).
            draws: The lanes' random streams.
        """
        ...
