"""What the Deep Augmentation paper claims, tested on the gains of a study, each claim by a rule fixed beforehand.

No rule chooses on the result what it then judges: claims about depth, objectives and choice of layer are contrasts with
fixed weights over all layers, averaged over dropout and PCA; in contrastive learning with and without stop-gradient, in
supervised training without, as `Gains.judged` says why. What does choose is called
exploratory, and counts its choices (Holm), or says in which direction it errs.

References:
    Brüel-Gabrielsson, Wang, Baradad and Solomon (2023), "Deep Augmentation: Self-Supervised Learning with
        Transformations in Activation Space", https://arxiv.org/abs/2303.14537. Only the abstract was at hand: the
        claims are its, the contrasts ours.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from functools import partial

import numpy as np

from analysis.layers.gains import AUTO, INPUT, Gains, Target, Values, interval_over
from analysis.statistics.intervals import Decision, Interval, decide, holm
from trainables.records.types import CONTRASTIVE, SUPERVISED

UNIFORM = "uniform_dropout"


class Verdict(StrEnum):
    """What a study says of a claim."""

    HOLDS = "holds"
    FAILS = "does not hold"
    UNDECIDED = "undecided"


@dataclass(frozen=True)
class Claim:
    """A claim, and how it is measured.

    Attributes:
        name: Short name, for programs.
        text: The claim, a whole sentence.
        measured: What the difference is, in words.
        gain: Whether the claim is that there is a gain; else that there is none.
        difference: From gains to the difference, of the shape of one target's gain; None where the study lacks a part.
        note: What to know beside the interval.
    """

    name: str
    text: str
    measured: str
    gain: bool
    difference: Callable[[Gains], Values | None]
    note: str = ""


@dataclass(frozen=True)
class Tested:
    """A claim tested in one figure.

    Attributes:
        claim: The claim.
        figure: Name of the figure.
        basis: What the interval counts.
        interval: Of the difference.
        verdict: What it says of the claim.
    """

    claim: Claim
    figure: str
    basis: str
    interval: Interval
    verdict: Verdict


@dataclass(frozen=True)
class Best:
    """The hidden target that does best against the input, of several: exploratory.

    Attributes:
        target: The target.
        figure: Name of the figure.
        interval: Of its gain minus that of augmenting the input in the same way.
        n_tests: Targets that it is the best of.
        adjusted_p: Its p-value after Holm's adjustment over them.
        decision: What it says.
    """

    target: Target
    figure: str
    interval: Interval
    n_tests: int
    adjusted_p: float
    decision: Decision


@dataclass(frozen=True)
class AutoChoice:
    """A family where each trial chose its layer, beside the family's best fixed layer.

    Attributes:
        target: The family's target `AUTO`.
        figure: Name of the figure.
        gain: Of auto.
        best: The fixed layer of the highest mean gain.
        best_gain: Its gain.
        regret: The one minus the other; overstated, as the best was chosen on these items.
    """

    target: Target
    figure: str
    gain: Interval
    best: int
    best_gain: Interval
    regret: Interval


def verdict(interval: Interval, region: float, *, gain: bool) -> Verdict:
    """What a difference says of a claim that it is a gain, or that it is none.

    A gain is there where the interval lies above 0 and reaches out of the region of practical equivalence; there is
    none that matters where the interval ends below the region's upper end. Between the two it is undecided.

    Args:
        interval: Of the difference; NaN ends, with one split, decide nothing.
        region: Half width of the region of practical equivalence, above 0.
        gain: Whether the claim is that there is a gain.
    """
    if interval.high < region:
        return Verdict.FAILS if gain else Verdict.HOLDS
    if interval.low > 0:
        return Verdict.HOLDS if gain else Verdict.FAILS
    return Verdict.UNDECIDED


def rise_weights(layers: Sequence[int]) -> Values:
    """Weights (layers,) under which gains give the rise of their least-squares line from first to last layer.

    Args:
        layers: Increasing, at least two.
    """
    depth = np.asarray(layers, dtype=np.float64)
    centred = depth - depth.mean()
    return np.asarray(centred / (centred**2).sum() * (depth[-1] - depth[0]))


def mean_gain(gains: Gains, objective: str) -> Values | None:
    """Gain averaged over the layers of each family, the input included, and over families."""
    return _over_families([_mean(layers.values()) for layers in _families(gains, objective)])


def hidden_over_input(gains: Gains, objective: str) -> Values | None:
    """Mean gain of the hidden layers minus that of the input, averaged over families that have both."""
    return _over_families(
        [
            _mean([values for layer, values in layers.items() if layer != INPUT]) - layers[INPUT]
            for layers in _families(gains, objective)
            if INPUT in layers and len(layers) > 1
        ]
    )


def rise_with_depth(gains: Gains, objective: str) -> Values | None:
    """Rise of the gain's least-squares line from input to deepest layer, averaged over families."""
    return _over_families(
        [
            np.tensordot(rise_weights(list(layers)), np.stack(list(layers.values())), axes=1)
            for layers in _families(gains, objective)
            if INPUT in layers and len(layers) > 1
        ]
    )


def inversion(gains: Gains) -> Values | None:
    """Contrastive minus supervised gain without stop-gradient, averaged over layers that both have, and families."""
    found = []
    for family in gains.judged(SUPERVISED):
        own, other = gains.by_layer(CONTRASTIVE, family), gains.by_layer(SUPERVISED, family)
        if shared := [layer for layer in own if layer in other]:
            found.append(_mean([own[layer] - other[layer] for layer in shared]))
    return _over_families(found)


