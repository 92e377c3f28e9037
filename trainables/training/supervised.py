"""Supervised training of a stack, with one sigmoid per class and binary cross-entropy, and its predictions."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import binary_cross_entropy_with_logits

from trainables.methods.protocol import Batch
from trainables.sampling.splits import Indices
from trainables.training.draws import LaneDraws
from trainables.training.model import LaneMLP, Layer, Trunk
from trainables.training.settings import Lane, Settings
from trainables.training.stack import Stack

# Memory of the gathered embeddings and hidden activations of one chunk of predictions.
_PREDICTION_BYTES = 64 * 2**20


class SupervisedStack(Stack):
    """Classifiers in training.

    Args:
        embeddings: float32 (items, features), on the device to train on.
        labels: int64 class of each item (items,), on the same device.
        lanes: The lanes.
        steps_per_epoch: Steps per epoch.
        settings: Shared by all lanes.
        trunk: Frozen layers between the embeddings and the classifiers, with the same lanes; None for no such layers.
        stage: Prefix of the purpose of every random stream.

    Attributes:
        known: Label indices of each lane's known classes, sorted.
    """

    def __init__(
        self,
        embeddings: Tensor,
        labels: Tensor,
        lanes: Sequence[Lane],
        steps_per_epoch: int,
        settings: Settings,
        trunk: Trunk | None = None,
        stage: str = "",
    ) -> None:
        self.labels, self._trunk = labels, trunk
        self.known = [labels[torch.from_numpy(lane.split.train).to(labels.device)].unique() for lane in lanes]
        self._widths = [len(known) for known in self.known]
        seeds = [lane.seed for lane in lanes]
        n_features = embeddings.shape[1] if trunk is None else trunk.width
        n_residual = len(settings.hidden) if settings.residual else 0
        model = LaneMLP(n_features, settings.hidden, self._widths, seeds, n_residual, f"{stage}weights")
        super().__init__(embeddings, lanes, steps_per_epoch, settings, model, stage)
        # Class of the lane for each label; -1 where it has no training item.
        self._local = torch.full((len(lanes), int(labels.max()) + 1), -1, device=self._device)
        for row, known in zip(self._local, self.known, strict=True):
            row[known] = torch.arange(len(known), device=self._device)
        counts = torch.tensor(self._widths, device=self._device).view(-1, 1, 1)
        self._is_class = (torch.arange(max(self._widths), device=self._device) < counts).float()
        keep = [1 - lane.params.get("dropout", settings.dropout) for lane in lanes]
        self._keep_rate = torch.tensor(keep, device=self._device).view(-1, 1, 1)
        self._dropout = LaneDraws(seeds, f"{stage}dropout", self._device)

    @torch.inference_mode()
    def predict(self, items: Sequence[Indices]) -> list[Tensor]:
        """Compute the logits of each lane on its items: (items, known classes of the lane)."""
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
        """Return the class of each item for a lane, -1 for "none": (items,)."""
        return self._local[lane, self.labels[torch.from_numpy(items).to(self._device)]]

    def layers(self, lane: int) -> list[Layer]:
        """Return a copy of the layers between a lane's standardised embeddings and its logits, the trunk's first."""
        return [*(self._trunk.layers(lane) if self._trunk else ()), *self.model.layers(lane)]

    @property
    def is_on_a_trunk(self) -> bool:
        """Whether the inputs of the classifiers are a trunk's activations instead of embeddings."""
        return self._trunk is not None

    def keep(self, lanes: Sequence[int]) -> None:
        """Keep some of the lanes, given their positions, and free the tensors of the others."""
        super().keep(lanes)
        self.known = [self.known[lane] for lane in lanes]
        self._widths = [self._widths[lane] for lane in lanes]
        index = torch.tensor(lanes, dtype=torch.int64, device=self._device)
        for name in ("_local", "_is_class", "_keep_rate"):
            setattr(self, name, getattr(self, name)[index])
        self._dropout.keep(lanes)
        if self._trunk is not None:
            self._trunk.keep(index)

    def _inputs(self, items: Tensor) -> Tensor:
        x = super()._inputs(items)
        return x if self._trunk is None else self._trunk(x)

    def _epoch_order(self, lane: int, n_used: int) -> Indices:
        if not self.settings.class_balanced:
            return super()._epoch_order(lane, n_used)
        classes = self._local[lane][self.labels[self._train[lane]]].cpu().numpy()
        return balanced_order(self._order_stream(lane), classes, n_used, self.settings.batch_size)

    def _lane_loss(self, items: Tensor) -> Tensor:
        targets = self._local.gather(1, self.labels[items])
        y = torch.zeros((*items.shape, self._is_class.shape[-1]), device=self._device)
        y.scatter_(2, targets[..., None], 1.0)
        plain = Batch(self._inputs(items), y, self._is_class, self._deviation, len(self.settings.hidden))
        batch = self.method.transform(plain, self._params, self._augment)
        keep = self._keep_masks(batch.x.shape[1])
        logits = self._outputs(batch.x, keep, batch.at_layer)[:, : batch.y.shape[1]]
        return _mean_loss(logits, batch.y, self._is_class)

    def _draws(self) -> list[LaneDraws]:
        return [*super()._draws(), self._dropout]

    def _keep_masks(self, rows: int) -> list[Tensor]:
        kept = self._dropout.bernoulli(self._keep_rate, rows, sum(self.settings.hidden))
        return list((kept / self._keep_rate).split(self.settings.hidden, dim=2))

    def _chunks(self, items: Sequence[Indices]) -> Iterator[tuple[int, Tensor]]:
        """Yield chunks (first row, logits (lanes, rows, classes)); a lane with fewer items repeats its last one."""
        longest = max(len(own) for own in items)
        row_bytes = 4 * len(self.lanes) * (self.embeddings.shape[1] + sum(self.settings.hidden))
        n_rows = max(1, _PREDICTION_BYTES // row_bytes)
        for start in range(0, longest, n_rows):
            wanted = np.arange(start, min(start + n_rows, longest))
            rows = np.stack([own[np.minimum(wanted, len(own) - 1)] for own in items])
            yield start, self.model(self._inputs(torch.from_numpy(rows).to(self._device)))


def _mean_loss(logits: Tensor, y: Tensor, is_class: Tensor) -> Tensor:
    """Compute the binary cross-entropy of each lane, mean over rows and the lane's classes: (lanes,)."""
    loss = binary_cross_entropy_with_logits(logits, y, reduction="none")
    weight = is_class / is_class.sum(-1, keepdim=True)
    return (loss * weight).sum((1, 2)) / y.shape[1]


def balanced_order(rng: np.random.Generator, classes: Indices, n_used: int, batch_size: int) -> Indices:
    """Draw positions so that classes are equally likely and the two items of a pair differ: (n_used,).

    Args:
        rng: Source of the draws.
        classes: Class of each training item (items,).
        n_used: Number of positions to draw, a multiple of the batch size.
        batch_size: Items per batch; its first half is paired with its second.
    """
    weight = 1 / np.bincount(classes)[classes]
    drawn = rng.choice(len(classes), n_used, p=weight / weight.sum()).reshape(-1, 2, batch_size // 2)
    same = drawn[:, 0] == drawn[:, 1]
    drawn[:, 1][same] = (drawn[:, 1][same] + 1) % len(classes)
    return drawn.reshape(-1)
