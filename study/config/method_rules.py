"""Check the methods of a study file: their names, their hyperparameters, and the values of these."""

from __future__ import annotations

import difflib
from collections.abc import Iterator

from study.config.schema import Range, Sampler, Search, Value
from trainables.methods.protocol import LANE_SETTINGS, Hyperparameter
from trainables.methods.registry import Contrastive, MethodError, get_method, method_code, method_names
from trainables.records.types import Candidate
from trainables.training.settings import TrainingSettings


def nearest(name: str, known: list[str]) -> str:
    """Return a question whether a similar known name was meant; empty where there is none."""
    close = difflib.get_close_matches(name, known, n=1, cutoff=0.6 if len(name) > 3 else 0.75)
    return f" (did you mean `{close[0]}`?)" if close else ""


def search_problems(search: Search, training: TrainingSettings) -> Iterator[str]:
    """Yield a problem for each wrong method, hyperparameter or value of a search."""
    n_hidden = len(training.hidden)
    for name, params in search.methods.items():
        try:
            method = get_method(name)
            method_code(name)
        except MethodError as error:
            yield f"`search.methods.{name}`{nearest(name, method_names())}: {error}"
            continue
        if isinstance(method, Contrastive) and n_hidden == 0:
            yield (
                f"`training.hidden` must have a layer for {name} to train, got none; give it a width, or leave the "
                "method out"
            )
        if (
            "layer" in method.hyperparameters
            and "layer" not in params
            and n_hidden < method.hyperparameters["layer"].default
        ):
            yield f"`search.methods.{name}.layer` must be given where `training.hidden` has no layer; set it to 0"
        for key, values in params.items():
            place = f"`search.methods.{name}.{key}`"
            known = {**method.hyperparameters, **LANE_SETTINGS}
            if key not in known:
                listed = ", ".join(method.hyperparameters) or "none"
                yield (
                    f"{place} is not a hyperparameter of {name}{nearest(key, list(known))}; it has {listed}, and "
                    f"may be given its own {', '.join(LANE_SETTINGS)}"
                )
                continue
            if isinstance(values, Range):
                yield from _range_problems(place, values, search.sampler)
            if not _listed(values):
                yield f"{place} must have at least one value, got an empty list"
            for value in _listed(values):
                if isinstance(value, str):
                    yield from _word_problems(place, value, known[key], n_hidden)
                elif problem := known[key].problem(value):
                    yield f"{place} {problem}, got {value:g}"
                elif key == "layer" and value > n_hidden:
                    yield f"{place} must not exceed the classifier's {n_hidden} hidden layers, got {value:g}"
        if "components" in method.hyperparameters:
            layers, values = (params.get(key, method.hyperparameters[key].default) for key in ("layer", "components"))
            between = ("auto",) if isinstance(layers, Range) else ()
            yield from _component_problems(name, (*_listed(layers), *between), _listed(values), training)


def _listed(values: Value | Range | tuple[Value, ...]) -> tuple[Value, ...]:
    """Return every value; of a range, its ends."""
    if isinstance(values, Range):
        return values.low, values.high
    return values if isinstance(values, tuple) else (values,)


def _component_problems(
    name: str, layers: tuple[Value, ...], values: tuple[Value, ...], training: TrainingSettings
) -> Iterator[str]:
    # With as many components as a layer has units, or a batch has items, nothing is left out. The width of the input,
    # layer 0, is not known before encoding.
    hidden = training.hidden
    if not hidden or not all(layer == "auto" or layer in range(1, len(hidden) + 1) for layer in layers):
        return
    widest = max(width for layer in layers for width in (hidden if layer == "auto" else (hidden[int(layer) - 1],)))
    limit = min(widest, training.batch_size)
    for value in values:
        if not isinstance(value, str) and value >= limit:
            yield (
                f"`search.methods.{name}.components` must be below {limit}, the units of its widest layer or the items "
                f"of a batch, or it leaves nothing out; got {value:g}"
            )


def _word_problems(place: str, word: str, known: Hyperparameter, n_hidden: int) -> Iterator[str]:
    if word != "auto" or not known.auto:
        auto = ", or auto" if known.auto else ""
        yield f"{place} must be a number, a list of numbers or {{low, high, log}}{auto}, got {word!r}"
    elif n_hidden == 0:
        yield f"{place} must be 0 where `training.hidden` has no layer, got auto"


def _range_problems(place: str, values: Range, sampler: Sampler) -> Iterator[str]:
    if sampler == "grid":
        yield f"{place} is a range, which a grid cannot enumerate; list its values, or set `search.sampler` to tpe"
    if values.low >= values.high:
        yield f"{place}.low must be below high ({values.high:g}), got {values.low:g}"
    if values.log and values.low <= 0:
        yield f"{place}.low must be above 0 on a log scale, got {values.low:g}"


def pruning_problems(search: Search, training: TrainingSettings) -> Iterator[str]:
    """Yield a problem for each wrong value of the rules of early stopping."""
    asha = search.pruning.asha
    if asha is None:
        return
    objectives = {Candidate(method).objective for method in search.methods}
    n_epochs = max(training.n_epochs(objective) for objective in objectives)
    if asha.grace_epochs >= n_epochs:
        yield (
            f"`search.pruning.asha.grace_epochs` must be below the {n_epochs} epochs of a training, or nothing is "
            f"ever stopped, got {asha.grace_epochs}"
        )
