"""A stack: lanes of one method, trained as one model whose every tensor has a leading lane axis."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import binary_cross_entropy_with_logits

from trainables.batch import Batch, Method
from trainables.classifier import LaneMLP
from trainables.draws import LaneDraws
from trainables.optimizer import LaneAdamW
from trainables.splits import Indices, Split, stream

_PREDICTION_BYTES = 64 * 2**20
"""Memory of the gathered embeddings and hidden activations of one chunk of predictions."""


@dataclass(frozen=True)
class Settings:
    """How every lane is trained and judged (Wolfe & Lundgaard 2019, sections 3.3 and 3.4).

    Attributes:
        epochs: Passes over the training items.
        batch_size: Items a step, even; the last, incomplete batch of an epoch is left out, so that steps are alike.
        hidden: Width of each hidden layer.
        dropout: Share of hidden activations dropped, in [0, 1).
        weight_decay: AdamW's decoupled weight decay.
        learning_rate_low: Learning rate at the start and end of a cycle.
        learning_rate_high: Learning rate in its middle.
        step_size_epochs: Epochs from low to high; a cycle has two such steps.
        evaluate_every_epochs: Epochs between two points of the learning curves.
        standardize: Whether inputs are standardised with the mean and deviation of the lane's training items.
        class_balanced: Whether an epoch draws items, with replacement, so that its classes are equally likely.
        early_stopping_fraction: Share of the training items held out to stop a lane and choose its weights; 0 for none.
        early_stopping_patience: Evaluations without a lower held-out loss after which a lane stops.
        threshold: Confidence below which "none" is predicted, in [0, 1].
    """

    epochs: int = 576
    batch_size: int = 128
    hidden: tuple[int, ...] = (250, 250)
    dropout: float = 0.3
    weight_decay: float = 1e-4
    learning_rate_low: float = 3e-4
    learning_rate_high: float = 3e-3
    step_size_epochs: int = 12
    evaluate_every_epochs: int = 24
    standardize: bool = False
    class_balanced: bool = False
    early_stopping_fraction: float = 0.0
    early_stopping_patience: int = 3
    threshold: float = 0.6


@dataclass(frozen=True)
class Lane:
    """One trial to train.

    Attributes:
        method: What is done to its batches.
        params: The method's hyperparameters, and any of `batch.LANE_SETTINGS`, which override the settings.
        seed: Split seed, which keys every random stream of the lane.
        split: Its training and validation items.
    """

    method: Method
    params: Mapping[str, float]
    seed: int
    split: Split

    def setting(self, name: str, settings: Settings) -> float:
        """One of `batch.LANE_SETTINGS`, as this lane has it."""
        return self.params.get(name, getattr(settings, name))


def triangular(step: int, low: float, high: float, half_cycle: int) -> float:
    """The triangular learning rate of a step: `low` at 0, `high` after `half_cycle` steps, `low` after two.

    References:
        Smith, "Cyclical Learning Rates for Training Neural Networks" (2017), https://arxiv.org/abs/1506.01186
    """
    position = (step / half_cycle) % 2
    return low + (high - low) * (1 - abs(1 - position))


class Stack:
    """Lanes of one method in training.

    Args:
        embeddings: float32 (items, features), on the device to train on.
        labels: int64 class of each item (items,), on the same device.
        lanes: The lanes; their training items may differ in number.
        steps_per_epoch: Steps of an epoch, the same for every lane. A lane with fewer items than that takes them again.
        settings: Shared by all lanes.

    Attributes:
        lanes: The lanes still in training.
        known: Label indices of each lane's known classes, sorted.
        device_s: Each lane's share of the time spent so far.
        n_steps: Steps taken.
    """

    def __init__(
        self, embeddings: Tensor, labels: Tensor, lanes: Sequence[Lane], steps_per_epoch: int, settings: Settings
    ) -> None:
        self.embeddings, self.labels, self.settings = embeddings, labels, settings
        self.lanes = list(lanes)
        self.method = lanes[0].method
        self.steps_per_epoch = steps_per_epoch
        self.n_steps = 0
        self.device_s = [0.0] * len(lanes)
        self._device = embeddings.device
        self._train = [torch.from_numpy(lane.split.train).to(self._device) for lane in lanes]
        self.known = [labels[items].unique() for items in self._train]
        self._widths = [len(known) for known in self.known]
        # Class of the lane for each label; -1 where it has no training item.
        self._local = torch.full((len(lanes), int(labels.max()) + 1), -1, device=self._device)
        for row, known in zip(self._local, self.known, strict=True):
            row[known] = torch.arange(len(known), device=self._device)
        counts = torch.tensor(self._widths, device=self._device).view(-1, 1, 1)
        self._is_class = (torch.arange(max(self._widths), device=self._device) < counts).float()
        self._params = {
            name: torch.tensor([lane.params[name] for lane in lanes], device=self._device).view(-1, 1, 1)
            for name in self.method.hyperparameters
        }
        keep = [1 - lane.setting("dropout", settings) for lane in lanes]
        self._keep_rate = torch.tensor(keep, device=self._device).view(-1, 1, 1)
        self._shift, self._scale, self._deviation = self._moments()
        seeds = [lane.seed for lane in lanes]
        self._order = [stream(seed, "order") for seed in seeds]
        self._dropout = LaneDraws(seeds, "dropout", self._device)
        self._augment = LaneDraws(seeds, "augment", self._device)
        self.model = LaneMLP(embeddings.shape[1], settings.hidden, self._widths, seeds).to(self._device)
        self._rates = [
            (lane.setting("learning_rate_low", settings), lane.setting("learning_rate_high", settings))
            for lane in lanes
        ]
        decay = [lane.setting("weight_decay", settings) for lane in lanes]
        self._optimizer = LaneAdamW(list(self.model.parameters()), decay, self._rates)
        self._loss = torch.zeros(len(lanes), dtype=torch.float64, device=self._device)
        self._loss_steps = 0

    def train(self, epochs: int) -> None:
        """Trains some epochs."""
        started_s = time.perf_counter()
        for _ in range(epochs):
            for items in self._epoch_items().split(self.settings.batch_size, dim=1):
                self._step(items)
        self._add_time(started_s)

    def mean_loss(self) -> list[float]:
        """Mean training loss of each lane since this was last asked."""
        losses: list[float] = (self._loss / self._loss_steps).tolist()
        self._loss.zero_()
        self._loss_steps = 0
        return losses

    @torch.inference_mode()
    def predict(self, items: Sequence[Indices]) -> list[Tensor]:
        """Logits of each lane on items of its own: (items, known classes of the lane).

        Args:
            items: Item indices of each lane.
        """
        started_s = time.perf_counter()
        logits = [
            torch.empty((len(own), width), device=self._device) for own, width in zip(items, self._widths, strict=True)
        ]
        for start, chunk in self._chunks(items):
            for lane, width in enumerate(self._widths):
                target = logits[lane][start : start + chunk.shape[1]]
                target.copy_(chunk[lane, : len(target), :width])
        self._add_time(started_s)
        return logits

    def target(self, lane: int, items: Indices) -> Tensor:
        """Class of each item for a lane, -1 for "none": (items,)."""
        return self._local[lane, self.labels[torch.from_numpy(items).to(self._device)]]

    def weights(self, lane: int) -> list[Tensor]:
        """A copy of a lane's parameters."""
        return [parameter.detach()[lane].clone() for parameter in self.model.parameters()]

    def standardization(self, lane: int) -> tuple[Tensor, Tensor]:
        """What a lane's inputs are shifted and then divided by: (features,) each."""
        return self._shift[lane, 0], self._scale[lane, 0]

    @torch.no_grad()
    def restore(self, lane: int, weights: Sequence[Tensor]) -> None:
        """Puts parameters back that `weights` gave."""
        for parameter, saved in zip(self.model.parameters(), weights, strict=True):
            parameter[lane] = saved

    def keep(self, lanes: Sequence[int]) -> None:
        """Goes on with some of the lanes, given their places until now; the others' tensors are let go."""
        for name in ("lanes", "known", "device_s", "_train", "_widths", "_order", "_rates"):
            setattr(self, name, [getattr(self, name)[lane] for lane in lanes])
        index = torch.tensor(lanes, dtype=torch.int64, device=self._device)
        for name in ("_local", "_is_class", "_keep_rate", "_shift", "_scale", "_deviation", "_loss"):
            setattr(self, name, getattr(self, name)[index])
        self._params = {name: values[index] for name, values in self._params.items()}
        self._dropout.keep(lanes)
        self._augment.keep(lanes)
        self.model.keep(index)
        self._optimizer.keep(list(self.model.parameters()), lanes)

    def _moments(self) -> tuple[Tensor, Tensor, Tensor]:
        """Shift and scale of the inputs, and each feature's deviation after them: (lanes, 1, features) each."""
        moments = [torch.std_mean(self.embeddings[items].double(), dim=0, correction=0) for items in self._train]
        deviation = torch.stack([moment[0] for moment in moments]).float()[:, None]
        mean = torch.stack([moment[1] for moment in moments]).float()[:, None]
        if not self.settings.standardize:
            return torch.zeros_like(mean), torch.ones_like(mean), deviation
        scale = deviation.where(deviation > 0, 1.0)  # a constant feature stays one
        return mean, scale, deviation / scale

    def _inputs(self, items: Tensor) -> Tensor:
        """Embeddings (lanes, rows, features) of item indices (lanes, rows)."""
        x = self.embeddings.index_select(0, items.flatten()).view(*items.shape, -1)
        return (x - self._shift) / self._scale if self.settings.standardize else x

    def _epoch_items(self) -> Tensor:
        """The items of an epoch in training order: (lanes, steps x batch size)."""
        n_used = self.steps_per_epoch * self.settings.batch_size
        rows = []
        for rng, items, labels in zip(self._order, self._train, self._local, strict=True):
            if self.settings.class_balanced:
                order = _balanced(rng, labels[self.labels[items]].cpu().numpy(), n_used, self.settings.batch_size)
            else:
                rounds = -(-n_used // len(items))
                order = np.concatenate([rng.permutation(len(items)) for _ in range(rounds)])[:n_used]
            rows.append(items[torch.from_numpy(order).to(self._device)])
        return torch.stack(rows)

    def _step(self, items: Tensor) -> None:
        targets = self._local.gather(1, self.labels[items])
        y = torch.zeros((*items.shape, self._is_class.shape[-1]), device=self._device)
        y.scatter_(2, targets[..., None], 1.0)
        plain = Batch(self._inputs(items), y, self._is_class, self._deviation)
        batch = self.method.transform(plain, self._params, self._augment)
        keep = self._keep_masks(batch.x.shape[1])
        logits = self.model(batch.x, keep, batch.at_layer)[:, : batch.y.shape[1]]
        lane_loss = _mean_loss(logits, batch.y, self._is_class)
        lane_loss.sum().backward()  # lanes share no parameter: each gets its own gradient
        half_cycle = self.settings.step_size_epochs * self.steps_per_epoch
        self._optimizer.step([triangular(self.n_steps, low, high, half_cycle) for low, high in self._rates])
        self.n_steps += 1
        self._loss += lane_loss.detach()
        self._loss_steps += 1

    def _keep_masks(self, rows: int) -> list[Tensor]:
        kept = self._dropout.bernoulli(self._keep_rate, rows, sum(self.settings.hidden))
        return list((kept / self._keep_rate).split(self.settings.hidden, dim=2))

    def _chunks(self, items: Sequence[Indices]) -> Iterator[tuple[int, Tensor]]:
        """Chunks (first row, logits (lanes, rows, classes)); a lane with fewer items repeats its last one."""
        longest = max(len(own) for own in items)
        row_bytes = 4 * len(self.lanes) * (self.embeddings.shape[1] + sum(self.settings.hidden))
        n_rows = max(1, _PREDICTION_BYTES // row_bytes)
        for start in range(0, longest, n_rows):
            wanted = np.arange(start, min(start + n_rows, longest))
            rows = np.stack([own[np.minimum(wanted, len(own) - 1)] for own in items])
            yield start, self.model(self._inputs(torch.from_numpy(rows).to(self._device)))

    def _add_time(self, started_s: float) -> None:
        if self._device.type == "cuda":
            torch.cuda.synchronize(self._device)
        share = (time.perf_counter() - started_s) / len(self.lanes)
        self.device_s = [seconds + share for seconds in self.device_s]


def _mean_loss(logits: Tensor, y: Tensor, is_class: Tensor) -> Tensor:
    """Binary cross-entropy of each lane, mean over rows and its own classes: (lanes,)."""
    loss = binary_cross_entropy_with_logits(logits, y, reduction="none")
    weight = is_class / is_class.sum(-1, keepdim=True)
    return (loss * weight).sum((1, 2)) / y.shape[1]


def _balanced(rng: np.random.Generator, classes: Indices, n_used: int, batch_size: int) -> Indices:
    """Positions drawn so that classes are equally likely; the two items of a pair are different ones."""
    weight = 1 / np.bincount(classes)[classes]
    drawn = rng.choice(len(classes), n_used, p=weight / weight.sum()).reshape(-1, 2, batch_size // 2)
    same = drawn[:, 0] == drawn[:, 1]
    drawn[:, 1][same] = (drawn[:, 1][same] + 1) % len(classes)
    return drawn.reshape(-1)
