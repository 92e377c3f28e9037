"""What splits chose, in short, and the luck of choosing by what is reported."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from analysis.report.tables import values_text
from analysis.report.text import luck, optimistic
from analysis.results.load import load_study
from analysis.results.selection import luck_by_method, luck_of_choosing
from trainables.records.types import AUTO, Candidate

Make = Callable[..., Path]


def chosen(**values: tuple[float, ...]) -> list[Candidate]:
    return [Candidate.of("m", dict(zip(values, own, strict=True))) for own in zip(*values.values(), strict=True)]


@pytest.mark.parametrize(
    ("choices", "text"),
    [
        ([], "–"),
        (chosen(alpha=(0.4, 0.4, 0.4)), "alpha 0.4"),
        (chosen(alpha=(0.2, 0.8, 0.4)), "alpha 0.4 (0.2–0.8)"),
        (chosen(alpha=(0.2, 0.4), softness=(0.1, 0.1)), "alpha 0.3 (0.2–0.4), softness 0.1"),
        (chosen(layer=(AUTO, AUTO)), "layer auto"),
        (chosen(layer=(AUTO, 1.0, 3.0, 2.0)), "layer 2 (1–3, auto on 1 of 4)"),
        (chosen(layer=(AUTO, 2.0)), "layer 2 (auto on 1 of 2)"),
    ],
)
def test_what_the_splits_chose_in_short(choices: list[Candidate], text: str) -> None:
    assert values_text(choices) == text


def test_where_nothing_differs_all_of_the_excess_is_luck() -> None:
    random = np.random.default_rng(0)
    found = [luck_of_choosing(random.normal(size=(12, 10))) for _ in range(2000)]
    # The largest of 12 means of 10 normal numbers is 1.629 / sqrt(10) on average; the honest mean is that of no choice.
    assert np.mean([one.claimed for one in found]) == pytest.approx(1.629 / 10**0.5, abs=0.02)
    assert np.mean([one.honest for one in found]) == pytest.approx(0.0, abs=0.02)
    assert min(one.excess for one in found) > -1e-12


def test_without_a_choice_or_a_doubt_of_it_there_is_no_luck() -> None:
    random = np.random.default_rng(0)
    assert luck_of_choosing(random.normal(size=(1, 10))).excess == 0.0
    apart = np.array([[0.0], [100.0], [200.0]]) + random.normal(size=(3, 10))
    assert luck_of_choosing(apart).excess == 0.0


def test_a_nested_study_tells_what_reported_selection_would_have_claimed(nested_study: Path) -> None:
    results = load_study(nested_study)
    assert optimistic(results) is None
    table = results.table()
    own = table[(table.phase == "search") & (table.method == "soft_e_mixup")]
    scores = own.groupby(["candidate", "split"]).auc_weighted.mean().unstack()
    found = luck_by_method(results)
    assert found["soft_e_mixup"].claimed == pytest.approx(scores.mean(axis=1).max())
    honest = [scores.loc[scores.drop(columns=split).mean(axis=1).idxmax(), split] for split in scores]
    assert found["soft_e_mixup"].honest == pytest.approx(np.mean(honest))
    assert "control" not in found, "one candidate is no choice"
    assert f"{found['soft_e_mixup'].excess:.4f} (soft_e_mixup)" in str(luck(results))
    assert "control)" not in str(luck(results))


def test_nothing_is_told_of_luck_where_splits_share_no_candidates_or_items_had_a_say(
    study_of: Make, whole_study: Path
) -> None:
    assert luck(load_study(whole_study)) is None
    assert luck(load_study(study_of(selection="nested", own_searches=True))) is None
