"""The claims of the Deep Augmentation paper, each tested by a contrast of gains that is fixed beforehand.

A contrast weighs the layers of a family (one augmentation, with or without a stop-gradient) and is averaged over the
families that `Gains.judged` names. Nothing is chosen on the result that it then tests. What does choose says so: the
best hidden target is exploratory and adjusted for the number of targets (Holm), and the regret of `auto` is overstated.

References:
    Brüel-Gabrielsson, Wang, Baradad and Solomon (2023), "Deep Augmentation: Self-Supervised Learning with
        Transformations in Activation Space", https://arxiv.org/abs/2303.14537. The claims are those of its abstract,
        the contrasts are ours.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum

import numpy as np

from analysis.layers.gains import AUTO, INPUT, OBJECTIVES, Gains, Target, interval_over
from analysis.statistics.intervals import Decision, Interval, Values, decide, holm
from trainables.records.types import CONTRASTIVE, SUPERVISED


class Verdict(StrEnum):
    """What a study says of a claim."""

    HOLDS = "holds"
    FAILS = "does not hold"
    UNDECIDED = "undecided"


@dataclass(frozen=True)
class Claim:
    """A claim of the paper.

    Attributes:
        name: Name of the contrast that tests it.
        gain: Whether the claim is that there is a gain; else that there is none.
        text: The claim as a sentence.
        measured: What the contrast is, in words.
        note: What to know when reading its interval.
    """

    name: str
    gain: bool
    text: str
    measured: str
    note: str = ""


@dataclass(frozen=True)
class TestedClaim:
    """A claim with the interval of its contrast in one figure."""

    claim: Claim
    interval: Interval
    verdict: Verdict


@dataclass(frozen=True)
class BestHidden:
    """The hidden target with the highest gain over the input, of several: exploratory.

    Attributes:
        target: The target.
        interval: Of its gain minus that of augmenting the input in the same way.
        n_tests: Targets that it is the best of.
        adjusted_p: Its p-value after Holm's adjustment over them.
        decision: What the two say.
    """

    target: Target
    interval: Interval
    n_tests: int
    adjusted_p: float
    decision: Decision


@dataclass(frozen=True)
class AutoChoice:
    """A family where each trial chose its layer, compared with the family's best fixed layer.

    Attributes:
        target: The family's target `AUTO`.
        best: The fixed target of the highest mean gain.
        regret: Gain of the best minus that of `AUTO`; overstated, as the best was chosen on the same items.
    """

    target: Target
    best: Target
    regret: Interval


CLAIMS = (
    Claim(
        "contrastive_gain", True, "Augmenting one layer helps contrastive learning.", "Mean gain over all layers"
    ),
    Claim(
        "hidden_over_input", True,
        "In contrastive learning, deeper layers are better to augment than the input.",
        "Mean gain over the hidden layers minus that of the input",
    ),
    Claim(
        "rise_with_depth", True,
        "In contrastive learning, the gain grows with depth.",
        "Rise of the least-squares line from the input to the deepest layer",
    ),
    Claim(
        "no_supervised_gain", False,
        "Augmenting one layer does not help supervised training.",
        "Mean gain over all layers, without stop-gradient,",
    ),
    Claim(
        "inversion", True,
        "The trend inverts: augmenting one layer does more for contrastive learning than for supervised training.",
        "Contrastive minus supervised gain, mean over layers, both without stop-gradient,",
        "This does not say that either of them gains.",
    ),
    *(
        claim
        for objective, where in ((CONTRASTIVE, "In contrastive learning"), (SUPERVISED, "In supervised training"))
        for claim in (
            Claim(f"{objective}_uniform", False, f"{where}, dropout at every layer does not help.", "Its gain"),
            Claim(
                f"{objective}_auto_over_mean", True,
                f"{where}, the layer that CKA points to is better than one taken at random.",
                "Gain of auto minus the mean over fixed layers",
            ),
            Claim(
                f"{objective}_auto_regret", False,
                f"{where}, the layer that CKA points to is as good as the best.",
                "Regret, the gain of the best fixed layer minus that of auto",
                "The best was chosen on these items, so the regret is overstated.",
            ),
        )
    ),
)  # fmt: skip


def contrasts(gains: Gains) -> dict[str, Values]:
    """Compute the contrast behind each claim, shaped like one target's gain; only those whose parts the study has."""
    found: dict[str, list[Values]] = {}
    for objective in OBJECTIVES:
        if (uniform := gains.values.get(Target(objective, "uniform_dropout"))) is not None:
            found[f"{objective}_uniform"] = [uniform]
        for family in gains.judged(objective):
            fixed, auto = gains.by_layer(objective, family), gains.values.get(Target(objective, *family, layer=AUTO))
            own = {}
            if fixed:
                own["contrastive_gain" if objective == CONTRASTIVE else "no_supervised_gain"] = _mean(fixed.values())
            if fixed and auto is not None:
                own[f"{objective}_auto_over_mean"] = auto - _mean(fixed.values())
                own[f"{objective}_auto_regret"] = fixed[best_layer(fixed)] - auto
            hidden = [values for layer, values in fixed.items() if layer != INPUT]
            if objective == CONTRASTIVE and hidden and INPUT in fixed:
                own["hidden_over_input"] = _mean(hidden) - fixed[INPUT]
                own["rise_with_depth"] = np.tensordot(rise_weights(list(fixed)), np.stack(list(fixed.values())), axes=1)
            other = gains.by_layer(CONTRASTIVE, family)
            if objective == SUPERVISED and (shared := [layer for layer in other if layer in fixed]):
                own["inversion"] = _mean([other[layer] - fixed[layer] for layer in shared])
            for name, values in own.items():
                found.setdefault(name, []).append(values)
    return {name: _mean(of_families) for name, of_families in found.items()}


