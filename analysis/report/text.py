"""Sentences about a study, for the page and the terminal."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from analysis.format import figure_name, flatten, plural
from analysis.report.tables import Evidence
from analysis.results.aggregate import StudyResults
from analysis.results.selection import luck_by_method
from analysis.statistics.decisions import MAIN_FIGURES, in_short, sentence
from trainables.records.failures import Stop
from trainables.records.types import TEST, Design

_SPLIT_WORDS: Mapping[Design, str] = {
    Design.REVERSE_FOLDS: "disjoint training fold",
    Design.RANDOM: "random split",
    Design.FOLDS: "fold",
    Design.OFFICIAL: "seed",
}


@dataclass(frozen=True)
class Finding:
    """One method against its control.

    Attributes:
        decision: On the study's objective, in a word.
        text: The same as a sentence.
        beside: The decisions in the other figures, in short.
    """

    method: str
    decision: str
    text: str
    beside: str


def findings(results: StudyResults, evidence: Evidence) -> list[Finding]:
    """Return each method's decision in the study's objective, and those in the other figures beside it."""
    objective = results.description.objective
    return [
        Finding(
            method=method,
            decision=str(own.differences[objective].decision),
            text=sentence(own.differences[objective], method, figure_name(objective), results.not_converged),
            beside="; ".join(
                f"{figure_name(name)} {in_short(difference)}"
                for name, difference in own.differences.items()
                if name != objective and name in MAIN_FIGURES and math.isfinite(difference.interval.low)
            ),
        )
        for method, own in evidence.items()
        if objective in own.differences
    ]


def optimistic(results: StudyResults) -> str | None:
    """Return a warning where candidates were chosen by the figures that are reported; None elsewhere."""
    if not results.chosen_on_reported:
        return None
    return (
        "These numbers are optimistic, and decide nothing: each method’s best candidate was chosen on the test items "
        "that are reported, so the luck of the best of several is part of its figures. Nested selection chooses inside "
        "each split’s training items, and reports items that had no say."
    )


def chosen_inside(results: StudyResults) -> str | None:
    """Return by which figures a nested study chose hyperparameters; None where there was nothing to choose."""
    description = results.description
    if description.choosing_phase == TEST or not any(n > 1 for n in description.n_candidates.values()):
        return None
    return (
        f"Hyperparameters: each split chose by the {figure_name(description.objective)} on its inner items, not by the "
        "figures shown here, which are of its test items."
    )


def luck(results: StudyResults) -> str | None:
    """Return what choosing by the reported scores would have claimed in a nested study; None where it is nothing."""
    found = {name: own for name, own in luck_by_method(results).items() if round(own.excess, 4) > 0}
    if not found:
        return None
    figure = figure_name(results.description.objective)
    listed = ", ".join(f"{own.excess:.4f} ({method})" for method, own in found.items())
    return (
        f"Choosing by the scores that are reported would claim too much. On the inner items, where candidates are "
        f"scored, the one candidate that is best over all splits has a better mean {figure} than candidates that are "
        f"chosen for each split on the other splits alone, by {listed}: that is luck, of the inner items, "
        "which are fewer than the test items. The figures here do not have it: each split chose without its test items."
    )


def sampling_note(results: StudyResults) -> str:
    """Return what the intervals of a study's design hold, and what they do not."""
    match results.description.design:
        case Design.OFFICIAL:
            return (
                "All splits train on the same items: the intervals hold the luck of seeds and test items, the luck of "
                "the one training set is not in it."
            )
        case Design.FOLDS:
            return (
                "Each item is tested once, so the luck of items and of trainings cannot be told apart; the larger of "
                "the two estimates is taken. All folds train on nearly the same items: the intervals are those of "
                "the trained models on new items, the luck of the training items that they share is not in them."
            )
        case Design.RANDOM:
            return "Random splits share training items; the intervals are widened for it."
        case _:
            return "The intervals hold the luck of training folds and of test items, and what the two share."


def what_was_saved(stops: Sequence[Stop]) -> str:
    """Return what early stopping saved in a search."""
    by_rule = Counter(stop.rule for stop in stops)
    rules = ", ".join(f"{count} by {rule}" for rule, count in sorted(by_rule.items()))
    saved, planned = sum(stop.n_epochs_saved for stop in stops), sum(stop.n_epochs_planned for stop in stops)
    return f"Candidates stopped early: {rules}; {saved:,} of their {planned:,} epochs of training were saved."


def paragraph(results: StudyResults) -> str:
    """Return what was studied, in plain sentences."""
    description, data = results.description, results.description.data
    # An encoded column is named after its source and its encoder.
    columns = ", ".join(
        f"{column.partition('--')[0]} ({options['encoder']})" if "encoder" in options else column
        for column, options in data.embeddings.items()
    )
    inputs = f", from embeddings of {columns}" if columns else ""
    train = [record.metrics["n_train"] for record in results.records if "n_train" in record.metrics]
    share = f" on {100 * max(train) / data.n_items:.2g} % of the items" if train else ""
    words = plural(len(description.splits[TEST]), _SPLIT_WORDS[description.design])
    splits = f"{share} in {words}, shared by all methods"
    each = " for each split" if results.own_searches else ""
    studied = (
        f"{plural(len(description.methods), 'method')} of augmenting embeddings, in "
        f"{plural(sum(description.n_candidates.values()), 'candidate')}{each}, on {data.n_items:,} items of "
        f"{data.n_classes:,} classes{inputs}."
    )
    if description.choosing_phase == TEST:
        return f"{studied} Each candidate was trained{splits}."
    return (
        f"{studied} Each split chose a candidate of each method inside its training items, trained it{splits}, and "
        "tested it on items that had no say."
    )


def embedding(column: str, options: Mapping[str, Any]) -> tuple[str, str, list[tuple[str, str]]]:
    """Return the name of an encoded column, its main facts, and everything else that is known of it."""
    counted = {
        "dimension": "dimensions",
        "n_distinct": "distinct inputs",
        "n_empty": "empty",
        "n_truncated": "truncated",
        "n_skipped": "skipped",
    }
    facts = [str(options["encoder"])] if "encoder" in options else []
    facts += [f"{options[key]:,} {words}" for key, words in counted.items() if isinstance(options.get(key), int)]
    return str(options.get("column", column)), ", ".join(facts) or "–", list(flatten(options))


def provenance_rows(results: StudyResults) -> list[tuple[str, list[str]]]:
    """Return the provenance of the trials: each field with every value found, so that mixed machines show."""
    found = {f"digest_{name}": {digest: None} for name, digest in results.description.digests.items()}
    for record in results.records:
        for name, value in record.provenance.items():
            found.setdefault(name, {})[value] = None
    return [(name, list(values)) for name, values in found.items()]
