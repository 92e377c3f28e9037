"""One line a method: what is averaged, what is chosen, what is missing."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from analysis.report.tables import table_rows
from analysis.results.aggregate import MethodSummary, Spread, maximum_deviation, spread
from analysis.results.load import load_study
from trainables.records.types import Candidate

Make = Callable[..., Path]


def test_optimism_is_what_choosing_gained() -> None:
    chosen, reported = (Spread(mean, 0.0, 1) for mean in (0.98, 0.97))
    summary = MethodSummary("control", Candidate("control"), (0,), reported, {}, 1.0, chosen, 1, 1)
    assert summary.optimism == pytest.approx(0.01)


def test_maximum_deviation_is_the_largest_distance_from_the_mean() -> None:
    assert maximum_deviation([1.0, 2.0, 6.0]) == 3.0
    assert maximum_deviation([5.0]) == 0.0
    with pytest.raises(ValueError, match="at least one value"):
        maximum_deviation([])


def test_spread_leaves_out_what_is_not_defined() -> None:
    assert spread([0.25, math.nan, 0.75]).n == 2
    assert spread([0.25, math.nan, 0.75]).mean == 0.5
    assert spread([math.nan]).n == 0
    assert math.isnan(spread([math.nan]).mean)


def test_the_best_candidate_agrees_with_the_tidy_table(whole_study: Path) -> None:
    results = load_study(whole_study)
    table = results.table()
    for summary in results.methods:
        means = table[table.method == summary.method].groupby("candidate").auc_weighted.mean()
        assert str(summary.candidate) == means.idxmax()
        own = table[table.candidate == means.idxmax()]
        assert summary.objective.mean == pytest.approx(own.auc_weighted.mean())
        assert summary.objective.maximum_deviation == pytest.approx(
            np.abs(own.auc_weighted - own.auc_weighted.mean()).max()
        )
        assert summary.figure("accuracy").mean == pytest.approx(own.accuracy.mean())
        assert summary.duration_s == pytest.approx(own.duration_s.mean())
        assert summary.n_splits == 3
        assert summary.choosing_score == summary.objective


def test_of_equal_candidates_the_first_is_chosen(study_of: Make) -> None:
    # Accuracy over no items of a class that does not exist is the same for both: the number of items.
    results = load_study(study_of(changes={"objective": "n_validation"}))
    assert results.methods[1].candidate == Candidate.of("e_mixup", {"alpha": 0.2})


def test_an_unfinished_candidate_does_not_compete_and_is_named(study_of: Make) -> None:
    directory = study_of(skip=lambda config: config.split == 1 and "alpha=0.4" in str(config))
    results = load_study(directory)
    assert results.missing == ["e_mixup(alpha=0.4): paper split 1 is missing."]
    summary = results.methods[1]
    assert summary.candidate == Candidate.of("e_mixup", {"alpha": 0.2})
    assert (summary.n_complete, summary.n_planned) == (1, 2)


def test_a_method_without_a_finished_candidate_has_no_figures(study_of: Make) -> None:
    directory = study_of(skip=lambda config: config.candidate.method == "control")
    results = load_study(directory)
    assert results.missing == ["control: 1 of 1 candidate has no finished paper trial."]
    summary = results.methods[0]
    assert summary.candidate is None
    assert math.isnan(summary.objective.mean)


def test_a_whole_study_misses_nothing(whole_study: Path) -> None:
    assert load_study(whole_study).missing == []


def test_nested_chooses_on_search_and_reports_on_confirm(study_of: Make) -> None:
    directory = study_of(protocol="nested", splits={"search": [0, 1], "confirm": [0, 1, 2]}, alphas=(0.3, 0.9))
    results = load_study(directory)
    table = results.table()
    summary = results.methods[1]
    assert summary.candidate == Candidate.of("e_mixup", {"alpha": 0.3})
    assert summary.n_splits == 3
    means = table.groupby(["candidate", "phase"]).auc_weighted.mean()
    assert summary.choosing_score.mean == pytest.approx(means["e_mixup(alpha=0.3)", "search"])
    assert summary.objective.mean == pytest.approx(means["e_mixup(alpha=0.3)", "confirm"])
    assert results.missing == []


def test_nested_without_confirmation_reports_no_figure(study_of: Make) -> None:
    directory = study_of(
        protocol="nested",
        splits={"search": [0, 1], "confirm": [0, 1]},
        skip=lambda config: config.phase == "confirm" and config.split == 1,
    )
    results = load_study(directory)
    assert all(summary.candidate is None for summary in results.methods)
    assert all(summary.choosing_score.n == 2 for summary in results.methods)
    assert len(results.missing) == 2
    assert all(row.hyperparameters == "best candidate not confirmed" for row in table_rows(results))


def test_only_what_the_study_proposes_now_competes(study_of: Make) -> None:
    """Of a search whose ranges have changed, old candidates are recorded too, some of them on splits of that time."""
    plan = {"protocol": "nested", "splits": {"search": [0, 1], "confirm": [0, 1]}, "methods": ("e_mixup",)}
    every = load_study(study_of(**plan)).candidates["search"]
    scores = {one.candidate: one.figures["auc_weighted"].mean for one in every}
    best = max(scores, key=lambda candidate: scores[candidate])
    others = [dict(candidate.params) for candidate in scores if candidate != best]
    proposed = {"e_mixup": {"asked": "x", "proposed": others}}
    results = load_study(study_of(**plan, changes={"candidates": proposed, "n_candidates": {"e_mixup": len(others)}}))
    kept = results.candidates["search"]
    assert {one.candidate for one in kept} == set(scores) - {best}
    assert results.n_unplanned >= 2
    assert results.methods[0].n_complete == len(others)


def test_what_was_confirmed_before_is_not_missed(study_of: Make) -> None:
    """More splits were asked for, and another candidate is the best by now."""
    directory = study_of(
        protocol="nested",
        splits={"search": [0, 1], "confirm": [0, 1]},
        methods=("e_mixup",),
        alphas=(0.1, 0.3),
        # What was confirmed, the first, has met one split of the two of each phase.
        skip=lambda config: config.split == 1 and config.candidate == Candidate.of("e_mixup", {"alpha": 0.1}),
    )
    assert load_study(directory).missing == [
        "e_mixup(alpha=0.1): search split 1 is missing.",
        "e_mixup: 1 of 1 candidate has no finished confirm trial.",
    ]
