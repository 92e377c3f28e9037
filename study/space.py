"""Candidates: a method's hyperparameters as a grid, and as Optuna distributions."""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping
from typing import TYPE_CHECKING

from study.spec import Range, Search, Values
from trainables.batch import LANE_SETTINGS
from trainables.methods import get_method
from trainables.records import Candidate

if TYPE_CHECKING:
    from optuna.distributions import BaseDistribution


def n_candidates(search: Search, method: str) -> int:
    """How many candidates of a method are planned.

    Args:
        search: The study file's search.
        method: Name of one of its methods.
    """
    values = _values(search, method).values()
    if search.sampler == "grid":
        return math.prod(len(listed) if isinstance(listed, tuple) else 1 for listed in values)
    return search.n_candidates if any(map(_is_chosen, values)) else 1


def grid(search: Search, method: str) -> list[Candidate]:
    """Every combination of a method's listed values, in the study file's order; one for a method without any.

    Args:
        search: The study file's search, without ranges.
        method: Name of one of its methods.
    """
    values = _values(search, method)
    lists = [listed if isinstance(listed, tuple) else (listed,) for listed in values.values()]
    return [Candidate.of(method, dict(zip(values, point, strict=True))) for point in itertools.product(*lists)]  # type: ignore[arg-type]


def distributions(search: Search, method: str) -> dict[str, BaseDistribution]:
    """What a sampler may choose for a method: its ranges and lists. Single values are not chosen.

    Args:
        search: The study file's search.
        method: Name of one of its methods.
    """
    from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

    known = {**get_method(method).hyperparameters, **LANE_SETTINGS}
    chosen: dict[str, BaseDistribution] = {}
    for name, values in _values(search, method).items():
        if isinstance(values, Range) and known[name].whole:
            chosen[name] = IntDistribution(int(values.low), int(values.high), log=values.log)
        elif isinstance(values, Range):
            chosen[name] = FloatDistribution(values.low, values.high, log=values.log)
        elif isinstance(values, tuple) and _is_chosen(values):
            chosen[name] = CategoricalDistribution(values)
    return chosen


def sampled(search: Search, method: str, chosen: Mapping[str, float]) -> Candidate:
    """The candidate of a sampler's choice, completed with the method's single values.

    Args:
        search: The study file's search.
        method: Name of one of its methods.
        chosen: A value for each of `distributions`.
    """
    single: dict[str, float] = {}
    for name, values in _values(search, method).items():
        if name not in chosen and not isinstance(values, Range):
            single[name] = values[0] if isinstance(values, tuple) else values
    return Candidate.of(method, {**single, **chosen})


def _is_chosen(values: Values) -> bool:
    return isinstance(values, Range) or (isinstance(values, tuple) and len(values) > 1)


def _values(search: Search, method: str) -> dict[str, Values]:
    """What the study file gives for each hyperparameter, the method's default where it gives nothing.

    Training settings of a method's own, `LANE_SETTINGS`, are among them only if they are given.
    """
    given = search.methods[method]
    defaults = {name: known.default for name, known in get_method(method).hyperparameters.items()}
    return {**defaults, **given}
