"""The page in words: what was studied, what was found, what made it."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from analysis.format import FIGURE_NAMES, flatten, plural
from analysis.report.tables import Evidence
from analysis.results.aggregate import StudyResults
from analysis.statistics.decisions import in_short, sentence
from trainables.records.failures import Stop, judged_by

_PHASE_WORDS: Mapping[str, str] = {"paper": "random split", "search": "search split", "confirm": "training fold"}


@dataclass(frozen=True)
class Finding:
    """One method against control, in words.

    Attributes:
        method: Name of the method.
        decision: On the study's objective, in a word.
        text: The same as a sentence.
        beside: What the other figures say, in short.
    """

    method: str
    decision: str
    text: str
    beside: str


def findings(results: StudyResults, evidence: Evidence) -> list[Finding]:
    """Each method's decision in the study's objective, and what the other figures say beside it."""
    objective = results.description.objective
    return [
        Finding(
            method=own.method,
            decision=str(own.differences[objective].decision),
            text=sentence(own.differences[objective], own.method, FIGURE_NAMES.get(objective, objective)),
            beside="; ".join(
                f"{FIGURE_NAMES.get(name, name)} {in_short(difference)}"
                for name, difference in own.differences.items()
                if name != objective and math.isfinite(difference.two_way.low)
            ),
        )
        for own in evidence.values()
        if objective in own.differences
    ]


def unsure(results: StudyResults) -> str | None:
    """What to say where no method is ever sure enough to name a class; None elsewhere."""
    known = [summary.figure("accuracy_known") for summary in results.methods]
    if not known or any(figure.n == 0 or figure.mean > 0 for figure in known):
        return None
    return (
        f"No item is given a class above the threshold {results.description.threshold:g} by any method: every accuracy "
        "of known items is 0, and what is said of accuracy says nothing. Train longer, or lower `objective.threshold`."
    )


def optimistic(results: StudyResults) -> str | None:
    """What to say where candidates were chosen on the items that are reported; None elsewhere."""
    if results.description.protocol != "paper" or all(n == 1 for n in results.description.n_candidates.values()):
        return None
    return (
        "These numbers are optimistic: each method's best candidate was chosen on the validation items that are "
        "reported. The nested protocol reports only what was not used to choose."
    )


def what_was_saved(stops: Sequence[Stop]) -> str:
    """What early stopping has done for a search."""
    by_rule = Counter(stop.rule for stop in stops)
    rules = ", ".join(f"{count} by {rule}" for rule, count in sorted(by_rule.items()))
    saved, planned = sum(stop.n_epochs_saved for stop in stops), sum(stop.n_epochs_planned for stop in stops)
    return f"Candidates given up early: {rules}; of their {planned:,} epochs of training {saved:,} were saved."


def given_up(stop: Stop, objective: str) -> str:
    """Why a search gave a candidate up.

    Args:
        stop: That.
        objective: The study's.
    """
    after = f"after {100 * stop.share:.0f} % of its training"
    if stop.rule == "asha":
        figure = judged_by(objective)
        return f"{stop.candidate}, {after}: with {figure} {stop.value:.4f} it was not among the best of its method."
    return f"{stop.candidate}, {after}: with {objective} {stop.value:.4f} it was worse than its method’s best."


def paragraph(results: StudyResults) -> list[str]:
    """What was studied, in plain sentences."""
    description, data = results.description, results.description.data
    n_methods, n_candidates = len(description.methods), sum(description.n_candidates.values())
    # An encoded column is named after its source and its encoder.
    columns = ", ".join(
        f"{column.partition('--')[0]} ({options['encoder']})" if "encoder" in options else column
        for column, options in data.embeddings.items()
    )
    inputs = f", from embeddings of {columns}" if columns else ""
    sentences = [
        f"{plural(n_methods, 'method')} of augmenting embeddings, in {plural(n_candidates, 'candidate')}, on "
        f"{data.n_items:,} items of {data.n_classes:,} classes{inputs}."
    ]
    train = [record.metrics["n_train"] for record in results.records if "n_train" in record.metrics]
    share = f" on {100 * max(train) / data.n_items:.2g} % of the items" if train else ""
    phase = description.reported_phase
    n_splits = len(description.splits[phase])
    splits = plural(n_splits, _PHASE_WORDS[phase])
    if description.protocol == "paper":
        sentences.append(f"Each candidate was trained{share} in {splits}, shared by all methods.")
    else:
        sentences.append(
            f"Each method’s best candidate was chosen inside training folds, then trained{share} in {splits}, "
            "shared by all methods, and judged on the other items."
        )
    return sentences


def none_source(results: StudyResults) -> str:
    """Which classes the "none" items are of: what every figure about them rests on."""
    stated = results.description.choices.get("Unknown classes")
    return f"Their classes: {stated or 'those that a split’s training items happen to miss, the rarest'}."


def facts(results: StudyResults) -> list[tuple[str, str]]:
    """The few numbers at the head of the page, as (value, what it counts)."""
    description, data = results.description, results.description.data
    return [
        (f"{data.n_items:,}", "items"),
        (f"{data.n_classes:,}", "classes"),
        (f"{data.n_features:,}", "numbers an item"),
        (str(len(description.splits[description.reported_phase])), "splits"),
        (f"{len(results.records):,}", "finished trials"),
        (f"{sum(record.duration_s for record in results.records) / 60:,.1f}", "device minutes"),
    ]


def embedding(column: str, options: Mapping[str, Any]) -> tuple[str, str, list[tuple[str, str]]]:
    """An encoded column: its name, what a reader asks first, and everything else."""
    counted = {
        "dimension": "numbers",
        "n_distinct": "distinct inputs",
        "n_empty": "empty",
        "n_truncated": "truncated",
        "n_skipped": "skipped",
    }
    facts = [str(options["encoder"])] if "encoder" in options else []
    facts += [f"{options[key]:,} {words}" for key, words in counted.items() if isinstance(options.get(key), int)]
    return str(options.get("column", column)), ", ".join(facts) or "–", list(flatten(options))


def provenance(results: StudyResults) -> list[tuple[str, list[str]]]:
    """What made the trials: each field with every value found, so that mixed machines show."""
    found: dict[str, dict[str, None]] = {}
    for name, digest in results.description.digests.items():
        found[f"digest_{name}"] = {digest: None}
    for record in results.records:
        for name, value in record.provenance.items():
            found.setdefault(name, {})[value] = None
    return [(name, list(values)) for name, values in found.items()]
