"""Figures over all candidates of a study: response to hyperparameters, and best score against search time."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import TypeVar

import numpy as np

from analysis.figures.types import FloatArray, LineFigure, Series
from analysis.format import figure_name
from analysis.results.aggregate import StudyResults
from analysis.results.controls import is_reference
from trainables.records.choice import choose_best, mean_score
from trainables.records.types import AUTO, Candidate, TrialRecord

_Group = TypeVar("_Group", str, float)


def search_figures(results: StudyResults) -> list[LineFigure]:
    """Return the response of the objective to each hyperparameter, and the best score against search time."""
    objective = figure_name(results.description.objective)
    trials: dict[Candidate, list[TrialRecord]] = {}
    for record in results.records:
        if record.config.phase == results.description.choosing_phase:
            trials.setdefault(record.config.candidate, []).append(record)
    complete = [
        summary.candidate for summary in results.candidates[results.description.choosing_phase] if summary.complete
    ]
    scores = {
        candidate: np.array([record.metrics[results.description.objective] for record in trials[candidate]])
        for candidate in complete
    }
    found = list(_responses(scores, objective))
    budget = _budget(results.description.methods, trials, scores)
    if len(complete) > len(results.description.methods) and budget:
        end = max(float(series.x[-1]) for series in budget)
        found.append(
            LineFigure(
                "budget",
                "Best score against search time",
                "Best mean score so far; candidates in the order in which they started.",
                "device time (s)",
                f"best {objective}",
                budget,
                x_limits=(0.0, 1.02 * end),
                spread="none",
                steps=True,
            )
        )
    return found


def _responses(scores: Mapping[Candidate, FloatArray], objective: str) -> Iterator[LineFigure]:
    names = dict.fromkeys(name for candidate in scores for name, _ in candidate.params)
    for name in names:
        series = []
        for method in dict.fromkeys(candidate.method for candidate in scores):
            own = {c: dict(c.params)[name] for c in scores if c.method == method and name in dict(c.params)}
            # With several hyperparameters, each value of this one is shown with the best values of the others. The
            # layer `auto` has no place on the axis.
            best = _best_of_each(scores, {c: x for c, x in own.items() if not (name == "layer" and x == AUTO)})
            if best:
                series.append(_response(method, dict(sorted(best.items()))))
        values = np.array([x for one in series for x in one.x])
        if len(np.unique(values)) < 2:
            continue
        margin = 0.04 * float(values.max() - values.min())
        limits = (float(values.min()) - margin, float(values.max()) + margin)
        without = {c: c.method for c in scores if is_reference(c.method) and name not in dict(c.params)}
        flat = [
            Series(method, np.array(limits), *(np.full(2, value) for value in (s.mean(), s.min(), s.max())))
            for method, s in _best_of_each(scores, without).items()
        ]
        yield LineFigure(
            f"response-{name}",
            f"Response to {name}",
            "Dot: one split. Line: mean over splits.",
            name,
            objective,
            (*flat, *series),
            x_limits=limits,
            spread="none",
        )


def _best_of_each(
    scores: Mapping[Candidate, FloatArray], groups: Mapping[Candidate, _Group]
) -> dict[_Group, FloatArray]:
    """Return the scores of the best candidate of each group."""
    means: dict[_Group, dict[Candidate, float]] = {}
    for candidate, group in groups.items():
        means.setdefault(group, {})[candidate] = mean_score(scores[candidate])
    return {group: scores[best] for group, own in means.items() if (best := choose_best(own)) is not None}


def _response(method: str, best: Mapping[float, FloatArray]) -> Series:
    return Series(
        method,
        np.array(list(best)),
        np.array([values.mean() for values in best.values()]),
        np.array([values.min() for values in best.values()]),
        np.array([values.max() for values in best.values()]),
        np.array([(x, value) for x, values in best.items() for value in values]),
    )


def _budget(
    methods: Sequence[str], trials: Mapping[Candidate, list[TrialRecord]], scores: Mapping[Candidate, FloatArray]
) -> tuple[Series, ...]:
    """Return the best mean score so far against device time, for each method."""
    found = []
    for method in methods:
        own = sorted(
            (candidate for candidate in scores if candidate.method == method),
            key=lambda candidate: min(record.started_at_s for record in trials[candidate]),
        )
        if own:
            spent = np.cumsum([sum(record.duration_s for record in trials[candidate]) for candidate in own])
            best = np.maximum.accumulate([scores[candidate].mean() for candidate in own])
            found.append((method, spent, best))
    end = max((float(spent[-1]) for _, spent, _ in found), default=0.0)
    curves = [(method, np.append(spent, end), np.append(best, best[-1])) for method, spent, best in found]
    return tuple(Series(method, spent, best, best, best) for method, spent, best in curves)
