"""Figures over all candidates of a study: response to hyperparameters, and best score against search time.

A candidate's score on a split is its mean over the inner splits. Where each split proposes candidates of its own, no
two splits try the same ones: then the mean of its split is subtracted, and what is alike in a hyperparameter is
averaged over a few ranges of its values.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TypeVar

import numpy as np

from analysis.figures.types import FloatArray, LineFigure, Series
from analysis.format import figure_name
from analysis.results.aggregate import StudyResults
from analysis.results.controls import is_reference
from trainables.records.choice import choose_best, mean_score
from trainables.records.figures import LOWER_IS_BETTER
from trainables.records.types import AUTO, Candidate, SplitId

_Group = TypeVar("_Group", str, float)

# Ranges of values that candidates of different splits are averaged over.
_MAX_RANGES = 8


def search_figures(results: StudyResults) -> list[LineFigure]:
    """Return the response of the objective to each hyperparameter, and the best score against search time."""
    objective = figure_name(results.description.objective)
    if results.description.objective in LOWER_IS_BETTER:
        objective = f"−{objective}"
    scores = {candidate: on for own in results.scores.values() for candidate, on in own.items()}
    if results.own_searches:
        splits = {split for on in scores.values() for split in on}
        level = {split: mean_score(on[split] for on in scores.values() if split in on) for split in splits}
        values = {one: np.array([score - level[split] for split, score in on.items()]) for one, on in scores.items()}
        found = list(_responses(values, f"{objective} minus the split’s mean", apart=True))
    else:
        n_splits = len({split.outer for split in results.description.splits[results.description.choosing_phase]})
        values = {one: np.array(list(on.values())) for one, on in scores.items() if len(on) == n_splits}
        found = list(_responses(values, objective, apart=False))
    if budget := _budget(results):
        end = max(float(series.x[-1]) for series in budget)
        found.append(
            LineFigure(
                "budget",
                "Best score against search time",
                "Best score so far, mean over splits; candidates in the order in which they started.",
                "device time (s)",
                f"best {objective}",
                budget,
                x_limits=(0.0, 1.02 * end),
                spread="none",
                steps=True,
            )
        )
    return found


def _responses(scores: Mapping[Candidate, FloatArray], objective: str, *, apart: bool) -> Iterator[LineFigure]:
    """Describe the responses from the scores of each candidate (splits,); `apart` if splits have their own."""
    for name in dict.fromkeys(name for candidate in scores for name, _ in candidate.params):
        series = []
        for method in dict.fromkeys(candidate.method for candidate in scores):
            own = {c: dict(c.params)[name] for c in scores if c.method == method and name in dict(c.params)}
            # With several hyperparameters, each value of this one is shown with the best values of the others. The
            # layer `auto` has no place on the axis.
            own = {c: x for c, x in own.items() if not (name == "layer" and x == AUTO)}
            if own and apart:
                series.append(_in_ranges(method, np.array(sorted((x, y) for c, x in own.items() for y in scores[c]))))
            elif own:
                series.append(_response(method, dict(sorted(_best_of_each(scores, own).items()))))
        values = np.array([x for one in series for x in one.points[:, 0]])
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
            "Dot: a candidate on one split. Line: mean of similar values."
            if apart
            else "Dot: one split. Line: mean over splits.",
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


def _in_ranges(method: str, dots: FloatArray) -> Series:
    """Return the means of dots (dots, 2), sorted by x, over ranges of about equally many."""
    n_ranges = min(_MAX_RANGES, len(np.unique(dots[:, 0])))
    edges = np.unique(np.quantile(dots[:, 0], np.linspace(0, 1, n_ranges + 1))[1:-1])
    place = np.searchsorted(edges, dots[:, 0], side="left")
    groups = [dots[place == index] for index in np.unique(place)]
    x, mean, low, high = (
        np.array([float(function(own[:, column])) for own in groups])
        for function, column in ((np.mean, 0), (np.mean, 1), (np.min, 1), (np.max, 1))
    )
    return Series(method, x, mean, low, high, dots)


def _budget(results: StudyResults) -> tuple[Series, ...]:
    """Return the best score so far against device time, for each method; nothing where no method has a choice."""
    phase = results.description.choosing_phase
    started: dict[Candidate, float] = {}
    spent: dict[tuple[Candidate, SplitId], float] = {}
    for record in results.records:
        if record.config.phase == phase:
            candidate = record.config.candidate
            place = candidate, record.config.split.outer
            started[candidate] = min(record.started_at_s, started.get(candidate, record.started_at_s))
            spent[place] = spent.get(place, 0.0) + record.duration_s
    # Under `reported` selection all splits have one candidate: their mean score is what gets better.
    together = not results.own_searches and results.chosen_on_reported
    found: list[tuple[str, FloatArray, FloatArray]] = []
    for method, scores in results.scores.items():
        splits = sorted({split for own in scores.values() for split in own})
        order = sorted(scores, key=lambda candidate: (started[candidate], candidate))
        steps = []
        for split in splits:
            own = [c for c in order if split in scores[c] and not (together and len(scores[c]) < len(splits))]
            steps.append([(spent[c, split], scores[c][split]) for c in own])
        n = min(map(len, steps), default=0)
        if n:
            table = np.array([one[:n] for one in steps])
            score = table[:, :, 1]
            best = np.maximum.accumulate(score.mean(axis=0)) if together else np.maximum.accumulate(score, 1).mean(0)
            found.append((method, np.cumsum(table[:, :, 0].sum(axis=0)), best))
    if all(len(spent_s) < 2 for _, spent_s, _ in found):
        return ()
    end = max((float(spent_s[-1]) for _, spent_s, _ in found), default=0.0)
    curves = [(method, np.append(spent_s, end), np.append(best, best[-1])) for method, spent_s, best in found]
    return tuple(Series(method, spent_s, best, best, best) for method, spent_s, best in curves)
