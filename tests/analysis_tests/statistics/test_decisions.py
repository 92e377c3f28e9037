"""From items to decisions, and what other programs read of them."""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from analysis.figures.items import forest_figures, item_figures
from analysis.figures.search import search_figures
from analysis.report.export import results_json
from analysis.report.page import render
from analysis.report.text import sampling_note
from analysis.report.write import ReportFiles, write_report
from analysis.results.controls import uncompared
from analysis.results.load import ReportError, each_with_items, load_study
from analysis.statistics.decisions import (
    MAIN_FIGURES,
    REGIONS,
    Difference,
    MethodEvidence,
    Sampling,
    asked_pairs,
    compare_pairs,
    figure_matrix,
    regions,
    sampling_of,
    sentence,
    weigh,
)
from analysis.statistics.decisions import tested_items as items_tested
from analysis.statistics.intervals import Decision, Interval
from analysis.statistics.simultaneous import simultaneous
from analysis.statistics.variance import variance
from tests.analysis_tests.conftest import Plan, make_study
from trainables.records.types import Design, TrialRecord

Make = Callable[..., Path]

RANDOM = Sampling(Design.RANDOM, 0.1)


def read(directory: Path) -> dict[str, list[TrialRecord]]:
    results = load_study(directory, with_items=True)
    return results.reported_records


def weighed(reported: dict[str, list[TrialRecord]]) -> dict[str, MethodEvidence]:
    return weigh(reported, REGIONS, RANDOM, "auc_weighted")


@pytest.fixture(scope="module")
def reported(whole_study: Path) -> dict[str, list[TrialRecord]]:
    return read(whole_study)


@pytest.fixture(scope="module")
def evidence(reported: dict[str, list[TrialRecord]]) -> dict[str, MethodEvidence]:
    return weighed(reported)


def test_only_wanted_trials_are_read(whole_study: Path) -> None:
    records = load_study(whole_study).records
    wanted = {record.config for record in records[4:8]}
    found = sorted(each_with_items(whole_study, wanted), key=lambda record: record.config)
    assert [record.config for record in found] == [record.config for record in records[4:8]]
    assert all(record.items is not None for record in found)


def test_the_mean_over_items_is_the_figure(
    reported: dict[str, list[TrialRecord]], evidence: dict[str, MethodEvidence]
) -> None:
    for method, records in reported.items():
        for figure in ("auc_weighted", "accuracy"):
            mean = np.mean([record.metrics[figure] for record in records])
            assert evidence[method].intervals[figure].estimate == pytest.approx(mean, abs=1e-6)


def test_differences_are_paired_by_split_and_item_and_hold_together(
    reported: dict[str, list[TrialRecord]], evidence: dict[str, MethodEvidence]
) -> None:
    others = [method for method in reported if method != "control"]
    control = figure_matrix(reported["control"], "auc_weighted", 500)
    paired = [figure_matrix(reported[method], "auc_weighted", 500) - control for method in others]
    expected = simultaneous([variance(values, Design.RANDOM, shared=0.1) for values in paired])
    assert [evidence[method].differences["auc_weighted"].interval for method in others] == expected
    assert not evidence["control"].differences
    assert np.isnan(paired[0]).sum() == 3 * 50


def test_the_objective_alone_is_confirmatory(evidence: dict[str, MethodEvidence]) -> None:
    differences = evidence["e_mixup"].differences
    unknown = {name for name in REGIONS if name.endswith(("_chosen", "_scaled", "_gen", "_hidden", "_input"))}
    assert set(differences) == set(REGIONS) - unknown, "what the trials have no values of is left out"
    assert [figure for figure, one in differences.items() if one.confirmatory] == ["auc_weighted"]


