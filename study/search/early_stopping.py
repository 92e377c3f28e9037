"""When a search gives a candidate up: successive halving within a training, racing over splits.

Both compare a candidate with those of its method's earlier batches only. These are all finished when the candidate
starts, so what is decided depends neither on the number of workers nor on who was first. The price: a first batch is
never stopped. Where a decision hangs by less than rounding, other hardware may decide otherwise; each is written down,
and a study that goes on elsewhere keeps to it.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence

import numpy as np
from scipy.stats import t as student

from study.config.schema import Pruning
from trainables.packs.pack import Pack
from trainables.records.failures import Stop, judged_by
from trainables.records.types import Candidate, TrialConfig, TrialRecord

Evaluations = Mapping[int, float]

"""What a candidate was judged by, by epoch: the mean over its splits."""

_ROUNDING = 1e-6

"""Means of equal float32 figures differ by less; what differs by no more is equal."""


def rung(epoch: int, grace_epochs: int, reduction_factor: float) -> int:
    """Number of the highest rung that an epoch has reached, -1 before the first: rung k is at grace * factor^k."""
    return -1 if epoch < grace_epochs else int(math.log(epoch / grace_epochs, reduction_factor) + 1e-9)


def falls_behind(value: float, others: Sequence[float], reduction_factor: float) -> bool:
    """Whether a value at a rung is outside the best 1/factor of those that reached it before.

    References:
        Li et al., "A System for Massively Parallel Hyperparameter Tuning" (2020), https://arxiv.org/abs/1810.05934;
        the rule is that of Ray Tune's `AsyncHyperBandScheduler`.
    """
    if not others:
        return False
    return value < float(np.percentile(others, 100 * (1 - 1 / reduction_factor))) - _ROUNDING


def is_beaten(scores: Sequence[float], best: Sequence[float], confidence: float, n_looks: int) -> bool:
    """Whether a candidate's mean score is below the best one's beyond doubt: a one-sided paired t test.

    Args:
        scores: Of the candidate, on the splits that both have met.
        best: Of the best candidate, on the same splits.
        confidence: That it is not given up wrongly, over all looks together.
        n_looks: How often a candidate is looked at; each takes its share of the doubt.

    References:
        Birattari et al., "A Racing Algorithm for Configuring Metaheuristics" (2002),
        https://dl.acm.org/doi/10.5555/2955491.2955494
    """
    gaps = np.subtract(best, scores)
    if len(gaps) < 2 or gaps.mean() <= 0:
        return False
    error = float(gaps.std(ddof=1)) / math.sqrt(len(gaps))
    if error < _ROUNDING:  # gaps of one item each, say: a spread of nothing proves nothing
        return False
    return bool(gaps.mean() > student.ppf(1 - (1 - confidence) / n_looks, len(gaps) - 1) * error)


class Stopping:
    """The early stopping of one search phase, and what it has stopped.

    Args:
        settings: The study file's rules.
        metric: The study's objective; ASHA goes by it where the engine evaluates it on the way, else by accuracy.
        n_epochs: Epochs of a whole training, by objective.
        splits: Split seeds of the phase.
        stops: Candidates given up before; those of a rule that is off now are not.
    """

    def __init__(
        self,
        settings: Pruning,
        metric: str,
        n_epochs: Mapping[str, int],
        splits: Sequence[int],
        stops: Iterable[Stop] = (),
    ) -> None:
        self.settings = settings
        self.metric = judged_by(metric)
        self.stops = {stop.candidate: stop for stop in stops if getattr(settings, stop.rule) is not None}
        self._n_epochs, self._splits = n_epochs, tuple(splits)
        self._curves: dict[TrialConfig, Evaluations] = {}

    def learn(self, records: Iterable[TrialRecord]) -> None:
        """Takes note of the learning curves of recorded trials."""
        if self.settings.asha is not None:
            for record in records:
                values = getattr(record.curves, f"epoch_{self.metric}").tolist()
                self._curves[record.config] = dict(zip(map(int, record.curves.epoch), values, strict=True))

    def at_rung(
        self, pack: Pack, evaluations: Evaluations, peers: Sequence[Candidate], missing: Sequence[int]
    ) -> Stop | None:
        """ASHA's decision at the latest evaluation of a pack in training.

        Args:
            pack: The pack.
            evaluations: Of its training so far, at least one.
            peers: Candidates of its method's earlier batches.
            missing: The candidate's splits without a record, the pack's among them.
        """
        asha, epoch = self.settings.asha, max(evaluations)
        n_epochs = self._n_epochs[pack.candidate.objective]
        if asha is None or epoch == n_epochs:
            return None
        rungs = [rung(at, asha.grace_epochs, asha.reduction_factor) for at in sorted(evaluations)]
        if rungs[-1] < 0 or rungs[-1] in rungs[:-1]:  # judged once a rung, at the first evaluation there
            return None
        others = [value for peer in peers if (value := self._value(peer, pack.splits, epoch)) is not None]
        if not falls_behind(evaluations[epoch], others, asha.reduction_factor):
            return None
        return self._stop(
            Stop(
                phase=pack.phase,
                candidate=pack.candidate,
                splits=tuple(missing),
                rule="asha",
                value=evaluations[epoch],
                n_epochs_saved=len(missing) * n_epochs - len(pack.splits) * epoch,
                n_epochs_planned=len(self._splits) * n_epochs,
                evaluated_splits=pack.splits,
                evaluations=tuple(sorted(evaluations.items())),
            )
        )

    def in_race(
        self, phase: str, candidate: Candidate, scores: Mapping[int, float], best: Mapping[int, float]
    ) -> Stop | None:
        """Racing's decision between two packs of a candidate.

        Args:
            phase: The phase.
            candidate: The candidate.
            scores: Its score on each split that it has met.
            best: Score of its method's best candidate, on every split.
        """
        racing, met = self.settings.racing, sorted(scores)
        if racing is None or not met:
            return None
        n_looks = max(1, math.ceil(len(self._splits) / racing.splits_at_once) - 1)
        if not is_beaten([scores[s] for s in met], [best[s] for s in met], racing.confidence, n_looks):
            return None
        missing = tuple(split for split in self._splits if split not in scores)
        return self._stop(
            Stop(
                phase=phase,
                candidate=candidate,
                splits=missing,
                rule="racing",
                value=sum(scores.values()) / len(scores),
                n_epochs_saved=len(missing) * self._n_epochs[candidate.objective],
                n_epochs_planned=len(self._splits) * self._n_epochs[candidate.objective],
            )
        )

    def _stop(self, stop: Stop) -> Stop:
        self.stops[stop.candidate] = stop
        return stop

    def _value(self, peer: Candidate, splits: tuple[int, ...], epoch: int) -> float | None:
        """What a peer was judged by on the same splits at the same epoch; None where it was not."""
        stop = self.stops.get(peer)
        if stop is not None and stop.evaluated_splits == splits:
            return dict(stop.evaluations).get(epoch)
        curves = [self._curves.get(TrialConfig("search", peer, split), {}).get(epoch) for split in splits]
        values = [value for value in curves if value is not None]
        return sum(values) / len(values) if len(values) == len(splits) else None
