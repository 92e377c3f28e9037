"""Gains by layer and the claims about them: against slow references, known truths, and as the report shows them."""

from __future__ import annotations

import csv
import dataclasses
import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy import stats

from analysis.format import signed
from analysis.layers.figures import final_similarity, gain_figures, pair_names, similarity_figures
from analysis.layers.gains import AUTO, Gains, Target, auto_choices, chosen_layers, find_targets, measure, target_of
from analysis.layers.section import drawings, study_layers
from analysis.report.write import ReportFiles, write_report
from analysis.results.load import ReportError, load_study
from analysis.statistics.decisions import REGIONS, Sampling, figure_matrix
from analysis.statistics.intervals import interval_over_splits
from tests.analysis_tests.conftest import DEEP_METHODS, EPOCHS
from trainables.records.types import Candidate, Design, SplitId, TrialRecord

Make = Callable[..., Path]

FAMILIES = (("deep_dropout", False), ("deep_dropout", True), ("deep_pca", False))

LAYERS = (0, 1, 2, 3)

RANDOM = Sampling(Design.RANDOM)


@pytest.fixture(scope="module")
def records(deep_study: Path) -> tuple[TrialRecord, ...]:
    return load_study(deep_study, with_items=True).records


@pytest.fixture(scope="module")
def measured(deep_study: Path, records: tuple[TrialRecord, ...]) -> dict[str, Gains]:
    results = load_study(deep_study)
    return {gains.figure: gains for gains in measure(results, find_targets(results), iter(records), REGIONS)}


def of(records: tuple[TrialRecord, ...], method: str, **params: float) -> list[TrialRecord]:
    return [record for record in records if record.config.candidate == Candidate.of(method, params)]


def drawn(seed: int, effect: Callable[[Target], float] = lambda target: 0.0, noise: float = 0.02) -> Gains:
    """Gains of every target, on 4 splits of 200 items: an effect and noise, a tenth of the items missing."""
    random = np.random.default_rng(seed)
    missing = np.stack([random.permutation(200) < 20 for _ in range(4)])
    names = [
        Target(objective, *family, layer=layer)
        for objective in ("contrastive", "supervised")
        for family in FAMILIES
        for layer in (*LAYERS, AUTO)
    ]
    names += [Target(objective, "uniform_dropout") for objective in ("contrastive", "supervised")]
    values = {}
    for target in names:
        values[target] = effect(target) + noise * random.normal(size=(4, 200))
        values[target][missing] = np.nan
    return Gains("accuracy", 0.005, values, RANDOM)


def test_what_a_candidate_augments() -> None:
    deep = Candidate.of("contrastive_deep_pca", {"layer": -1, "stop_gradient": 1, "temperature": 0.1})
    assert target_of(deep) == Target("contrastive", "deep_pca", True, AUTO)
    assert target_of(Candidate("uniform_dropout")) == Target("supervised", "uniform_dropout")


def test_a_gain_is_paired_with_its_own_control(records: tuple[TrialRecord, ...], measured: dict[str, Gains]) -> None:
    for objective, prefix in (("contrastive", "contrastive_"), ("supervised", "")):
        control = of(records, f"{prefix}control")
        own = of(records, f"{prefix}deep_pca", layer=2, stop_gradient=1)
        target = Target(objective, "deep_pca", True, 2)
        for figure in ("auc_weighted", "accuracy"):
            expected = figure_matrix(own, figure, 500) - figure_matrix(control, figure, 500)
            np.testing.assert_allclose(measured[figure].values[target], expected, atol=1e-6)
    probed = [
        a.metrics["probe_accuracy"] - b.metrics["probe_accuracy"]
        for a, b in zip(
            of(records, "contrastive_deep_pca", layer=2, stop_gradient=1),
            of(records, "contrastive_control"),
            strict=True,
        )
    ]
    np.testing.assert_allclose(measured["probe_accuracy"].values[Target("contrastive", "deep_pca", True, 2)], probed)
    assert {target.objective for target in measured["probe_accuracy"].values} == {"contrastive"}


def test_the_input_stands_for_itself_under_a_stop_gradient(measured: dict[str, Gains]) -> None:
    values = measured["accuracy"].values
    assert values[Target("supervised", "deep_pca", True, 0)] is values[Target("supervised", "deep_pca", False, 0)]
    assert list(measured["accuracy"].by_layer("supervised", ("deep_pca", True))) == [0, 1, 2, 3]


