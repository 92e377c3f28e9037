"""The candidates that a study file describes: a method's hyperparameters as a grid, and as Optuna distributions.

Each function takes the study file's search and, where it concerns one method, the name of one of its methods.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Mapping
from dataclasses import asdict
from typing import TYPE_CHECKING

from analysis.results.convergence import ends_while_rising
from study.config.schema import Range, Search, Value, digest
from trainables.methods.protocol import LANE_SETTINGS
from trainables.methods.registry import canonical, get_method
from trainables.records.types import AUTO, CONTRASTIVE, Candidate
from trainables.training.settings import TrainingSettings

if TYPE_CHECKING:
    from optuna.distributions import BaseDistribution

# Values of a hyperparameter, with a number in place of every word.
Numbers = float | tuple[float, ...] | Range


def n_candidates(search: Search, method: str) -> int:
    """Return how many candidates of a method are planned."""
    known = known_candidates(search, method)
    return search.n_candidates if known is None else len(known)


def is_per_split(search: Search, method: str) -> bool:
    """Return whether each split has its own search of a method: where earlier scores decide what is tried next."""
    if search.selection != "nested":
        return False
    return search.pruning.is_on or (search.learns and known_candidates(search, method) is None)


def known_candidates(search: Search, method: str) -> list[Candidate] | None:
    """Return the candidates of a method that are known before the search: those of a grid or of a small space.

    None where a sampler has more to choose from than it may propose.
    """
    if search.sampler == "grid":
        return list(combinations(search, method))
    known = {**get_method(method).hyperparameters, **LANE_SETTINGS}
    values = _values(search, method)
    if any(isinstance(given, Range) and not known[name].whole for name, given in values.items()):
        return None
    found = list(itertools.islice(combinations(search, method), search.n_candidates + 1))
    return found if len(found) <= search.n_candidates else None


def combinations(search: Search, method: str) -> Iterator[Candidate]:
    """Yield every combination of a method's values and of the whole numbers of its ranges, in the study file's order.

    Of combinations that train the same, the first is yielded.
    """
    values = _values(search, method)
    lists = [
        range(int(given.low), int(given.high) + 1)
        if isinstance(given, Range)
        else (given if isinstance(given, tuple) else (given,))
        for given in values.values()
    ]
    seen = set()
    for point in itertools.product(*lists):
        candidate = _candidate(method, dict(zip(values, point, strict=True)))
        if candidate not in seen:
            seen.add(candidate)
            yield candidate


def unguided(search: Search) -> str | None:
    """Return a warning where a sampler that learns from scores would only draw at random; None elsewhere."""
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


def unconverged(search: Search, training: TrainingSettings) -> str | None:
    """Return a warning where the trainings of methods are too short to converge, by their settings alone."""
    settings = asdict(training)
    found = {}
    for method in search.methods:
        candidates = known_candidates(search, method) or [Candidate(method)]
        if reason := next(filter(None, (ends_while_rising(one, settings) for one in candidates)), None):
            found[method] = reason
    if not found:
        return None
    reason = max(found.values(), key=lambda reason: reason.limit)
    both = " and `training.pretraining.epochs`" if any(Candidate(one).objective == CONTRASTIVE for one in found) else ""
    return (
        f"{', '.join(found)} cannot converge: {reason.text}. Set `training.epochs`{both} to {2 * reason.limit:g} or "
        "more, which is a whole cycle, or lower `training.learning_rate.step_size_epochs`."
    )


def asked(search: Search, method: str) -> str:
    """Return a digest of everything, except scores, that a method's proposals follow from."""
    drawn = {} if search.sampler == "grid" else search.model_dump(include={"seed", "batch_size", "n_startup"})
    values = {
        name: given.model_dump() if isinstance(given, Range) else given
        for name, given in _values(search, method).items()
    }
    return digest({"sampler": search.sampler, "values": values, **drawn})


def distributions(search: Search, method: str) -> dict[str, BaseDistribution]:
    """Return what a sampler may choose for a method: its ranges and lists. Single values are not chosen."""
    from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

    known = {**get_method(method).hyperparameters, **LANE_SETTINGS}
    chosen: dict[str, BaseDistribution] = {}
    for name, values in _values(search, method).items():
        if isinstance(values, Range) and known[name].whole:
            chosen[name] = IntDistribution(int(values.low), int(values.high), log=values.log)
        elif isinstance(values, Range):
            chosen[name] = FloatDistribution(values.low, values.high, log=values.log)
        elif isinstance(values, tuple) and len(values) > 1:
            chosen[name] = CategoricalDistribution(values)
    return chosen


def sampled(search: Search, method: str, chosen: Mapping[str, float]) -> Candidate:
    """Return the candidate of a sampler's choice (a value for each of `distributions`) and the single values."""
    single: dict[str, float] = {}
    for name, values in _values(search, method).items():
        if name not in chosen and not isinstance(values, Range):
            single[name] = values[0] if isinstance(values, tuple) else values
    return _candidate(method, {**single, **chosen})


def _candidate(method: str, params: Mapping[str, float]) -> Candidate:
    return Candidate.of(method, canonical(get_method(method), params))


def _values(search: Search, method: str) -> dict[str, Numbers]:
    """Return the study file's values of each hyperparameter, and the method's default where the file gives none.

    Training settings of the method, `LANE_SETTINGS`, are included only where the file gives them.
    """
    given: dict[str, Numbers] = {
        name: values
        if isinstance(values, Range)
        else (tuple(map(_number, values)) if isinstance(values, tuple) else _number(values))
        for name, values in search.methods[method].items()
    }
    return {name: known.default for name, known in get_method(method).hyperparameters.items()} | given


def _number(value: Value) -> float:
    """Return a checked value of a study file as candidates have it; its only word is `auto`."""
    return AUTO if isinstance(value, str) else value
