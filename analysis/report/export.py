"""The results for other programs: LaTeX, CSV, and `results.json`.

`results.json`, format 3. Numbers are not rounded; null stands for what is not defined. The format number rises when a
key changes its meaning or is removed; keys may be added.

| key | holds |
|---|---|
| `format` | 3 |
| `study` | `name`, `preset`, `design`, `selection`, `objective`, `threshold`, `splits` by phase, `digests` |
| | a split is its seed, and an inner one `SEED/NUMBER` |
| `missing` | one sentence for each candidate that is not finished; empty for a complete study |
| `methods[]` | one entry per method, in the study's order |
| `.method` | name |
| `.choices[]` | what each split chose: `split`, `hyperparameters` |
| `.hyperparameters.NAME` | over those: `median`, `low`, `high`, `n`, and `n_auto`, which the others leave out |
| `.splits` | the splits behind every figure of the method; empty until all are finished |
| `.not_converged[]` | why its trainings have not converged: `rule`, `value`, `limit`, `text`; empty if they have |
| `.not_judged` | why the loss does not show whether they have; null if it does, or they have not |
| `.figures.NAME` | `mean`, `maximum_deviation` and `n_splits` where it is defined |
| `.duration_s` | mean device seconds of a trial |
| `.luck` | of choosing by what is reported, on the inner items: `claimed`, `honest`, `excess`; null without a choice |
| `.intervals.NAME` | 95 % interval of the figure: `estimate`, `low`, `high`, `standard_error`, `p_value` |
| `.against_control.NAME` | differences to the control of the method's objective, `reference`: an `interval`, with |
| | the keys above, that holds for all methods together; `region` of equivalence, `decision`, `further_splits` (fewest |
| | and most, null where unbounded), and whether the figure is `confirmatory`: the study's objective. Empty, as are |
| | the intervals, where candidates were chosen by the reported figures |
| `pairs[]` | further pairs, compared in the objective: `method`, `reference`, and the keys above; all hold together |
| `importances.METHOD.NAME` | importance of a hyperparameter (PED-ANOVA), in [0, 1]; absent if unknown |
| `layers` | gains of augmenting one layer; null where the study augments fewer than two: |
| `.phase` | the phase of the trials |
| `.gains[]` | `figure`, `basis`, `objective`, `augmentation`, `stop_gradient`, `layer`, and an interval's keys |
| `.auto[]` | `chosen` layers by split, `best_layer`, and the intervals `gain`, `best_gain`, `regret` |
| `candidates[]` | `method`, `hyperparameters`, `phase`, `splits`, `missing_splits`, `figures`, `duration_s` |
"""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Mapping, Sequence
from typing import Any

import pandas as pd

from analysis.layers.section import Layers, layers_json
from analysis.report.tables import Evidence, headings, table_rows
from analysis.results.aggregate import MethodSummary, Spread, StudyResults
from analysis.results.selection import Luck, chosen_values, luck_by_method
from analysis.statistics.decisions import Difference, Pair
from trainables.records.choice import figure_of
from trainables.records.types import SplitId

# Version of `results.json`.
RESULTS_FORMAT = 3

# Characters that LaTeX's standard fonts or input encoding do not have; pandas escapes the others.
_LATEX_CHARACTERS = str.maketrans(
    {"±": r"$\pm$", "−": "$-$", "–": "--", "“": "``", "”": "''", "<": r"\textless{}", ">": r"\textgreater{}"}
)


def table_latex(results: StudyResults, evidence: Evidence) -> str:
    r"""Return the table for a paper, to be set with `booktabs`: `\input{table.tex}`."""
    columns = headings(results, evidence)
    head = "".join(f"% {line}\n" for line in (r"Needs \usepackage{booktabs}.", *results.convergence))
    rows = [[row[name] for name in columns] for row in table_rows(results, evidence)]
    alignment = "".join("l" if name in ("method", "hyperparameters", "decision") else "r" for name in columns)
    table = pd.DataFrame(rows, columns=list(columns.values()))
    latex = table.to_latex(index=False, escape=True, column_format=alignment)
    return head + latex.translate(_LATEX_CHARACTERS)