def test_other_hyperparameters_are_averaged_and_none_is_chosen(
    deep_study: Path, records: tuple[TrialRecord, ...]
) -> None:
    def renamed(method: str, layer: float, rate: float) -> list[TrialRecord]:
        found = of(records, method, **({"layer": layer, "stop_gradient": 0} if "deep" in method else {}))
        return [
            dataclasses.replace(
                record,
                config=dataclasses.replace(
                    record.config, candidate=Candidate.of("deep_pca", {"layer": 1, "rate": rate})
                ),
            )
            for record in found
        ]

    control = of(records, "control")
    trials = [*renamed("deep_dropout", 1, 0.2), *renamed("deep_dropout", 3, 0.4)]
    groups = {
        Target("supervised", "control"): [Candidate("control")],
        Target("supervised", "deep_pca", False, 1): sorted({record.config.candidate for record in trials}),
    }
    measured = measure(load_study(deep_study), groups, [*control, *trials], REGIONS)
    (gains,) = (own for own in measured if own.figure == "accuracy")
    pair = [figure_matrix(trials[place : place + 3], "accuracy", 500) for place in (0, 3)]
    expected = (pair[0] + pair[1]) / 2 - figure_matrix(control, "accuracy", 500)
    np.testing.assert_allclose(gains.values[Target("supervised", "deep_pca", False, 1)], expected, atol=1e-6)


def test_trials_of_other_items_are_not_paired(deep_study: Path, records: tuple[TrialRecord, ...]) -> None:
    items = records[5].items
    assert items is not None
    other = dataclasses.replace(records[5], items=dataclasses.replace(items, item=items.item[::-1]))
    results = load_study(deep_study)
    with pytest.raises(ReportError, match="have different test items"):
        measure(results, find_targets(results), [*records[:5], other], REGIONS)


def test_a_gain_of_the_linear_probe_is_a_paired_t() -> None:
    values = np.random.default_rng(3).normal(size=5)
    gains = Gains("probe_accuracy", 0.005, {Target("contrastive", "deep_pca", False, 1): values}, RANDOM)
    (interval,) = gains.intervals.values()
    assert interval == interval_over_splits(values)
    assert interval.p_value == pytest.approx(stats.ttest_1samp(values, 0).pvalue)
    assert gains.basis == "over splits alone"


def test_auto_stands_beside_the_best_fixed_layer(
    deep_study: Path, records: tuple[TrialRecord, ...], measured: dict[str, Gains]
) -> None:
    chosen = chosen_layers(find_targets(load_study(deep_study)), records)
    target = Target("contrastive", "deep_pca", False, AUTO)
    assert chosen[target] == {SplitId(0): {3}, SplitId(1): {2}, SplitId(2): {2}}
    (own,) = (one for one in auto_choices(measured["accuracy"]) if one.target == target)
    assert own.best == Target("contrastive", "deep_pca", False, 3)
    gain, best_gain = (measured["accuracy"].intervals[one].estimate for one in (own.target, own.best))
    assert own.regret.estimate == pytest.approx(best_gain - gain, abs=1e-6)
    layers = measured["accuracy"].by_layer("contrastive", ("deep_pca", False))
    # On split 0 the trial chose layer 3, and is that trial.
    np.testing.assert_array_equal(measured["accuracy"].values[target][0], layers[3][0])
    equal = {Target("contrastive", "deep_pca", False, layer): np.full((2, 3), 0.1) for layer in (0, 1, AUTO)}
    (tie,) = auto_choices(Gains("accuracy", 0.005, equal, RANDOM))
    assert tie.best.layer == 0


def test_what_an_untrained_layer_costs_runs_off_the_axis() -> None:
    def effect(target: Target) -> float:
        return -0.4 if target.objective == "supervised" and target.stop_gradient and target.layer else 0.0

    figures = {figure.name: figure for figure, _ in gain_figures(drawn(4, effect))}
    one, other = (figures[f"layers-accuracy-{objective}"] for objective in ("contrastive", "supervised"))
    assert one.y_limits == other.y_limits
    assert one.y_limits is not None
    assert one.y_limits[0] > -0.1
    assert "Off the axis: dropout, stop-gradient, −0.4" in other.note
    assert "Off" not in one.note


def test_similarity_of_neighbouring_layers(records: tuple[TrialRecord, ...]) -> None:
    assert pair_names(4) == ["input–1", "1–2", "2–3", "3–output"]
    values = final_similarity(of(records, "control"))
    assert values.shape == (3, 4)
    drawn = similarity_figures({"contrastive": of(records, "contrastive_control"), "supervised": []})
    (figure, _) = drawn[0]
    assert [series.method for series in figure.series] == pair_names(4)
    # Once the layers are frozen, nothing changes: the last two points are not shown.
    assert figure.x_limits == (0.0, 40.0)
    np.testing.assert_allclose(figure.series[2].mean, 0.69 - 1 / (10 + EPOCHS[:-2]), atol=1e-6)
    np.testing.assert_allclose(figure.series[2].low, 0.68 - 1 / (10 + EPOCHS[:-2]), atol=1e-6)
    figure, styles = similarity_figures({"supervised": of(records, "control"), "contrastive": []})[-1]
    assert [series.method for series in figure.series] == ["supervised"]
    np.testing.assert_allclose(figure.series[0].mean, [0.89, 0.79, 0.69, 0.59])
    np.testing.assert_allclose(figure.series[0].low, [0.88, 0.78, 0.68, 0.58])
    assert list(styles) == ["supervised"]


