"""Candidates: a method's hyperparameters as a grid, and as Optuna distributions."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING

from study.config.schema import Range, Search, Value, digest
from trainables.methods.protocol import LANE_SETTINGS
from trainables.methods.registry import canonical, get_method
from trainables.records.types import AUTO, Candidate

if TYPE_CHECKING:
    from optuna.distributions import BaseDistribution

Numbers = float | tuple[float, ...] | Range

"""Values of a hyperparameter with a number for every word."""


def n_candidates(search: Search, method: str) -> int:
    """How many candidates of a method are planned.

    Args:
        search: The study file's search.
        method: Name of one of its methods.
    """
    known = known_candidates(search, method)
    return search.n_candidates if known is None else len(known)


def grid(search: Search, method: str) -> list[Candidate]:
    """Every combination of a method's listed values, in the study file's order; one for a method without any.

    Of combinations that train the same there is one.

    Args:
        search: The study file's search, without ranges.
        method: Name of one of its methods.
    """
    return list(every(search, method))


def known_candidates(search: Search, method: str) -> list[Candidate] | None:
    """The candidates of a method that are known before the search: a grid, or all that a sampler has to choose from.

    None where it has more than it may propose.
    """
    if search.sampler == "grid":
        return grid(search, method)
    known = {**get_method(method).hyperparameters, **LANE_SETTINGS}
    values = _values(search, method)
    if any(isinstance(given, Range) and not known[name].whole for name, given in values.items()):
        return None
    found = list(itertools.islice(every(search, method), search.n_candidates + 1))
    return found if len(found) <= search.n_candidates else None


def every(search: Search, method: str) -> Iterator[Candidate]:
    """Every combination of a method's values and whole numbers of its ranges, in the study file's order, each once."""
    values = _values(search, method)
    lists = [_enumerated(given) for given in values.values()]
    seen = set()
    for point in itertools.product(*lists):
        candidate = _candidate(method, dict(zip(values, point, strict=True)))
        if candidate not in seen:
            seen.add(candidate)
            yield candidate


def _enumerated(given: Numbers) -> Sequence[float]:
    if isinstance(given, Range):
        return range(int(given.low), int(given.high) + 1)
    return given if isinstance(given, tuple) else (given,)


def listed(search: Search) -> dict[str, list[Candidate]]:
    """The candidates of each method whose candidates are known before the search."""
    known = {method: known_candidates(search, method) for method in search.methods}
    return {method: candidates for method, candidates in known.items() if candidates is not None}


def unguided(search: Search) -> str | None:
    """What to say where a sampler that learns from scores has no candidate left to learn for; None elsewhere."""
    if search.sampler not in ("tpe", "gp"):
        return None
    n_random = math.ceil(search.n_startup / search.batch_size) * search.batch_size
    methods = [method for method in search.methods if known_candidates(search, method) is None]
    if not methods or n_random < search.n_candidates:
        return None
    return (
        f"All {search.n_candidates} candidates of {', '.join(methods)} will be random: {search.sampler} learns from "
        f"scores after {n_random} (`search.n_startup`, in whole batches). Raise `search.n_candidates`, or lower "
        "`search.n_startup`."
    )


def asked(search: Search, method: str) -> str:
    """A digest of what a method's proposals follow from, besides scores: with another, they are others."""
    drawn = {} if search.sampler == "grid" else search.model_dump(include={"seed", "batch_size", "n_startup"})
    values = {
        name: given.model_dump() if isinstance(given, Range) else given
        for name, given in _values(search, method).items()
    }
    return digest({"sampler": search.sampler, "values": values, **drawn})


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
    return _candidate(method, {**single, **chosen})


def _candidate(method: str, params: Mapping[str, float]) -> Candidate:
    return Candidate.of(method, canonical(get_method(method), params))


def _is_chosen(values: Numbers) -> bool:
    return isinstance(values, Range) or (isinstance(values, tuple) and len(values) > 1)


def _values(search: Search, method: str) -> dict[str, Numbers]:
    """What the study file gives for each hyperparameter, the method's default where it gives nothing.

    Training settings of a method's own, `LANE_SETTINGS`, are among them only if they are given.
    """
    given = {
        name: values
        if isinstance(values, Range)
        else (tuple(map(_number, values)) if isinstance(values, tuple) else _number(values))
        for name, values in search.methods[method].items()
    }
    defaults = {name: known.default for name, known in get_method(method).hyperparameters.items()}
    return {**defaults, **given}


def _number(value: Value) -> float:
    """A checked value of a study file as candidates have it; its only word is `auto`."""
    return AUTO if isinstance(value, str) else value
