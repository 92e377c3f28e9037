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
from analysis.statistics.decisions import in_short, sentence
from trainables.records.failures import Stop

_PHASE_WORDS: Mapping[str, str] = {"paper": "random split", "search": "search split", "confirm": "training fold"}


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
                if name != objective and math.isfinite(difference.interval.low)
            ),
        )
        for method, own in evidence.items()
        if objective in own.differences
    ]


def unsure(results: StudyResults) -> str | None:
    """Return a warning where no method is ever confident enough to predict a class; None elsewhere."""
    known = [summary.figure("accuracy_known") for summary in results.methods]
    if not known or any(figure.n == 0 or figure.mean > 0 for figure in known):
        return None
    return (
        f"No method predicts a class for any item: no confidence exceeds the threshold "
        f"{results.description.threshold:g}. Every accuracy on known items is 0, and comparisons of accuracy mean "
        "nothing. Train longer, or lower `objective.threshold`."
    )


def optimistic(results: StudyResults) -> str | None:
    """Return a warning where candidates were chosen on the items that are reported; None elsewhere."""
    if results.description.protocol != "paper" or all(n == 1 for n in results.description.n_candidates.values()):
        return None
    return (
        "These numbers are optimistic. Each method’s best candidate was chosen on the validation items that are "
        "reported. The nested protocol reports only items that were not used to choose."
    )


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
    phase = description.reported_phase
    splits = f"{share} in {plural(len(description.splits[phase]), _PHASE_WORDS[phase])}, shared by all methods"
    studied = (
        f"{plural(len(description.methods), 'method')} of augmenting embeddings, in "
        f"{plural(sum(description.n_candidates.values()), 'candidate')}, on {data.n_items:,} items of "
        f"{data.n_classes:,} classes{inputs}."
    )
    if description.protocol == "paper":
        return f"{studied} Each candidate was trained{splits}."
    return (
        f"{studied} Each method’s best candidate was chosen inside training folds, then trained{splits}, and evaluated "
        "on the other items."
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
