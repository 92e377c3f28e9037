"""One line a method: what is averaged, what is chosen, what is missing."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from analysis.report.page import render
from analysis.report.tables import table_rows
from analysis.results.aggregate import maximum_deviation, spread
from analysis.results.learning import epochs_to_control
from analysis.results.load import load_study
from trainables.records.failures import Stop, write_stop
from trainables.records.types import Candidate, SplitId, TrialConfig

Make = Callable[..., Path]


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
        assert set(summary.choices.values()) == {summary.candidate}


def test_of_equal_candidates_the_first_is_chosen(study_of: Make) -> None:
    # Accuracy over no items of a class that does not exist is the same for both: the number of items.
    results = load_study(study_of(changes={"objective": "n_validation"}))
    assert results.methods[1].candidate == Candidate.of("e_mixup", {"alpha": 0.2})


def test_an_unfinished_candidate_does_not_compete_and_is_named(study_of: Make) -> None:
    directory = study_of(skip=lambda config: config.split.seed == 1 and "alpha=0.4" in str(config))
    results = load_study(directory)
    assert results.missing == ["e_mixup(alpha=0.4): test split 1 is missing."]
    summary = results.methods[1]
    assert summary.candidate == Candidate.of("e_mixup", {"alpha": 0.2})
    assert (summary.n_complete, summary.n_planned) == (1, 2)


def test_a_method_without_a_finished_candidate_has_no_figures(study_of: Make) -> None:
    directory = study_of(skip=lambda config: config.candidate.method == "control")
    results = load_study(directory)
    assert results.missing == ["control: 1 of 1 candidate has no finished test trial."]
    summary = results.methods[0]
    assert summary.candidate is None
    assert math.isnan(summary.objective.mean)


def test_a_whole_study_misses_nothing(whole_study: Path) -> None:
    assert load_study(whole_study).missing == []


def test_each_split_of_a_nested_study_has_its_own_choice(nested_study: Path) -> None:
    results = load_study(nested_study)
    table = results.table()
    for summary in results.methods[1:]:
        own = table[(table.method == summary.method) & (table.phase == "search")]
        means = own.groupby(["split", "candidate"]).auc_weighted.mean()
        chosen = {split: means[split].idxmax() for split in range(3)}
        assert {split.seed: str(candidate) for split, candidate in summary.choices.items()} == chosen
        tested = table[(table.method == summary.method) & (table.phase == "test")].set_index("split")
        assert dict(tested.candidate) == chosen
        assert summary.objective.mean == pytest.approx(tested.auc_weighted.mean())
        assert [record.config.split.seed for record in results.reported_records[summary.method]] == [0, 1, 2]
    assert any(summary.candidate is None for summary in results.methods), "splits choose differently"
    assert all(summary.finished for summary in results.methods)
    assert [(one.n_complete, one.n_planned) for one in results.methods] == [(1, 1), *[(2, 2)] * 4]
    assert results.missing == []


def test_a_split_that_is_not_tested_leaves_its_method_without_figures(study_of: Make) -> None:
    directory = study_of(selection="nested", skip=lambda config: config.phase == "test" and config.split.seed == 1)
    results = load_study(directory)
    assert not any(summary.finished for summary in results.methods)
    assert results.reported_records == {}
    assert results.missing == ["control: test split 1 is missing.", "e_mixup: test split 1 is missing."]
    assert all(row["hyperparameters"] == "chosen candidates not yet tested" for row in table_rows(results))


def test_only_what_the_study_proposes_now_competes(study_of: Make) -> None:
    """Of a search whose ranges have changed, old candidates are recorded too."""
    plan = {"selection": "nested", "n_splits": 2, "methods": ("e_mixup",)}
    every = load_study(study_of(**plan, skip=lambda config: config.phase == "test")).scores["e_mixup"]
    best = max(every, key=lambda candidate: sum(every[candidate].values()))
    others = [dict(candidate.params) for candidate in every if candidate != best]
    proposed = {"e_mixup": {"asked": "x", "proposed": others}}
    results = load_study(study_of(**plan, changes={"candidates": proposed, "n_candidates": {"e_mixup": len(others)}}))
    assert {one.candidate for one in results.candidates["search"]} == set(every) - {best}
    assert results.n_unplanned >= 2
    assert set(results.methods[0].choices.values()) == set(every) - {best}
    assert results.methods[0].n_complete == len(others)


def test_splits_that_search_on_their_own_have_candidates_of_their_own(study_of: Make) -> None:
    results = load_study(study_of(selection="nested", own_searches=True, n_inner=2))
    assert results.missing == []
    summary = results.methods[1]
    assert (summary.n_complete, summary.n_planned) == (6, 6)
    for split, candidate in summary.choices.items():
        assert results.description.asks_for(candidate, split)
        assert round(100 * dict(candidate.params)["alpha"]) % 10 == split.seed
    assert all(len(on) == 1 for on in results.scores["e_mixup"].values())


def test_what_the_splits_of_an_unfinished_search_miss(study_of: Make) -> None:
    directory = study_of(
        selection="nested",
        n_inner=2,
        methods=("e_mixup",),
        skip=lambda config: config.phase == "search" and config.split.seed == 1 and config.split.inner == 1,
    )
    assert load_study(directory).missing == [
        "e_mixup(alpha=0.2): search split 1/1 is missing.",
        "e_mixup(alpha=0.4): search split 1/1 is missing.",
        "e_mixup: test split 1 is missing.",
    ]


def test_a_candidate_that_one_split_gave_up_is_missing_on_no_other(study_of: Make) -> None:
    given_up = Candidate.of("e_mixup", {"alpha": 0.4})

    def skip(config: TrialConfig) -> bool:
        return config.candidate == given_up and config.split in {SplitId(1, 1), SplitId(2, 1)}

    directory = study_of(selection="nested", n_inner=2, skip=skip)
    stop = Stop("search", given_up, (SplitId(1, 1),), "racing", "auc_weighted", 0.81, 10, 40)
    write_stop(directory / "records", stop, "aa11", {})
    results = load_study(directory)
    assert results.missing == ["e_mixup(alpha=0.4): search split 2/1 is missing."]
    page = render(results, results.reported_records, {}, [])
    assert "e_mixup(alpha=0.4) on split 1, after 75 % of its training" in page


def test_epochs_to_control_are_those_to_its_final_accuracy(whole_study: Path) -> None:
    results = load_study(whole_study)
    control = results.reported_records["control"]
    for summary in results.methods:
        expected = []
        for own, other in zip(results.reported_records[summary.method], control, strict=True):
            enough = own.curves.epoch_top1 >= 0.99 * other.curves.epoch_top1[-1]
            expected.append(float(own.curves.epoch[np.argmax(enough)]))
        assert summary.figure("epochs_to_control").mean == pytest.approx(np.mean(expected))
    assert results.methods[4].figure("epochs_to_control").mean < results.methods[0].figure("epochs_to_control").mean
    slow = replace(control[0], curves=replace(control[0].curves, epoch_top1=0.5 * control[0].curves.epoch_top1))
    assert math.isnan(epochs_to_control([slow], control[:1])[0])