def beside(gains: Gains, objective: str, augmentation: str) -> Values | None:
    """Gain of a method that targets no layer."""
    return gains.values.get(Target(objective, augmentation))


def auto_over_mean(gains: Gains, objective: str) -> Values | None:
    """Gain where trials chose their layer minus the mean over fixed layers, averaged over families."""
    return _over_families([auto - _mean(layers.values()) for layers, auto in _with_auto(gains, objective)])


def auto_regret(gains: Gains, objective: str) -> Values | None:
    """Gain of each family's best fixed layer minus that where trials chose, averaged over families."""
    return _over_families([layers[best_layer(layers)] - auto for layers, auto in _with_auto(gains, objective)])


def best_layer(layers: Mapping[int, Values]) -> int:
    """The layer of the highest mean gain; of equals, the one nearest the input.

    Args:
        layers: Gain of each layer, in rising order.
    """
    return max(layers, key=lambda layer: interval_over(layers[layer]).estimate)


def claims(objectives: Sequence[str]) -> list[Claim]:
    """The claims that concern a study of some objectives."""
    both = [
        Claim(
            "contrastive_gain",
            "Augmenting one layer helps contrastive learning.",
            "Mean gain over all layers",
            True,
            partial(mean_gain, objective=CONTRASTIVE),
        ),
        Claim(
            "hidden_over_input",
            "In contrastive learning, deeper layers are better to augment than the input.",
            "Mean gain over the hidden layers minus that of the input",
            True,
            partial(hidden_over_input, objective=CONTRASTIVE),
        ),
        Claim(
            "rise_with_depth",
            "In contrastive learning, the gain grows with depth.",
            "Rise of the least-squares line from the input to the deepest layer",
            True,
            partial(rise_with_depth, objective=CONTRASTIVE),
        ),
        Claim(
            "no_supervised_gain",
            "Augmenting one layer does not help supervised training.",
            "Mean gain over all layers, without stop-gradient,",
            False,
            partial(mean_gain, objective=SUPERVISED),
        ),
        Claim(
            "inversion",
            "The trend inverts: augmenting one layer does more for contrastive learning than for supervised training.",
            "Contrastive minus supervised gain, mean over layers, both without stop-gradient,",
            True,
            inversion,
            "That alone says of neither that it gains.",
        ),
    ]
    for objective in objectives:
        where = "In contrastive learning" if objective == CONTRASTIVE else "In supervised training"
        both += [
            Claim(
                f"{objective}_uniform",
                f"{where}, dropout at every layer does not help.",
                "Its gain",
                False,
                partial(beside, objective=objective, augmentation=UNIFORM),
            ),
            Claim(
                f"{objective}_auto_over_mean",
                f"{where}, the layer that CKA points to is better than one taken at random.",
                "Gain of auto minus the mean over fixed layers",
                True,
                partial(auto_over_mean, objective=objective),
            ),
            Claim(
                f"{objective}_auto_regret",
                f"{where}, the layer that CKA points to is as good as the best.",
                "Regret, the gain of the best fixed layer minus that of auto",
                False,
                partial(auto_regret, objective=objective),
                "The best was chosen on these items, so the regret is overstated.",
            ),
        ]
    return both


def weigh_claims(gains: Gains, objectives: Sequence[str]) -> list[Tested]:
    """Every claim that a study has the targets for, in one figure."""
    found = []
    for claim in claims(objectives):
        difference = claim.difference(gains)
        if difference is not None:
            interval = interval_over(difference)
            judged = verdict(interval, gains.region, gain=claim.gain)
            found.append(Tested(claim, gains.figure, gains.basis, interval, judged))
    return found


def best_hidden(gains: Gains, objective: str) -> Best | None:
    """The hidden layer, over all families, that does best against the input; None with one split, or without any."""
    tests = {
        Target(objective, *family, layer=layer): interval_over(values - layers[INPUT])
        for family in gains.families(objective)
        if INPUT in (layers := gains.by_layer(objective, family))
        for layer, values in layers.items()
        if layer != INPUT
    }
    if not tests or any(math.isnan(interval.low) for interval in tests.values()):
        return None
    adjusted = dict(zip(tests, holm([interval.p_value for interval in tests.values()]), strict=True))
    best = max(tests, key=lambda target: tests[target].estimate)
    p = float(adjusted[best])
    return Best(best, gains.figure, tests[best], len(tests), p, decide(tests[best], p, gains.region))


def auto_choices(gains: Gains) -> list[AutoChoice]:
    """Every family where trials chose their layer, beside its best fixed layer."""
    found = []
    for target, auto in gains.values.items():
        layers = gains.by_layer(target.objective, target.family)
        if target.layer == AUTO and layers:
            best = best_layer(layers)
            own, other = interval_over(auto), interval_over(layers[best])
            found.append(AutoChoice(target, gains.figure, own, best, other, interval_over(layers[best] - auto)))
    return found


def _families(gains: Gains, objective: str) -> list[dict[int, Values]]:
    found = [gains.by_layer(objective, family) for family in gains.judged(objective)]
    return [layers for layers in found if layers]


def _with_auto(gains: Gains, objective: str) -> list[tuple[dict[int, Values], Values]]:
    """Gain of the fixed layers and of auto, of each family that has both."""
    found = []
    for family in gains.judged(objective):
        layers, auto = gains.by_layer(objective, family), gains.auto(objective, family)
        if auto is not None and layers:
            found.append((layers, auto))
    return found


def _mean(values: Collection[Values]) -> Values:
    return np.asarray(np.mean(list(values), axis=0, dtype=np.float64))


def _over_families(found: Sequence[Values]) -> Values | None:
    return _mean(found) if found else None