def table_csv(results: StudyResults) -> str:
    """Return the table's numbers unrounded, one row per method; an empty cell where a figure is not defined.

    Hyperparameters are medians over what the splits chose, with `_low` and `_high` where they differ.
    """
    summaries = results.methods
    names = dict.fromkeys(name for summary in summaries for name in summary.figures)
    values = {summary.method: _chosen(summary) for summary in summaries}
    params = dict.fromkeys(name for own in values.values() for name in own)
    rows = [
        {
            "method": summary.method,
            **{name: values[summary.method].get(name) for name in params},
            "n_splits": summary.n_splits,
            "not_converged": str(results.not_converged.get(summary.method, "")),
            "not_judged": results.not_judged.get(summary.method, ""),
            **{f"{name}{end}": number for name in names for end, number in _spread(summary.figure(name)).items()},
            "duration_s": summary.duration_s,
            "n_complete": summary.n_complete,
            "n_planned": summary.n_planned,
        }
        for summary in summaries
    ]
    return pd.DataFrame(rows).to_csv(index=False, lineterminator="\n")


def _chosen(summary: MethodSummary) -> dict[str, float]:
    found = {}
    for name, own in chosen_values(summary.choices.values() if summary.finished else ()).items():
        found[name] = own.median
        if own.low < own.high:
            found |= {f"{name}_low": own.low, f"{name}_high": own.high}
    return found


def _spread(figure: Spread) -> dict[str, float]:
    """Return the columns of a figure, by what follows its name."""
    return {"": figure.mean, "_maximum_deviation": figure.maximum_deviation, "_n_splits": figure.n}


def results_json(
    results: StudyResults, evidence: Evidence, layers: Layers | None = None, pairs: Sequence[Pair] = ()
) -> str:
    """Return the results as JSON; the head of this module documents its keys."""
    description, lucky = results.description, luck_by_method(results)
    found = {
        "format": RESULTS_FORMAT,
        "study": {
            "name": description.name,
            "preset": description.preset,
            "design": description.design,
            "selection": description.selection,
            "objective": description.objective,
            "threshold": description.threshold,
            "splits": {phase: _splits(splits) for phase, splits in description.splits.items()},
            "digests": description.digests,
        },
        "missing": results.missing,
        "importances": results.importances,
        "methods": [_method(summary, results, evidence, lucky.get(summary.method)) for summary in results.methods],
        "pairs": [{"method": method, **_difference(one), "figure": one.figure} for method, one in pairs],
        "layers": None if layers is None else layers_json(layers),
        "candidates": [
            {
                "method": summary.candidate.method,
                "hyperparameters": dict(summary.candidate.params),
                "phase": phase,
                "splits": _splits(summary.splits),
                "missing_splits": _splits(summary.missing_splits),
                "figures": _figures(summary.figures),
                "duration_s": summary.duration_s,
            }
            for phase in description.splits
            for summary in results.candidates[phase]
        ],
    }
    return json.dumps(_without_nan(found), indent=1, allow_nan=False, ensure_ascii=False) + "\n"


def _luck(found: Luck, objective: str) -> dict[str, float]:
    claimed, honest = figure_of(found.claimed, objective), figure_of(found.honest, objective)
    return {"claimed": claimed, "honest": honest, "excess": found.excess}


def _method(summary: MethodSummary, results: StudyResults, evidence: Evidence, lucky: Luck | None) -> dict[str, Any]:
    own, unsettled = evidence.get(summary.method), results.not_converged.get(summary.method)
    return {
        "method": summary.method,
        "choices": [
            {"split": split.seed, "hyperparameters": dict(candidate.params)}
            for split, candidate in sorted(summary.choices.items())
        ],
        "hyperparameters": {
            name: dataclasses.asdict(own) for name, own in chosen_values(summary.choices.values()).items()
        },
        "splits": _splits(summary.splits),
        "not_converged": [dataclasses.asdict(reason) for reason in unsettled.reasons] if unsettled else [],
        "not_judged": results.not_judged.get(summary.method),
        "figures": _figures(summary.figures),
        "duration_s": summary.duration_s,
        "luck": _luck(lucky, results.description.objective) if lucky else None,
        "intervals": {name: dataclasses.asdict(interval) for name, interval in own.intervals.items()} if own else {},
        "against_control": {
            name: _difference(difference) for name, difference in (own.differences if own else {}).items()
        },
    }


def _difference(difference: Difference) -> dict[str, Any]:
    return {key: value for key, value in dataclasses.asdict(difference).items() if key != "figure"}


def _splits(splits: Sequence[SplitId]) -> list[int | str]:
    return [split.seed if split.inner is None else str(split) for split in splits]


def _figures(figures: Mapping[str, Spread]) -> dict[str, Any]:
    return {
        name: {"mean": figure.mean, "maximum_deviation": figure.maximum_deviation, "n_splits": figure.n}
        for name, figure in figures.items()
    }


def _without_nan(value: Any) -> Any:
    """Replace NaN, which JSON does not have, by null."""
    if isinstance(value, Mapping):
        return {key: _without_nan(entry) for key, entry in value.items()}
    if isinstance(value, list | tuple):
        return [_without_nan(entry) for entry in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