def test_nothing_is_decided_about_what_has_not_converged(reported: dict[str, list[TrialRecord]]) -> None:
    found = weigh(reported, REGIONS, RANDOM, "auc_weighted", ["e_mixup"])
    assert found["e_mixup"].differences["accuracy"].decision is Decision.NOT_CONVERGED
    assert found["e_stitchup"].differences["accuracy"].decision is not Decision.NOT_CONVERGED
    found = weigh(reported, REGIONS, RANDOM, "auc_weighted", ["control"])
    assert {one.decision for own in found.values() for one in own.differences.values()} == {Decision.NOT_CONVERGED}


def test_the_calibration_error_of_the_items_is_the_recorded_one(
    reported: dict[str, list[TrialRecord]], evidence: dict[str, MethodEvidence]
) -> None:
    errors = {method: [record.metrics["ece_known"] for record in records] for method, records in reported.items()}
    difference = evidence["soft_e_stitchup"].differences["ece_known"]
    expected = np.mean(errors["soft_e_stitchup"]) - np.mean(errors["control"])
    assert difference.interval.estimate == pytest.approx(expected, abs=1e-5)
    assert difference.interval.low < expected < difference.interval.high


@pytest.mark.parametrize("figure", ["ood_auroc", "ood_aupr"])
def test_the_detection_of_the_items_is_the_recorded_one(
    reported: dict[str, list[TrialRecord]], evidence: dict[str, MethodEvidence], figure: str
) -> None:
    values = {method: [record.metrics[figure] for record in records] for method, records in reported.items()}
    interval = evidence["soft_e_stitchup"].differences[figure].interval
    expected = np.mean(values["soft_e_stitchup"]) - np.mean(values["control"])
    assert interval.estimate == pytest.approx(expected, abs=1e-6)
    assert interval.low < expected < interval.high


def test_a_study_that_chooses_by_nll_decides_in_it(reported: dict[str, list[TrialRecord]]) -> None:
    found = weigh(reported, REGIONS, RANDOM, "nll")
    control, best = (
        np.mean([record.metrics["nll"] for record in reported[name]]) for name in ("control", "soft_e_stitchup")
    )
    difference = found["soft_e_stitchup"].differences["nll"]
    assert difference.confirmatory
    assert difference.decision is Decision.BETTER
    assert difference.interval.estimate == pytest.approx(best - control, abs=1e-6)
    assert found["control"].intervals["nll"].estimate == pytest.approx(control, abs=1e-6)
    assert found["control"].intervals["nll"].high > control > 1, "it is not cut at 1"


def test_less_calibration_error_is_better(reported: dict[str, list[TrialRecord]]) -> None:
    # A method that is never sure, and otherwise the same, is worse calibrated and equally accurate.
    unsure = []
    for record in reported["control"]:
        items = record.items
        assert items is not None
        doubtful = dataclasses.replace(items, logit=np.full_like(items.logit, -5))
        unsure.append(dataclasses.replace(record, items=doubtful))
    found = weighed({"control": reported["control"], "unsure": unsure})["unsure"].differences
    assert found["ece_known"].decision is Decision.WORSE
    assert found["ece_known"].interval.estimate > 0
    assert found["accuracy"].decision is Decision.EQUIVALENT


def test_items_that_differ_are_not_paired(reported: dict[str, list[TrialRecord]]) -> None:
    records = list(reported["e_mixup"])
    items = records[1].items
    assert items is not None
    moved = dataclasses.replace(items, item=items.item[::-1].copy())
    records[1] = dataclasses.replace(records[1], items=moved)
    with pytest.raises(ReportError, match=r"e_mixup.* have different test items"):
        weighed({"control": reported["control"], "e_mixup": records})


def test_without_control_there_are_intervals_and_no_differences(reported: dict[str, list[TrialRecord]]) -> None:
    found = weighed({"e_mixup": reported["e_mixup"]})
    assert not found["e_mixup"].differences
    assert math.isfinite(found["e_mixup"].intervals["accuracy"].low)


def test_regions_come_from_the_study_file() -> None:
    assert regions({}) == REGIONS
    assert regions({"objective": {"equivalence": {"accuracy": 0.01}}})["accuracy"] == 0.01
    with pytest.raises(ReportError, match=r"objective\.equivalence\.accuracy must be above 0, got -1\.0"):
        regions({"objective": {"equivalence": {"accuracy": -1}}})


