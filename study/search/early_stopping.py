"""When a search stops a candidate early: successive halving within a training, racing over splits.

Both rules compare a candidate only with candidates of its method's earlier batches. These are all finished when the
candidate starts, so a decision does not depend on the number of workers or on their order. In return, the candidates of
a first batch are never stopped. A decision closer than rounding may differ on other hardware; each decision is written
down, and a study that goes on elsewhere keeps it.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence

import numpy as np
from scipy.stats import t as student

from study.config.schema import Pruning
from trainables.records.failures import Stop
from trainables.records.types import SEARCH, Candidate, Pack, SplitId, TrialConfig, TrialRecord

# The figure that stops a candidate, by epoch: the mean over the splits in training.
Evaluations = Mapping[int, float]

# Means of equal float32 figures differ by less than this; figures that differ by no more count as equal.
_ROUNDING = 1e-6


def rung(epoch: int, grace_epochs: int, reduction_factor: float) -> int:
    """Return the highest rung k that an epoch has reached, at grace * factor^k epochs; -1 before the first."""
    return -1 if epoch < grace_epochs else int(math.log(epoch / grace_epochs, reduction_factor) + 1e-9)


def falls_behind(value: float, others: Sequence[float], reduction_factor: float) -> bool:
    """Return whether a value at a rung is outside the best 1/factor of the values that reached the rung before.

    References:
        Li et al., "A System for Massively Parallel Hyperparameter Tuning" (2020), https://arxiv.org/abs/1810.05934;
        the rule is that of Ray Tune's `AsyncHyperBandScheduler`.
    """
    if not others:
        return False
    return value < float(np.percentile(others, 100 * (1 - 1 / reduction_factor))) - _ROUNDING


def is_beaten(scores: Sequence[float], best: Sequence[float], confidence: float, n_looks: int) -> bool:
    """Return whether a candidate's mean score is significantly below the best one's: a one-sided paired t test.

    Args:
        scores: Scores of the candidate, on the splits that both were trained on.
        best: Scores of the best candidate, on the same splits.
        confidence: 1 - probability of stopping a candidate that is as good as the best, over all looks together.
        n_looks: How often a candidate is tested; the error probability is divided among the looks.

    References:
        Birattari et al., "A Racing Algorithm for Configuring Metaheuristics" (2002),
        https://dl.acm.org/doi/10.5555/2955491.2955494
    """
    gaps = np.subtract(best, scores)
    if len(gaps) < 2 or gaps.mean() <= 0:
        return False
    error = float(gaps.std(ddof=1)) / math.sqrt(len(gaps))
    if error < _ROUNDING:  # equal gaps, of one item each for instance: no spread to judge by
        return False
    return bool(gaps.mean() > student.ppf(1 - (1 - confidence) / n_looks, len(gaps) - 1) * error)


def in_force(stops: Iterable[Stop], settings: Pruning, metric: str) -> list[Stop]:
    """Return the stops of earlier runs that still hold: by a rule that is on, judged by the present objective."""
    return [stop for stop in stops if getattr(settings, stop.rule) is not None and stop.metric == metric]


class Stopping:
    """The early stopping of one search, that of a method on one split, and the candidates that it has stopped.

    Args:
        metric: The study's objective.
        n_epochs: Epochs of a whole training, by objective.
        splits: Inner splits of the search.
        stops: Candidates stopped by earlier runs. Those that `in_force` leaves out are trained again.
    """

    def __init__(
        self,
        settings: Pruning,
        metric: str,
        n_epochs: Mapping[str, int],
        splits: Sequence[SplitId],
        stops: Iterable[Stop] = (),
    ) -> None:
        self.settings = settings
        self.metric = metric
        self.stops = {stop.candidate: stop for stop in in_force(stops, settings, metric)}
        self._n_epochs, self._splits = n_epochs, tuple(splits)
        self._curves: dict[TrialConfig, Evaluations] = {}

    def learn(self, records: Iterable[TrialRecord]) -> None:
        """Remember the learning curves of recorded trials."""
        if self.settings.asha is not None:
            for record in records:
                values = getattr(record.curves, f"epoch_{self.metric}").tolist()
                self._curves[record.config] = dict(zip(map(int, record.curves.epoch), values, strict=True))

    def at_rung(
        self, pack: Pack, evaluations: Evaluations, peers: Sequence[Candidate], missing: Sequence[SplitId]
    ) -> Stop | None:
        """Return ASHA's stop at the latest evaluation of a pack in training; None where the candidate goes on.

        Args:
            pack: The pack.
            evaluations: Evaluations of its training so far, at least one.
            peers: Candidates of its method's earlier batches.
            missing: The candidate's splits without a record, including those of the pack.
        """
        asha, epoch = self.settings.asha, max(evaluations)
        n_epochs = self._n_epochs[pack.candidate.objective]
        if asha is None or epoch == n_epochs:
            return None
        rungs = [rung(at, asha.grace_epochs, asha.reduction_factor) for at in sorted(evaluations)]
        if rungs[-1] < 0 or rungs[-1] in rungs[:-1]:  # judged once per rung, at the first evaluation there
            return None
        others = [value for peer in peers if (value := self._value(peer, pack.splits, epoch)) is not None]
        if not falls_behind(evaluations[epoch], others, asha.reduction_factor):
            return None
        stop = self.stops[pack.candidate] = Stop(
            phase=pack.phase,
            candidate=pack.candidate,
            splits=tuple(missing),
            rule="asha",
            metric=self.metric,
            value=evaluations[epoch],
            n_epochs_saved=len(missing) * n_epochs - len(pack.splits) * epoch,
            n_epochs_planned=len(self._splits) * n_epochs,
            evaluated_splits=pack.splits,
            evaluations=tuple(sorted(evaluations.items())),
        )
        return stop

    def in_race(
        self, phase: str, candidate: Candidate, scores: Mapping[SplitId, float], best: Mapping[SplitId, float]
    ) -> Stop | None:
        """Return racing's stop between two packs of a candidate; None where the candidate goes on.

        `scores` has a score for each split that the candidate was trained on, `best` those of its method's best
        candidate on every split.
        """
        racing, met = self.settings.racing, sorted(scores)
        if racing is None or not met:
            return None
        n_looks = max(1, math.ceil(len(self._splits) / racing.splits_at_once) - 1)
        if not is_beaten([scores[s] for s in met], [best[s] for s in met], racing.confidence, n_looks):
            return None
        missing = tuple(split for split in self._splits if split not in scores)
        n_epochs = self._n_epochs[candidate.objective]
        stop = self.stops[candidate] = Stop(
            phase=phase,
            candidate=candidate,
            splits=missing,
            rule="racing",
            metric=self.metric,
            value=sum(scores.values()) / len(scores),
            n_epochs_saved=len(missing) * n_epochs,
            n_epochs_planned=len(self._splits) * n_epochs,
        )
        return stop

    def _value(self, peer: Candidate, splits: tuple[SplitId, ...], epoch: int) -> float | None:
        """Return a peer's figure on the same splits at the same epoch; None where it was not evaluated."""
        stop = self.stops.get(peer)
        if stop is not None and stop.evaluated_splits == splits:
            return dict(stop.evaluations).get(epoch)
        curves = [self._curves.get(TrialConfig(SEARCH, peer, split), {}).get(epoch) for split in splits]
        values = [value for value in curves if value is not None]
        return sum(values) / len(values) if len(values) == len(splits) else None
