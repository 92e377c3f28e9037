"""Classifiers that a judge fits, in the place of a stack in training."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import binary_cross_entropy_with_logits, one_hot

from trainables.methods.references import Predict, Reference
from trainables.sampling.splits import Indices
from trainables.training.settings import Lane, Settings
from trainables.training.supervised import SupervisedStack

# Logits are cut here: with one class, its probability is 1.
_MOST = 1e4


class ReferenceStack(SupervisedStack):
    """The lanes of a `Reference`. They are fitted once, before the first evaluation; all evaluations give the same.

    A logit is that of a class's probability, so its sigmoid is the probability.
    """

    def __init__(
        self, embeddings: Tensor, labels: Tensor, lanes: Sequence[Lane], steps_per_epoch: int, settings: Settings
    ) -> None:
        # No layer is trained; what is used of the stack are its lanes, classes and standardised embeddings.
        super().__init__(embeddings, labels, lanes, steps_per_epoch, replace(settings, hidden=(), residual=False))
        self._fitted: list[Predict] = []
        self._predicted: list[dict[bytes, Tensor]] = [{} for _ in lanes]

    def train(self, epochs: int) -> None:
        """Fit the classifiers, if they are not yet."""
        if self._fitted:
            return
        started_s = time.perf_counter()
        method = self.method
        assert isinstance(method, Reference)
        assert method.judge is not None
        for place, lane in enumerate(self.lanes):
            classes = self.target(place, lane.split.train).cpu().numpy().astype(np.int64)
            params = {name: float(lane.params[name]) for name in method.hyperparameters}
            self._fitted.append(method.judge(self._rows(place, lane.split.train), classes, params))
        self._add_time(started_s)

    @torch.inference_mode()
    def predict(self, items: Sequence[Indices]) -> list[Tensor]:
        """Compute the logits of each lane on its items: (items, known classes of the lane)."""
        started_s = time.perf_counter()
        found = []
        for place, own in enumerate(items):
            known = self._predicted[place]
            if own.tobytes() not in known:
                scores = torch.from_numpy(self._fitted[place](self._rows(place, own)))
                known[own.tobytes()] = logits_of(scores.double()).float().to(self._device)
            found.append(known[own.tobytes()])
        self._add_time(started_s)
        return found

    def mean_loss(self) -> list[float]:
        """Return the mean binary cross-entropy of each lane on its training items."""
        logits = self.predict([lane.split.train for lane in self.lanes])
        losses = []
        for place, (own, lane) in enumerate(zip(logits, self.lanes, strict=True)):
            y = one_hot(self.target(place, lane.split.train), own.shape[1]).float()
            losses.append(float(binary_cross_entropy_with_logits(own, y)))
        return losses

    def cka(self) -> list[Tensor]:
        """Return nothing for each lane: there are no layers to compare."""
        return [torch.empty(0) for _ in self.lanes]

    def keep(self, lanes: Sequence[int]) -> None:
        """Keep some of the lanes, given their positions."""
        super().keep(lanes)
        self._fitted = [self._fitted[lane] for lane in lanes]
        self._predicted = [self._predicted[lane] for lane in lanes]

    def _rows(self, lane: int, items: Indices) -> np.ndarray:
        return self.embedded(lane, torch.from_numpy(items).to(self._device)).cpu().numpy()


def logits_of(scores: Tensor) -> Tensor:
    """Return the logit of each class's probability, of scores whose softmax are the probabilities (items, classes).

    It is the score less the logarithm of the sum of the others' exponentials, exact also where the probability is
    rounded to 0 or 1.
    """
    first = scores.argmax(-1, keepdim=True)
    # For all but the first class, the first is in that sum, and nothing cancels.
    log_probability = scores.log_softmax(-1)
    logits = log_probability - torch.log1p(-log_probability.exp())
    rest = scores.scatter(-1, first, -torch.inf).logsumexp(-1, keepdim=True)
    return logits.scatter(-1, first, scores.gather(-1, first) - rest).clamp(-_MOST, _MOST)