@pytest.mark.parametrize(
    ("decision", "low", "further", "words"),
    [
        (Decision.BETTER, 0.001, None, "m is better than control: +0.0030 in weighted AUC (95 % interval +0.0010"),
        (Decision.SLIGHTLY_BETTER, 0.001, None, "less than the 0.002 that matters"),
        (Decision.EQUIVALENT, 0.001, None, "m is equivalent to control"),
        (Decision.UNDECIDED, -0.001, (7, 12), "7 to 12 more splits would decide it with a power of 80 % if"),
        (Decision.UNDECIDED, -0.001, (1, 1), "; 1 more split would decide it"),
        (Decision.UNDECIDED, -0.001, (7, None), "at least 7 more splits would decide it"),
        (Decision.UNDECIDED, -0.001, None, "more items are needed"),
        (Decision.UNDECIDED, math.nan, None, "on one split: no interval"),
        (Decision.NOT_CONVERGED, 0.001, None, "Nothing is decided between m and control, as m has not converged: +"),
    ],
)
def test_sentences(decision: Decision, low: float, further: tuple[int, int | None] | None, words: str) -> None:
    interval = Interval(0.003, low, 0.005, 0.001, 0.01, 4.0)
    difference = Difference("auc_weighted", "control", interval, 0.002, decision, further, True)
    assert words in sentence(difference, "m", "weighted AUC", ["m"])


def test_results_json_holds_what_its_documentation_says(nested_study: Path, nested_report: ReportFiles) -> None:
    found: dict[str, Any] = json.loads(nested_report.json.read_text(encoding="utf-8"))
    assert found["format"] == 3
    assert set(found) == {"format", "study", "missing", "importances", "methods", "pairs", "layers", "candidates"}
    assert found["study"]["splits"]["search"] == ["0/0", "0/1", "1/0", "1/1", "2/0", "2/1"]
    table = load_study(nested_study).table()
    method = found["methods"][1]
    own = table[(table.method == "e_mixup") & (table.phase == "test")]
    assert method["figures"]["accuracy"]["mean"] == pytest.approx(own.accuracy.mean())
    difference = method["against_control"]["auc_weighted"]
    assert set(difference) == {"reference", "interval", "region", "decision", "further_splits", "confirmatory"}
    assert difference["interval"]["low"] < difference["interval"]["estimate"] < difference["interval"]["high"]
    assert len([one for one in found["candidates"] if one["phase"] == "search"]) == 9
    assert len(nested_report.findings) == 4


def test_json_has_null_for_what_is_not_defined(study_of: Make) -> None:
    directory = study_of(n_rare=0, n_splits=1)
    results = load_study(directory)
    found = json.loads(results_json(results, weighed(read(directory))))
    assert found["methods"][0]["figures"]["accuracy_none"]["mean"] is None
    assert found["methods"][1]["against_control"]["accuracy"]["interval"]["low"] is None


def test_confidence_shares_and_reliability_agree_with_the_items(reported: dict[str, list[TrialRecord]]) -> None:
    figures = {figure.name: figure for figure in item_figures(reported)}
    for series in figures["confidence-known"].series:
        assert series.mean.sum() == pytest.approx(1.0)
    control = next(series for series in figures["reliability"].series if series.method == "control")
    shares = []
    for record in reported["control"]:
        items = record.items
        assert items is not None
        within = items.known & (items.confidence >= 7 / 15) & (items.confidence < 8 / 15)
        shares.append((items.predicted == items.label)[within].mean())
    assert control.mean[7] == pytest.approx(np.mean(shares))


def test_class_gains_are_the_mean_over_classes(reported: dict[str, list[TrialRecord]]) -> None:
    (figure,) = (figure for figure in item_figures(reported) if figure.name == "class-gains")
    assert all(series.method != "control" for series in figure.series)
    assert all(np.diff(series.x).min() > 0 for series in figure.series)


