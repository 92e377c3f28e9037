"""Trains the lanes of a pack in lockstep, on one device. Plain PyTorch: knows neither Ray nor the study file.

A lane is one trial. All lanes of a pack take the same number of steps with one stacked model; each has its own items,
initial weights, batch order and random streams, so that its result is that of its solo run.
"""

from __future__ import annotations

import math
from collections.abc import Generator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import binary_cross_entropy_with_logits

from trainables.classifier import LaneMLP
from trainables.draws import LaneDraws
from trainables.methods import Batch, Method
from trainables.metrics import (
    ROC_GRID,
    THRESHOLDS,
    Accuracies,
    WeightedAuc,
    accuracies,
    accuracy_curves,
    correct_at,
    weighted_auc,
)
from trainables.records import Curves, ItemResults
from trainables.splits import Indices, Split, stream

_EVALUATION_BYTES = 64 * 2**20
"""Memory of the gathered embeddings and hidden activations of one evaluation chunk."""


class TrainingError(RuntimeError):
    """A training that cannot give a result."""


@dataclass(frozen=True)
class Settings:
    """How every lane is trained and judged (Wolfe & Lundgaard 2019, sections 3.3 and 3.4).

    Attributes:
        epochs: Passes over the training items.
        batch_size: Items a step, even; the last, incomplete batch of an epoch is left out, so that all steps are alike.
        hidden: Width of each hidden layer.
        dropout: Share of hidden activations dropped, in [0, 1).
        weight_decay: AdamW's decoupled weight decay.
        learning_rate_low: Learning rate at the start and end of a cycle.
        learning_rate_high: Learning rate in its middle.
        step_size_epochs: Epochs from low to high; a cycle has two such steps.
        evaluate_every_epochs: Epochs between two points of the learning curves.
        standardize: Whether inputs are standardised with the mean and deviation of the lane's training items.
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
    threshold: float = 0.6


@dataclass(frozen=True)
class Lane:
    """One trial to train.

    Attributes:
        params: Hyperparameters of the pack's method.
        seed: Split seed, which keys every random stream of the lane.
        split: Its training and validation items.
    """

    params: Mapping[str, float]
    seed: int
    split: Split


@dataclass(frozen=True)
class Evaluation:
    """One point of the learning curves; every array is float64 (lanes,).

    Attributes:
        epoch: Epochs trained.
        loss: Mean training loss since the evaluation before.
        accuracy: Over all validation items.
        accuracy_known: Over items of known classes.
        accuracy_none: Over "none" items; NaN where there are none.
    """

    epoch: int
    loss: np.ndarray
    accuracy: np.ndarray
    accuracy_known: np.ndarray
    accuracy_none: np.ndarray


@dataclass(frozen=True)
class LaneResult:
    """What one lane gives.

    Attributes:
        metrics: Figures by name, and counts.
        curves: Learning, threshold and ROC curves.
        items: Per-item results on the validation items.
    """

    metrics: dict[str, float]
    curves: Curves
    items: ItemResults


def train(
    embeddings: Tensor, labels: Tensor, method: Method, lanes: Sequence[Lane], settings: Settings
) -> Generator[Evaluation, None, list[LaneResult]]:
    """Trains lanes of one method together, yielding at every evaluation and returning their results.

    Args:
        embeddings: float32 (items, features), on the device to train on.
        labels: int64 class of each item (items,), on the same device.
        method: What is done to every batch.
        lanes: The trials, all with the same number of training items.
        settings: Shared by all lanes.

    Yields:
        The evaluation after each `evaluate_every_epochs`, and after the last epoch.

    Raises:
        TrainingError: A lane's loss is not finite; lanes of different sizes; a batch larger than the training items.
    """
    pack = _Pack(embeddings, labels, method, lanes, settings)
    history = []
    for epoch in range(1, settings.epochs + 1):
        pack.train_epoch(epoch - 1)
        if epoch % settings.evaluate_every_epochs == 0 or epoch == settings.epochs:
            logits = pack.predict() if epoch == settings.epochs else None
            history.append(pack.evaluate(epoch, logits))
            yield history[-1]
    assert logits is not None  # epochs is at least 1
    return [pack.result(index, logits[index], history) for index in range(len(lanes))]


def triangular(step: int, low: float, high: float, half_cycle: int) -> float:
    """The triangular learning rate of a step: `low` at 0, `high` after `half_cycle` steps, `low` after two.

    References:
        Smith, "Cyclical Learning Rates for Training Neural Networks" (2017), https://arxiv.org/abs/1506.01186
    """
    position = (step / half_cycle) % 2
    return low + (high - low) * (1 - abs(1 - position))


class _Pack:
    """The state of a pack in training."""

    def __init__(
        self, embeddings: Tensor, labels: Tensor, method: Method, lanes: Sequence[Lane], settings: Settings
    ) -> None:
        sizes = {len(lane.split.train) for lane in lanes}
        if len(sizes) != 1:
            raise TrainingError(f"Lanes of a pack must have equally many training items, got {sorted(sizes)}.")
        self.n_train = sizes.pop()
        if settings.batch_size > self.n_train:
            raise TrainingError(
                f"The batch ({settings.batch_size}) must not exceed the training items ({self.n_train})."
            )
        self.embeddings, self.labels, self.method, self.lanes, self.settings = (
            embeddings, labels, method, lanes, settings,
        )  # fmt: skip
        self.device = embeddings.device
        seeds = [lane.seed for lane in lanes]
        n_labels = int(labels.max()) + 1
        train = torch.from_numpy(np.stack([lane.split.train for lane in lanes])).to(self.device)
        self.train = train
        self.known = [labels[items].unique() for items in train]  # label indices of each lane's classes
        self.n_classes = [len(known) for known in self.known]
        self.local = torch.full((len(lanes), n_labels), -1, device=self.device)  # label -> class of the lane, -1 "none"
        for index, known in enumerate(self.known):
            self.local[index, known] = torch.arange(len(known), device=self.device)
        widest = torch.arange(max(self.n_classes), device=self.device)
        counts = torch.tensor(self.n_classes, device=self.device).view(-1, 1, 1)
        self.is_class = (widest < counts).float()
        self.loss_weight = self.is_class / counts  # mean over the lane's own classes
        self.params = {
            name: torch.tensor([lane.params[name] for lane in lanes], device=self.device).view(-1, 1, 1)
            for name in method.hyperparameters
        }
        self.model = LaneMLP(embeddings.shape[1], settings.hidden, self.n_classes, seeds).to(self.device)
        self.optimizer = torch.optim.AdamW(
            self.model.parameters(),
            lr=settings.learning_rate_low,
            weight_decay=settings.weight_decay,
            fused=True,
        )
        self.order = [stream(lane.seed, "order") for lane in lanes]
        self.dropout = LaneDraws(seeds, "dropout", self.device)
        self.augment = LaneDraws(seeds, "augment", self.device)
        self.keep_rate = torch.full((len(lanes), 1, 1), 1 - settings.dropout, device=self.device)
        self.shift, self.scale = self._standardization()
        self.loss_sum = torch.zeros(len(lanes), dtype=torch.float64, device=self.device)
        self.loss_steps = 0

    def _standardization(self) -> tuple[Tensor | None, Tensor | None]:
        if not self.settings.standardize:
            return None, None
        moments = [torch.std_mean(self.embeddings[items].double(), dim=0) for items in self.train]
        deviation = torch.stack([moment[0] for moment in moments]).float()[:, None]
        mean = torch.stack([moment[1] for moment in moments]).float()[:, None]
        return mean, torch.where(deviation > 0, deviation, torch.ones_like(deviation))

    def _inputs(self, items: Tensor) -> Tensor:
        """Embeddings (lanes, rows, features) of item indices (lanes, rows)."""
        x = self.embeddings.index_select(0, items.flatten()).view(*items.shape, -1)
        return x if self.shift is None or self.scale is None else (x - self.shift) / self.scale

    def train_epoch(self, epoch: int) -> None:
        settings = self.settings
        steps = self.n_train // settings.batch_size
        used = steps * settings.batch_size
        orders = np.stack([rng.permutation(self.n_train)[:used] for rng in self.order])
        batches = self.train.gather(1, torch.from_numpy(orders).to(self.device)).split(settings.batch_size, dim=1)
        half_cycle = settings.step_size_epochs * steps
        for step, items in enumerate(batches, start=epoch * steps):
            rate = triangular(step, settings.learning_rate_low, settings.learning_rate_high, half_cycle)
            self.optimizer.param_groups[0]["lr"] = rate
            self._step(items)

    def _step(self, items: Tensor) -> None:
        targets = self.local.gather(1, self.labels[items])
        y = torch.zeros((*items.shape, self.is_class.shape[-1]), device=self.device)
        y.scatter_(2, targets[..., None], 1.0)
        batch = self.method.transform(Batch(self._inputs(items), y, self.is_class), self.params, self.augment)
        logits = self.model(batch.x, self._keep_masks(batch.x.shape[1]))
        loss = binary_cross_entropy_with_logits(logits, batch.y, reduction="none")
        lane_loss = (loss * self.loss_weight).sum((1, 2)) / batch.x.shape[1]
        self.optimizer.zero_grad(set_to_none=True)
        lane_loss.sum().backward()  # lanes share no parameter: each gets its own gradient
        self.optimizer.step()
        self.loss_sum += lane_loss.detach()
        self.loss_steps += 1

    def _keep_masks(self, rows: int) -> list[Tensor] | None:
        if self.settings.dropout == 0:
            return None
        kept = self.dropout.bernoulli(self.keep_rate, rows, sum(self.settings.hidden))
        return list((kept / self.keep_rate).split(self.settings.hidden, dim=2))

    @torch.inference_mode()
    def predict(self) -> list[Tensor]:
        """Logits of each lane on its validation items: (items, classes of the lane)."""
        logits = [
            torch.empty((len(lane.split.validation), width), device=self.device)
            for lane, width in zip(self.lanes, self.n_classes, strict=True)
        ]
        for start, chunk in self._validation_logits():
            for lane, width in enumerate(self.n_classes):
                target = logits[lane][start : start + chunk.shape[1]]
                target.copy_(chunk[lane, : len(target), :width])
        return logits

    def _validation_logits(self) -> Generator[tuple[int, Tensor], None, None]:
        """Chunks (first row, logits (lanes, rows, classes)); lanes with fewer items repeat their last one."""
        longest = max(len(lane.split.validation) for lane in self.lanes)
        row_bytes = 4 * len(self.lanes) * (self.embeddings.shape[1] + sum(self.settings.hidden))
        rows = max(1, _EVALUATION_BYTES // row_bytes)
        for start in range(0, longest, rows):
            chunk = [_padded(lane.split.validation, start, min(start + rows, longest)) for lane in self.lanes]
            yield start, self.model(self._inputs(torch.from_numpy(np.stack(chunk)).to(self.device)))

    @torch.inference_mode()
    def evaluate(self, epoch: int, logits: list[Tensor] | None) -> Evaluation:
        losses = (self.loss_sum / self.loss_steps).cpu().numpy()
        for lane, loss in zip(self.lanes, losses, strict=True):
            if not math.isfinite(loss):
                raise TrainingError(
                    f"The loss of {self.method.name} {dict(lane.params)} on split {lane.seed} is {loss} at epoch "
                    f"{epoch}. Lower the learning rate, or standardise the inputs."
                )
        self.loss_sum.zero_()
        self.loss_steps = 0
        predictions = self._predictions(logits)
        rows = []
        for index, (confidence, predicted) in enumerate(predictions):
            target = self._target(index)
            rows.append(accuracies(correct_at(confidence, predicted, target, self.settings.threshold), target))
        return Evaluation(
            epoch=epoch,
            loss=losses,
            accuracy=np.array([float(row.all) for row in rows]),
            accuracy_known=np.array([float(row.known) for row in rows]),
            accuracy_none=np.array([float(row.none) for row in rows]),
        )

    def _predictions(self, logits: list[Tensor] | None) -> list[tuple[Tensor, Tensor]]:
        """Confidence and predicted class of each lane's validation items; logits are kept only if given."""
        if logits is not None:
            return [_top(lane_logits) for lane_logits in logits]
        chunks: list[list[tuple[Tensor, Tensor]]] = [[] for _ in self.lanes]
        for start, chunk in self._validation_logits():
            for index, (lane, width) in enumerate(zip(self.lanes, self.n_classes, strict=True)):
                rows = len(lane.split.validation) - start
                chunks[index].append(_top(chunk[index, :rows, :width]))
        return [
            (
                torch.cat([confidence for confidence, _ in parts]),
                torch.cat([predicted for _, predicted in parts]),
            )
            for parts in chunks
        ]

    def _target(self, index: int) -> Tensor:
        validation = torch.from_numpy(self.lanes[index].split.validation).to(self.device)
        return self.local[index, self.labels[validation]]

    @torch.inference_mode()
    def result(self, index: int, logits: Tensor, history: Sequence[Evaluation]) -> LaneResult:
        target = self._target(index)
        confidence, predicted = _top(logits)
        correct = correct_at(confidence, predicted, target, self.settings.threshold)
        at_threshold = accuracies(correct, target)
        against_threshold = accuracy_curves(confidence, predicted, target)
        auc = weighted_auc(logits, target)
        validation = self.lanes[index].split.validation
        return LaneResult(
            metrics={
                "auc_weighted": auc.auc,
                "accuracy": float(at_threshold.all),
                "accuracy_known": float(at_threshold.known),
                "accuracy_none": float(at_threshold.none),
                "n_train": float(self.n_train),
                "n_validation": float(len(validation)),
                "n_known_classes": float(self.n_classes[index]),
                "n_none": float((target == -1).sum()),
            },
            curves=_curves(index, history, against_threshold, auc),
            items=ItemResults(
                item=validation.astype(np.int32),
                label=self.labels.cpu().numpy()[validation].astype(np.int32),
                known=(target >= 0).cpu().numpy(),
                predicted=self.known[index][predicted].cpu().numpy().astype(np.int32),
                confidence=confidence.cpu().numpy(),
                correct=correct.cpu().numpy(),
                auc_influence=auc.influence.float().cpu().numpy(),
            ),
        )


def _padded(items: Indices, start: int, stop: int) -> Indices:
    return items[np.minimum(np.arange(start, stop), len(items) - 1)]


def _top(logits: Tensor) -> tuple[Tensor, Tensor]:
    highest, predicted = logits.max(-1)
    return highest.sigmoid(), predicted


def _curves(index: int, history: Sequence[Evaluation], against: Accuracies, auc: WeightedAuc) -> Curves:
    def learning(name: str) -> np.ndarray:
        return np.array([getattr(point, name)[index] for point in history], np.float32)

    return Curves(
        epoch=np.array([point.epoch for point in history], np.float32),
        epoch_loss=learning("loss"),
        epoch_accuracy=learning("accuracy"),
        epoch_accuracy_known=learning("accuracy_known"),
        epoch_accuracy_none=learning("accuracy_none"),
        threshold=THRESHOLDS,
        threshold_accuracy=against.all.cpu().numpy().astype(np.float32),
        threshold_accuracy_known=against.known.cpu().numpy().astype(np.float32),
        threshold_accuracy_none=against.none.cpu().numpy().astype(np.float32),
        roc_fpr=ROC_GRID,
        roc_tpr=auc.roc_tpr.cpu().numpy().astype(np.float32),
    )