def weigh_claims(gains: Gains) -> list[TestedClaim]:
    """Test every claim that a study has the targets for, in one figure."""
    intervals = {name: interval_over(values) for name, values in contrasts(gains).items()}
    return [
        TestedClaim(claim, own, verdict(own, gains.region, gain=claim.gain))
        for claim in CLAIMS
        if (own := intervals.get(claim.name)) is not None
    ]


def verdict(interval: Interval, region: float, *, gain: bool) -> Verdict:
    """Judge a claim that a difference is a gain, or that it is none.

    There is a gain where the interval lies above 0 and reaches beyond the region of practical equivalence; there is
    none that matters where the interval ends below the region's upper end. Everything else is undecided, as is an
    interval of one split, whose ends are NaN.

    Args:
        interval: Of the difference.
        region: Half width of the region of practical equivalence, above 0.
        gain: Whether the claim is that there is a gain.
    """
    if interval.high < region:
        return Verdict.FAILS if gain else Verdict.HOLDS
    if interval.low > 0:
        return Verdict.HOLDS if gain else Verdict.FAILS
    return Verdict.UNDECIDED


def best_hidden(gains: Gains, objective: str) -> BestHidden | None:
    """Return the hidden target, over all families, with the highest gain over the input; None without intervals."""
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
    return BestHidden(best, tests[best], len(tests), p, decide(tests[best], p, gains.region))


def auto_choices(gains: Gains) -> list[AutoChoice]:
    """Compare every family where trials chose their layer with its best fixed layer."""
    return [
        AutoChoice(
            target,
            Target(target.objective, *target.family, layer=(best := best_layer(layers))),
            interval_over(layers[best] - gains.values[target]),
        )
        for target in gains.intervals
        if target.layer == AUTO and (layers := gains.by_layer(target.objective, target.family))
    ]


def best_layer(layers: Mapping[int, Values]) -> int:
    """Return the layer of the highest mean gain; of equals, the one nearest the input."""
    return max(layers, key=lambda layer: interval_over(layers[layer]).estimate)


def rise_weights(layers: Sequence[int]) -> Values:
    """Return weights (layers,) that turn gains into the rise of their least-squares line from first to last layer."""
    depth = np.asarray(layers, dtype=np.float64)
    centred = depth - depth.mean()
    return np.asarray(centred / (centred**2).sum() * (depth[-1] - depth[0]))


def _mean(values: Collection[Values]) -> Values:
    return np.asarray(np.mean(list(values), axis=0, dtype=np.float64))
