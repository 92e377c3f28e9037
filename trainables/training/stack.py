"""A stack: lanes of one method, trained as one model whose every tensor has a leading lane axis.

`trainables.training.supervised` and `trainables.training.contrastive` define the loss.
"""

from __future__ import annotations

import time
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import numpy as np
import torch
from torch import Tensor

from trainables.evaluation.cka import neighbour_cka
from trainables.methods.protocol import Method
from trainables.sampling.splits import Indices
from trainables.sampling.streams import stream
from trainables.training.cuda_graph import CapturedStep
from trainables.training.draws import LaneDraws
from trainables.training.model import AtLayer, LaneMLP
from trainables.training.optimizer import LaneAdamW
from trainables.training.settings import Lane, Settings

# Largest number of training items that layers are compared on.
CKA_ITEMS = 512


def triangular(step: int, low: float, high: float, half_cycle: int) -> float:
    """Return the triangular learning rate of a step: `low` at 0, `high` after `half_cycle` steps, then `low` again.

    References:
        Smith, "Cyclical Learning Rates for Training Neural Networks" (2017), https://arxiv.org/abs/1506.01186
    """
    position = (step / half_cycle) % 2
    return low + (high - low) * (1 - abs(1 - position))


class Stack(ABC):
    """Lanes of one method in training.

    Args:
        embeddings: float32 (items, features), on the device to train on.
        lanes: The lanes; their training items may differ in number.
        steps_per_epoch: Steps per epoch, the same for every lane; a lane with too few items for them repeats its items.
        settings: Shared by all lanes.
        model: The model to train, with the weights of all lanes; it is moved to the device.
        stage: Prefix of the purpose of every random stream, so that the stages of a trial draw independently.

    Attributes:
        lanes: The lanes still in training.
        model: The model in training.
        device_s: Each lane's share of the time spent so far.
        n_steps: Number of steps taken.
    """

    def __init__(
        self,
        embeddings: Tensor,
        lanes: Sequence[Lane],
        steps_per_epoch: int,
        settings: Settings,
        model: LaneMLP,
        stage: str = "",
    ) -> None:
        self.embeddings, self.settings = embeddings, settings
        self.lanes = list(lanes)
        self.method: Method = lanes[0].method
        self.steps_per_epoch = steps_per_epoch
        self.n_steps = 0
        self.device_s = [0.0] * len(lanes)
        self._device = embeddings.device
        self._train = [torch.from_numpy(lane.split.train).to(self._device) for lane in lanes]
        self._params = {
            name: torch.tensor([lane.params[name] for lane in lanes], device=self._device).view(-1, 1, 1)
            for name in self.method.hyperparameters
        }
        self._shift, self._scale, self._deviation = self._moments()
        seeds = [lane.seed for lane in lanes]
        self._order = f"{stage}order"
        self._augment = LaneDraws(seeds, f"{stage}augment", self._device)
        self.model = model.to(self._device)
        rate = settings.learning_rate
        self._rates = [
            (lane.params.get("learning_rate_low", rate.low), lane.params.get("learning_rate_high", rate.high))
            for lane in lanes
        ]
        decay = [lane.params.get("weight_decay", settings.weight_decay) for lane in lanes]
        self._optimizer = LaneAdamW(list(self.model.parameters()), decay, self._rates)
        self._loss = torch.zeros(len(lanes), dtype=torch.float64, device=self._device)
        self._loss_steps = 0
        # A method that reads a value from the device makes the host wait, which a graph does not allow.
        self._is_captured = (
            settings.cuda_graph and self._device.type == "cuda" and getattr(self.method, "static", False)
        )
        self._captured: CapturedStep | None = None

    @abstractmethod
    def _lane_loss(self, items: Tensor) -> Tensor:
        """Compute the loss of each lane (lanes,) on a batch of item indices (lanes, rows)."""

    def train(self, epochs: int) -> None:
        """Train a number of epochs."""
        started_s = time.perf_counter()
        with _tf32(self.settings.precision == "tf32"):
            for _ in range(epochs):
                for items in self._epoch_items().split(self.settings.batch_size, dim=1):
                    self._step(items)
        self._add_time(started_s)

    def mean_loss(self) -> list[float]:
        """Return the mean training loss of each lane since the last call."""
        losses: list[float] = (self._loss / self._loss_steps).tolist()
        self._loss.zero_()
        self._loss_steps = 0
        return losses

    @torch.inference_mode()
    def cka(self) -> list[Tensor]:
        """Compute each lane's linear CKA of neighbouring layers, from input to output: (hidden layers + 1,) each.

        It is computed on the lane's first training items, without augmentation and dropout. The hidden layer of a
        contrastive model's projection head is not included.
        """
        started_s = time.perf_counter()
        n_rows = [min(CKA_ITEMS, len(items)) for items in self._train]
        padded = [
            items[torch.arange(max(n_rows), device=self._device).clamp(max=len(items) - 1)] for items in self._train
        ]
        x = self._inputs(torch.stack(padded))
        states = [x]

        def remember(layer: int, h: Tensor) -> Tensor:
            states.append(h)
            return h

        output = self.model(x, at_layer=remember)
        states = [*states[: len(self.settings.hidden) + 1], output]
        # One lane at a time, without the rows that pad it.
        found = [neighbour_cka([h[lane, :own] for h in states]) for lane, own in enumerate(n_rows)]
        self._add_time(started_s)
        return found

    def weights(self, lane: int) -> list[Tensor]:
        """Return a copy of a lane's parameters."""
        return [parameter.detach()[lane].clone() for parameter in self.model.parameters()]

    def standardization(self, lane: int) -> tuple[Tensor, Tensor]:
        """Return what a lane's inputs are shifted and then divided by: (features,) each."""
        return self._shift[lane, 0], self._scale[lane, 0]

    def embedded(self, lane: int, items: Tensor) -> Tensor:
        """Return a lane's standardised embeddings (items, features) of item indices (items,)."""
        x = self.embeddings.index_select(0, items)
        return (x - self._shift[lane]) / self._scale[lane] if self.settings.standardize else x

    @torch.no_grad()
    def restore(self, lane: int, weights: Sequence[Tensor]) -> None:
        """Restore a lane's parameters from a result of `weights`."""
        for parameter, saved in zip(self.model.parameters(), weights, strict=True):
            parameter[lane] = saved

    def keep(self, lanes: Sequence[int]) -> None:
        """Keep some of the lanes, given their positions, and free the tensors of the others."""
        for name in ("lanes", "device_s", "_train", "_rates"):
            setattr(self, name, [getattr(self, name)[lane] for lane in lanes])
        index = torch.tensor(lanes, dtype=torch.int64, device=self._device)
        for name in ("_shift", "_scale", "_deviation", "_loss"):
            setattr(self, name, getattr(self, name)[index])
        self._params = {name: values[index] for name, values in self._params.items()}
        self._augment.keep(lanes)
        self.model.keep(index)
        self._captured = None  # it refers to the old tensors
        self._optimizer.keep(list(self.model.parameters()), lanes)

    def release(self) -> None:
        """Free what only training needs: a captured step keeps its stack and the memory of a graph."""
        self._captured = None

    def _moments(self) -> tuple[Tensor, Tensor, Tensor]:
        """Return shift and scale of the inputs, and each feature's deviation after them: (lanes, 1, features) each."""
        moments = [torch.std_mean(self.embeddings[items].double(), dim=0, correction=0) for items in self._train]
        deviation = torch.stack([moment[0] for moment in moments]).float()[:, None]
        mean = torch.stack([moment[1] for moment in moments]).float()[:, None]
        if not self.settings.standardize:
            return torch.zeros_like(mean), torch.ones_like(mean), deviation
        scale = deviation.where(deviation > 0, 1.0)  # a constant feature stays constant
        return mean, scale, deviation / scale

    def _inputs(self, items: Tensor) -> Tensor:
        """Return the model's inputs (lanes, rows, features) for item indices (lanes, rows)."""
        x = self.embeddings.index_select(0, items.flatten()).view(*items.shape, -1)
        return (x - self._shift) / self._scale if self.settings.standardize else x

    def _outputs(self, x: Tensor, keep: Sequence[Tensor] | None = None, at_layer: AtLayer | None = None) -> Tensor:
        """Return the model's outputs in training: products in the settings' precision, the outputs in float32."""
        with torch.autocast(self._device.type, torch.bfloat16, enabled=self.settings.precision == "bfloat16"):
            outputs: Tensor = self.model(x, keep, at_layer)
        return outputs.float()

    def _epoch_items(self) -> Tensor:
        """Draw the items of an epoch in training order: (lanes, steps x batch size)."""
        n_used = self.steps_per_epoch * self.settings.batch_size
        rows = [
            items[torch.from_numpy(self._epoch_order(lane, n_used)).to(self._device)]
            for lane, items in enumerate(self._train)
        ]
        return torch.stack(rows)

    def _epoch_order(self, lane: int, n_used: int) -> Indices:
        """Draw the positions of an epoch's items among the lane's training items: (n_used,)."""
        return repeated_order(self._order_stream(lane), len(self._train[lane]), n_used, self.settings.batch_size)

    def _order_stream(self, lane: int) -> np.random.Generator:
        """Return the stream of a lane's item order in the epoch that begins now."""
        return stream(self.lanes[lane].seed, self._order, self.n_steps // self.steps_per_epoch)

    def _step(self, items: Tensor) -> None:
        half_cycle = self.settings.learning_rate.step_size_epochs * self.steps_per_epoch
        rates = [triangular(self.n_steps, low, high, half_cycle) for low, high in self._rates]
        if self._is_captured and self._captured is None:
            self._captured = CapturedStep(self._on_device)
            for draws in self._draws():
                draws.hold()
        for draws in self._draws():
            draws.begin(self.n_steps)
        (self._captured or self._on_device)(items, rates)
        self.n_steps += 1
        self._loss_steps += 1

    def _on_device(self, items: Tensor, rates: Sequence[float | Tensor]) -> None:
        """Take a step on the device, given item indices (lanes, rows) and each lane's learning rate."""
        lane_loss = self._lane_loss(items)
        lane_loss.sum().backward()  # lanes share no parameter: each gets its own gradient
        self._optimizer.step(rates)
        self._loss += lane_loss.detach()

    def _draws(self) -> list[LaneDraws]:
        """Return the random streams that a step draws from."""
        return [self._augment]

    def _add_time(self, started_s: float) -> None:
        if self._device.type == "cuda":
            torch.cuda.synchronize(self._device)
        share = (time.perf_counter() - started_s) / len(self.lanes)
        self.device_s = [seconds + share for seconds in self.device_s]


def repeated_order(rng: np.random.Generator, n_items: int, n_used: int, batch_size: int) -> Indices:
    """Draw positions in permutations, one after the other, so that the items of a batch differ: (n_used,).

    Every item is drawn equally often, up to one. If items could meet themselves where a batch reaches from one
    permutation into the next, pairs of a batch would mix an item with itself.

    Args:
        rng: Source of the draws.
        n_items: Number of training items, at least the batch size.
        n_used: Number of positions to draw.
        batch_size: Items per batch.
    """
    order = rng.permutation(n_items)
    while len(order) < n_used:
        begun = order[len(order) - len(order) % batch_size :]  # of a batch that the next permutation completes
        others = rng.permutation(np.setdiff1d(np.arange(n_items), begun))
        n_missing = -len(begun) % batch_size
        rest = rng.permutation(np.concatenate([begun, others[n_missing:]]))
        order = np.concatenate([order, others[:n_missing], rest])
    return order[:n_used]


@contextmanager
def _tf32(enabled: bool) -> Iterator[None]:
    """Compute CUDA's float32 products in TF32, forward and backward, if enabled."""
    before = torch.backends.cuda.matmul.allow_tf32
    torch.backends.cuda.matmul.allow_tf32 = enabled
    try:
        yield
    finally:
        torch.backends.cuda.matmul.allow_tf32 = before