def test_pairs_hold_together_and_the_control_is_no_question(reported: dict[str, list[TrialRecord]]) -> None:
    asked = asked_pairs(list(reported))
    assert asked == [
        ("e_stitchup", "e_mixup"),
        ("soft_e_stitchup", "soft_e_mixup"),
        ("soft_e_mixup", "e_mixup"),
        ("soft_e_stitchup", "e_stitchup"),
    ]
    assert asked_pairs(["control", "soft_control", "e_mixup"]) == []
    found = compare_pairs(reported, asked, "top1", 0.005, RANDOM, ["e_mixup"])
    assert [(method, one.reference) for method, one in found] == asked
    values = {method: figure_matrix(records, "top1", 500) for method, records in reported.items()}
    tested = {method: items_tested(records, 500) for method, records in reported.items()}
    parts = [RANDOM.variance_of(values[one] - values[other], tested[one]) for one, other in asked]
    assert [one.interval for _, one in found] == [own.within(-1.0, 1.0) for own in simultaneous(parts)]
    assert [one.decision is Decision.NOT_CONVERGED for _, one in found] == [True, False, True, False]
    (alone,) = compare_pairs(reported, asked[:1], "top1", 0.005, RANDOM)
    assert alone[1].interval.p_value < found[0][1].interval.p_value
    assert compare_pairs(reported, [("e_mixup", "absent")], "top1", 0.005, RANDOM) == []


def test_how_the_phases_of_a_design_sample_the_items(nested_study: Path) -> None:
    description = load_study(nested_study).description
    assert sampling_of(description).design is Design.RANDOM
    assert sampling_of(description, "search").design is Design.FOLDS
    official = dataclasses.replace(description, design=Design.OFFICIAL)
    assert {sampling_of(official, phase) for phase in ("search", "test")} == {Sampling(Design.OFFICIAL)}
    assert "the luck of the one training set is not in it" in " ".join(
        sampling_note(dataclasses.replace(load_study(nested_study), description=official)).split()
    )


def test_what_inner_splits_chose_is_compared_too(nested_study: Path) -> None:
    found = weighed(read(nested_study))["soft_e_stitchup"].differences
    assert {"accuracy_chosen", "ece_known_scaled", "ood_auroc_joint_energy"} <= set(found)
    assert "ood_auroc_gen" not in found
    drawn = {figure.name for figure in forest_figures(weighed(read(nested_study)))}
    assert drawn == {f"differences-{figure}" for figure in MAIN_FIGURES}


def test_responses_of_splits_that_search_on_their_own(study_of: Make) -> None:
    results = load_study(study_of(selection="nested", own_searches=True, alphas=(0.2, 0.4)))
    figures = {figure.name: figure for figure in search_figures(results)}
    series = {one.method: one for one in figures["response-alpha"].series}
    own = results.scores["e_mixup"]
    (control,) = results.scores["control"].values()
    level = {split: np.mean([control[split], *(on[split] for on in own.values() if split in on)]) for split in control}
    expected = sorted((dict(c.params)["alpha"], y - level[split]) for c, on in own.items() for split, y in on.items())
    np.testing.assert_allclose(series["e_mixup"].points, expected)
    assert series["e_mixup"].mean.size == 6
    assert series["control"].mean[0] == pytest.approx(np.mean([control[split] - level[split] for split in level]))
    assert figures["response-alpha"].y_label.endswith("minus the split’s mean")
    assert figures["budget"].series[1].x[-1] == pytest.approx(
        sum(r.duration_s for r in results.records if "e_mixup" in str(r.config) and r.config.phase == "search")
    )


def test_the_response_shows_every_split(whole_study: Path) -> None:
    results = load_study(whole_study)
    figures = {figure.name: figure for figure in search_figures(results)}
    series = next(series for series in figures["response-alpha"].series if series.method == "e_mixup")
    assert list(series.x) == [0.2, 0.4]
    assert series.points.shape == (6, 2)
    assert series.mean[0] == pytest.approx(series.points[:3, 1].mean())


