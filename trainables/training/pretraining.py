"""Contrastive trials: the hidden layers are pretrained without labels, then evaluated by models trained on top of them.

Two models are trained on the frozen hidden layers, supervised like `control`: the classifier, whose metrics are the
trial's, and a linear probe. Pretraining uses the split's training items only, without those that early stopping holds
out.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field, replace

import numpy as np
import numpy.typing as npt

from trainables.methods.protocol import LANE_SETTINGS
from trainables.methods.registry import METHODS
from trainables.training.contrastive import ContrastiveStack
from trainables.training.engine import Training
from trainables.training.protocol import (
    Evaluation,
    LaneFailure,
    LaneResult,
    PackInputs,
    cka_metrics,
    diverged,
    drop,
    ready,
)
from trainables.training.supervised import SupervisedStack

# Metrics of the linear probe that a trial has too, as `probe_` and their name.
PROBED = ("auc_weighted", "accuracy", "accuracy_known", "accuracy_none", "ece_known", "ood_auroc")


@dataclass
class _Past:
    """The state of a lane's pretraining."""

    epochs: list[int] = field(default_factory=list)
    losses: list[float] = field(default_factory=list)
    cka: list[npt.NDArray[np.float32]] = field(default_factory=list)
    device_s: float = 0.0


class ContrastiveTraining:
    """A `LaneTraining` of a pack of contrastive lanes of one method; argument and errors as for `start_training`."""

    def __init__(self, inputs: PackInputs) -> None:
        progress, self._steps = ready(inputs)
        self._inputs, self._settings = inputs, inputs.settings
        self._stack = ContrastiveStack(inputs.embeddings, [one.lane for one in progress], self._steps, self._settings)
        self._members = list(range(len(progress)))
        self._past = [_Past() for _ in progress]
        self._outcome: dict[int, LaneFailure | None] = {}
        self._judges: tuple[Training, Training] | None = None
        self.epoch = 0

    @property
    def finished(self) -> bool:
        """Whether no lane is left to train."""
        if self._judges is None:
            return not self._members
        return all(judge.finished for judge in self._judges)

    @property
    def stacks(self) -> list[SupervisedStack]:
        """The classifiers in training; none while the hidden layers are pretrained."""
        return self._judges[0].stacks if self._judges else []

    def advance(self) -> Evaluation:
        """Train every lane to the next evaluation; during pretraining there are only losses."""
        n_pretraining = self._settings.pretraining.epochs
        if self._judges is None:
            if self._members:  # else every scout has failed
                every = self._settings.evaluate_every_epochs
                epochs = min(every - self.epoch % every, n_pretraining - self.epoch)
                self.epoch += epochs
                self._pretrain(epochs)
            if self.epoch == n_pretraining and self._members:
                self._judges = self._freeze()
            nothing = np.full(len(self._past), np.nan)
            losses = nothing.copy()
            losses[self._members] = [self._past[index].losses[-1] for index in self._members]
            return Evaluation(self.epoch, losses, *[nothing] * 5)
        classifier, probe = self._judges
        found = classifier.advance()  # without lanes once only the probe trains
        if not probe.finished:
            probe.advance()
        self.epoch = n_pretraining + found.epoch
        columns = (
            found.loss,
            found.accuracy,
            found.accuracy_known,
            found.accuracy_none,
            found.top1,
            found.auc_weighted,
        )
        return Evaluation(self.epoch, *map(self._spread, columns))

    def stop(self, lanes: Iterable[int]) -> None:
        """Remove lanes without a result, given their positions in the pack."""
        gone = set(lanes)
        places = [place for place, index in enumerate(self._members) if index in gone]
        if self._judges is None:
            self._outcome |= dict.fromkeys((self._members[place] for place in places), None)
            drop(self._members, self._stack, places)
        else:
            for judge in self._judges:
                judge.stop(places)

    def results(self) -> list[LaneResult | LaneFailure | None]:
        """Return each lane's result; None for one that was stopped from outside."""
        found: dict[int, LaneResult | LaneFailure | None] = dict(self._outcome)
        if self._judges is not None:
            pairs = zip(*(judge.results() for judge in self._judges), strict=True)
            for index, (classifier, probe) in zip(self._members, pairs, strict=True):
                found[index] = self._joined(self._past[index], classifier, probe)
        return [found[index] for index in range(len(self._past))]

    def _pretrain(self, epochs: int) -> None:
        """Pretrain, and add a point to every lane's curves; lanes that fail leave."""
        stack = self._stack
        stack.train(epochs)
        failing = []
        for place, (index, loss, cka) in enumerate(zip(self._members, stack.mean_loss(), stack.cka(), strict=True)):
            past = self._past[index]
            past.epochs.append(self.epoch)
            past.losses.append(loss)
            past.cka.append(cka.cpu().numpy().astype(np.float32))
            past.device_s = stack.device_s[place]
            failure = diverged(stack.lanes[place], loss, self.epoch)
            if failure is not None:
                self._outcome[index] = failure
                failing.append(place)
        drop(self._members, self._stack, failing)

    def _freeze(self) -> tuple[Training, Training]:
        """Return the classifiers and the linear probes, on the hidden layers as they are now."""
        settings = self._settings
        self._stack.release()
        lanes = []
        for index in self._members:
            given = self._inputs.lanes[index]
            params = {name: value for name, value in given.params.items() if name in LANE_SETTINGS}
            lanes.append(replace(given, method=METHODS["control"], params=params))

        def judge(stage: str, hidden: tuple[int, ...], evaluate_every_epochs: int) -> Training:
            own = replace(settings, hidden=hidden, residual=False, evaluate_every_epochs=evaluate_every_epochs)
            scores = None if stage == "probe_" else self._inputs.input_scores  # no record holds the probe's
            inputs = replace(self._inputs, lanes=lanes, settings=own, steps_per_epoch=self._steps, input_scores=scores)
            return Training(inputs, self._stack.trunk(), stage)

        every = settings.evaluate_every_epochs
        # The probe's learning curve is not recorded: without early stopping, only its end is evaluated.
        every_probe = every if settings.early_stopping else settings.epochs
        return judge("classifier_", settings.pretraining.classifier_hidden, every), judge("probe_", (), every_probe)

    def _spread(self, values: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
        """Spread the values of the lanes that went on over the whole pack."""
        spread = np.full(len(self._past), np.nan)
        spread[self._members] = values
        return spread

    def _joined(
        self, past: _Past, classifier: LaneResult | LaneFailure | None, probe: LaneResult | LaneFailure | None
    ) -> LaneResult | LaneFailure | None:
        """Return one lane's result: the classifier's, with the pretraining before it, and the probe's metrics."""
        for judged in (classifier, probe):
            if isinstance(judged, LaneFailure):
                return LaneFailure(f"on its frozen hidden layers, {judged.reason}")
        if not isinstance(classifier, LaneResult) or not isinstance(probe, LaneResult):
            return None
        n_pretraining = self._settings.pretraining.epochs
        curves, n_before = classifier.curves, len(past.epochs)
        nothing = np.full(n_before, np.nan, np.float32)
        cka = np.full((n_before + len(curves.epoch), len(past.cka[-1])), np.nan, np.float32)
        cka[:n_before] = past.cka
        return LaneResult(
            metrics={
                **classifier.metrics,
                "epochs": classifier.metrics["epochs"] + n_pretraining,
                **{f"probe_{name}": probe.metrics[name] for name in PROBED},
                **cka_metrics(past.cka[-1]),
            },
            curves=replace(
                curves,
                epoch=np.concatenate([np.array(past.epochs, np.float32), curves.epoch + n_pretraining]),
                epoch_loss=np.concatenate([np.array(past.losses, np.float32), curves.epoch_loss]),
                epoch_accuracy=np.concatenate([nothing, curves.epoch_accuracy]),
                epoch_accuracy_known=np.concatenate([nothing, curves.epoch_accuracy_known]),
                epoch_accuracy_none=np.concatenate([nothing, curves.epoch_accuracy_none]),
                epoch_top1=np.concatenate([nothing, curves.epoch_top1]),
                epoch_auc_weighted=np.concatenate([nothing, curves.epoch_auc_weighted]),
                epoch_cka=cka,
            ),
            items=classifier.items,
            device_s=past.device_s + classifier.device_s + probe.device_s,
        )