def test_the_page_shows_the_gains(deep_report: ReportFiles) -> None:
    page = deep_report.html.read_text(encoding="utf-8")
    assert '<h2 id="layers">Deep Augmentation</h2>' in page
    assert "over splits alone" in page
    assert "chosen on 1 of 3 splits" in page
    assert "Against its own control" in page
    names = {path.name for path in deep_report.figures}
    for figure in ("auc_weighted", "accuracy"):
        assert {f"layers-{figure}-{objective}.pdf" for objective in ("contrastive", "supervised")} <= names
    assert "layers-probe_accuracy-contrastive.svg" in names
    assert "layers-probe_accuracy-supervised.svg" not in names
    assert {"layers-cka.csv", "layers-cka-contrastive.svg", "layers-cka-supervised.svg"} <= names


def test_auto_is_no_position_among_layers(deep_report: ReportFiles) -> None:
    path = deep_report.html.parent / "figures/response-layer.csv"
    found = {float(row["layer"]) for row in csv.DictReader(path.open(encoding="utf-8"))}
    assert found >= {0, 1, 2, 3}
    assert min(found) > -0.5
    assert "layer auto" in deep_report.html.read_text(encoding="utf-8")


def test_the_gains_are_files_of_numbers(deep_report: ReportFiles, measured: dict[str, Gains]) -> None:
    assert deep_report.layers is not None
    rows = list(csv.DictReader(deep_report.layers.open(encoding="utf-8")))
    (row,) = (
        row
        for row in rows
        if (row["figure"], row["objective"], row["augmentation"], row["stop_gradient"], row["layer"])
        == ("accuracy", "contrastive", "deep_dropout", "1", "3")
    )
    interval = measured["accuracy"].intervals[Target("contrastive", "deep_dropout", True, 3)]
    assert (float(row["estimate"]), float(row["low"])) == (interval.estimate, interval.low)
    folder = deep_report.html.parent / "figures"
    points = list(csv.DictReader((folder / "layers-accuracy-contrastive.csv").open(encoding="utf-8")))
    (point,) = (
        point for point in points if (point["method"], point["augmented layer"]) == ("dropout, stop-gradient", "3")
    )
    assert float(point["gain"]) == pytest.approx(interval.estimate, abs=1e-6)
    assert {point["augmented layer"] for point in points} == {"input", "1", "2", "3", "auto", "uniform dropout"}
    found = json.loads(deep_report.json.read_text(encoding="utf-8"))["layers"]
    assert set(found) == {"phase", "gains", "auto"}
    assert {one["figure"] for one in found["gains"]} == {
        "auc_weighted", "accuracy", "probe_auc_weighted", "probe_accuracy",
    }  # fmt: skip
    assert found["auto"][0]["chosen"]["0"] == [3]


@pytest.mark.parametrize(
    "changes",
    [
        {"methods": ("control", "deep_pca"), "layers": (1,)},
        {"methods": ("control", "deep_pca"), "layers": (1, -1)},
        {"methods": ("deep_pca", "contrastive_control")},
        {"methods": ("control", "e_mixup")},
    ],
)
def test_a_study_without_layers_to_compare_has_no_section(study_of: Make, changes: dict[str, Any]) -> None:
    directory = study_of(**changes)
    assert study_layers(directory, load_study(directory), REGIONS) is None


def test_an_ordinary_page_has_no_section(whole_report: ReportFiles) -> None:
    assert whole_report.layers is None
    assert 'id="layers"' not in whole_report.html.read_text(encoding="utf-8")
    assert json.loads(whole_report.json.read_text(encoding="utf-8"))["layers"] is None


def test_layers_of_a_nested_study_are_those_of_its_search(study_of: Make) -> None:
    methods = ("control", "deep_dropout")
    directory = study_of(methods=methods, layers=(0, 1, 2), selection="nested", n_inner=2, n_splits=2)
    layers = study_layers(directory, load_study(directory), REGIONS)
    assert layers is not None
    assert layers.phase == "search"
    assert {record.config.phase for record in layers.controls["supervised"]} == {"search"}
    gains = layers.gains[0]
    assert gains.sampling.design is Design.FOLDS
    values = gains.values[Target("supervised", "deep_dropout", False, 1)]
    assert values.shape == (2, 300), "inner splits are averaged within their split"
    assert [figure.name for figure, _ in drawings(layers)][:2] == [
        "layers-auc_weighted-supervised",
        "layers-accuracy-supervised",
    ]
    assert "From the search’s splits" in write_report(directory).html.read_text(encoding="utf-8")


def test_one_split_shows_gains_and_decides_nothing(study_of: Make) -> None:
    directory = study_of(methods=DEEP_METHODS, layers=(0, 1, -1), n_splits=1)
    layers = study_layers(directory, load_study(directory), REGIONS)
    assert layers is not None
    main = layers.gains[0]
    assert all(math.isnan(interval.low) for interval in main.intervals.values())
    page = write_report(directory).html.read_text(encoding="utf-8")
    section = page[page.index('<h2 id="layers">') : page.index("</section>", page.index('<h2 id="layers">'))]
    gain = main.values[layers.targets[0]]
    assert f"<td>{signed(float(np.nanmean(gain)))}</td>" in section