def test_the_budget_never_falls_and_counts_every_trial(whole_study: Path) -> None:
    results = load_study(whole_study)
    figures = {figure.name: figure for figure in search_figures(results)}
    for series in figures["budget"].series:
        assert (np.diff(series.mean) >= 0).all()
        own = [r.duration_s for r in results.records if r.config.candidate.method == series.method]
        assert series.x[:-1].max() == pytest.approx(sum(own))


BOTH = ("control", "e_mixup", "e_stitchup", "contrastive_control", "contrastive_deep_pca")


@pytest.fixture(scope="module")
def mixed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished study of two objectives; not to be written to."""
    return make_study(
        tmp_path_factory.mktemp("mixed"), Plan(methods=BOTH, selection="nested", n_items=300, n_classes=8)
    )


def test_each_method_is_compared_with_the_control_of_its_objective(mixed: Path) -> None:
    reported = read(mixed)
    found = weighed(reported)
    alone = weighed({name: reported[name] for name in BOTH[3:]})
    for figure, difference in found["contrastive_deep_pca"].differences.items():
        # One method is a family of one: another objective changes nothing.
        assert difference.reference == "contrastive_control"
        assert difference == alone["contrastive_deep_pca"].differences[figure]
    assert found["e_mixup"] == weighed({name: reported[name] for name in BOTH[:3]})["e_mixup"]
    assert not found["contrastive_control"].differences
    means = {name: np.mean([record.metrics["accuracy"] for record in reported[name]]) for name in BOTH}
    difference = found["contrastive_deep_pca"].differences["accuracy"]
    expected = means["contrastive_deep_pca"] - means["contrastive_control"]
    assert difference.interval.estimate == pytest.approx(expected, abs=1e-6)
    assert "than contrastive_control" in sentence(dataclasses.replace(difference, decision=Decision.BETTER), "a", "b")


@pytest.mark.usefixtures("without_pdf")
def test_two_objectives_are_told_apart_wherever_differences_stand(mixed: Path, tmp_path: Path) -> None:
    files = write_report(mixed, tmp_path)
    page = files.html.read_text(encoding="utf-8")
    each = "Contrastive methods against contrastive_control, the others against control."
    assert page.count(each) >= 3
    assert " contrastive_control: " in next(text for text in files.findings if text.startswith("contrastive"))
    assert "Against its own control" in files.latex.read_text(encoding="utf-8")
    assert "No control." not in page
    assert "No contrastive_control." not in page
    found = {method["method"]: method for method in json.loads(files.json.read_text(encoding="utf-8"))["methods"]}
    assert found["contrastive_deep_pca"]["against_control"]["accuracy"]["reference"] == "contrastive_control"
    assert found["e_mixup"]["against_control"]["accuracy"]["reference"] == "control"
    gains = (tmp_path / "figures/class-gains.csv").read_text(encoding="utf-8")
    assert "contrastive_deep_pca" in gains
    assert "control" not in gains


@pytest.mark.parametrize(
    ("methods", "whose"),
    [
        (("contrastive_deep_pca", "contrastive_control"), None),
        (("contrastive_deep_pca",), "<strong>No contrastive_control.</strong> Methods are"),
        (("contrastive_deep_pca", "control"), "<strong>No contrastive_control.</strong> Contrastive methods are"),
    ],
)
def test_a_missing_reference_is_named(study_of: Make, methods: tuple[str, ...], whose: str | None) -> None:
    directory = study_of(methods=methods)
    results = load_study(directory)
    page = render(results, results.reported_records, {}, [])
    assert (whose is None) == ("<strong>No c" not in page)
    assert (whose is None) == (uncompared(methods) == "")
    assert whose is None or uncompared(methods).startswith("No contrastive_control: ")
    assert whose is None or whose in page
    assert "No control." not in page
    forests = forest_figures(weighed(read(directory)))
    assert [figure.title for figure in forests[:1]] == (["Weighted AUC against contrastive_control"] * (whose is None))
