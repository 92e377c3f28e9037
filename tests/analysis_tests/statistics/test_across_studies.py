"""Studies side by side: paired where splits and items coincide, by Welch's t where they do not."""

from __future__ import annotations

import csv
import dataclasses
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner
from scipy import stats

from analysis.report.comparison_page import comparison_table, write_comparison
from analysis.results.controls import objective_of
from analysis.results.load import ReportError, load_study
from analysis.statistics.across_studies import compare, welch_interval
from analysis.statistics.decisions import figure_matrix
from analysis.statistics.intervals import Decision, Interval, interval
from analysis.statistics.variance import variance
from study.cli.app import study as commands
from tests.analysis_tests.conftest import Plan, make_study
from tests.analysis_tests.results.test_mlflow import track
from trainables.records.types import Design

SMALL = Plan(methods=("control", "e_mixup"), n_items=300, n_classes=8, alphas=(0.3,))


def study(folder: Path, name: str, plan: Plan = SMALL, **changes: object) -> str:
    settings = {"name": name, **changes}
    return str(make_study(folder / name, dataclasses.replace(plan, changes=settings)))


def matrix(directory: str, method: str) -> np.ndarray:
    records = [r for r in load_study(Path(directory), with_items=True).records if r.config.candidate.method == method]
    return figure_matrix(records, "auc_weighted", 300)


def interval_over(values: np.ndarray) -> Interval:
    return interval(variance(values, Design.RANDOM)[0])


def test_studies_of_the_same_splits_are_paired(tmp_path: Path) -> None:
    first = study(tmp_path, "one")
    second = study(tmp_path, "two", dataclasses.replace(SMALL, alphas=(0.6,)), settings={"training": {"epochs": 48}})
    found = compare([first, second])
    assert [(c.method, c.figure, c.n_splits) for c in found.contrasts] == [
        ("control", "auc_weighted", 3),
        ("e_mixup", "auc_weighted", 3),
        ("control", "top1", 3),
        ("e_mixup", "top1", 3),
    ]
    # Control is the same in both to the last bit: no difference, and no doubt of it.
    assert found.contrasts[0].interval.estimate == 0.0
    assert found.contrasts[0].decision is Decision.EQUIVALENT
    alone = interval_over(matrix(second, "e_mixup") - matrix(first, "e_mixup"))
    assert found.contrasts[1].interval == alone.of_several(2)  # with control there are two differences
    assert ("training.batch_size", ("128", "–")) in found.differing
    assert comparison_table(found).rows[1][-1] == "paired on 3 splits"


def test_objectives_are_families_of_their_own(tmp_path: Path) -> None:
    names = ("control", "e_mixup", "contrastive_control", "contrastive_uniform_dropout")
    plan = dataclasses.replace(SMALL, methods=names)
    found = compare([study(tmp_path, "one", plan), study(tmp_path, "two", dataclasses.replace(plan, n_items=350))])
    for objective in ("supervised", "contrastive"):
        own = [c for c in found.contrasts if objective_of(c.method) == objective and c.figure == "top1"]
        assert len(own) == 2
        for seen in (contrast.interval for contrast in own):  # two in a family, whatever the other objective has
            level = 2 * stats.t.sf((seen.high - seen.estimate) / seen.standard_error, seen.freedom)
            assert level == pytest.approx(0.05 / 2)


def test_a_split_more_does_not_unpair_the_others(tmp_path: Path) -> None:
    more = dataclasses.replace(SMALL, n_splits=4)
    found = compare([study(tmp_path, "one"), study(tmp_path, "two", more)])
    assert {contrast.basis for contrast in found.contrasts} == {"paired on 3 of 4 splits"}


@pytest.mark.parametrize(
    ("plan", "why"),
    [
        (dataclasses.replace(SMALL, first_split=7), "unpaired: no split is shared"),
        (dataclasses.replace(SMALL, n_items=280), "unpaired: the items differ"),
    ],
)
def test_other_splits_or_items_are_not_paired(tmp_path: Path, plan: Plan, why: str) -> None:
    found = compare([study(tmp_path, "one"), study(tmp_path, "two", plan)])
    assert {contrast.basis for contrast in found.contrasts} == {why}
    one, two = (interval_over(matrix(str(tmp_path / name), "control")) for name in ("one", "two"))
    assert found.contrasts[0].interval == welch_interval(one, two).of_several(2)
    page = write_comparison(found, tmp_path / "out").html.read_text(encoding="utf-8")
    assert "All of the differences are unpaired" in page


def test_welch_is_scipys() -> None:
    random = np.random.default_rng(0)
    samples = random.normal(0, 1, 5), random.normal(1, 3, 8)
    one, two = (
        Interval(float(x.mean()), 0.0, 0.0, float(x.std(ddof=1) / np.sqrt(len(x))), 0.0, len(x) - 1) for x in samples
    )
    found = welch_interval(one, two)
    expected = stats.ttest_ind(samples[1], samples[0], equal_var=False)
    assert found.p_value == pytest.approx(expected.pvalue)
    assert (found.low, found.high) == pytest.approx(tuple(expected.confidence_interval()))


def test_the_page_and_the_numbers(tmp_path: Path) -> None:
    evil = "<b>two</b>"
    first = study(tmp_path, "one")
    second = study(tmp_path, "two", dataclasses.replace(SMALL, alphas=(0.6,)))
    third = make_study(tmp_path / "three", dataclasses.replace(SMALL, methods=("control",), changes={"name": evil}))
    files = write_comparison(compare([first, second, str(third)]), tmp_path / "out")
    page = files.html.read_text(encoding="utf-8")
    assert evil not in page
    assert "&lt;b&gt;two" in page
    assert page.count("<figure ") == 4
    rows = list(csv.DictReader(files.csv.open(encoding="utf-8")))
    assert len(rows) == 2 * (2 + 1)
    assert {row["against"] for row in rows} == {"one"}
    assert rows[2]["decision"] in {str(decision) for decision in Decision}

    arguments = ["compare", first, second, "-o", str(tmp_path / "out")]
    (tmp_path / "out/mine.txt").touch()
    assert f"Comparison, in place of an earlier one: {files.html}" in CliRunner().invoke(commands, arguments).output
    files.html.unlink()
    held = sorted((tmp_path / "out").iterdir())
    refused = str(CliRunner().invoke(commands, arguments).exception)
    assert refused == f"{tmp_path / 'out'} must be empty, or an earlier comparison to replace; give another --output."
    assert sorted((tmp_path / "out").iterdir()) == held


def test_a_study_on_a_server_is_compared_over_splits_alone(tmp_path: Path) -> None:
    first = study(tmp_path, "one")
    second = make_study(tmp_path / "two", dataclasses.replace(SMALL, alphas=(0.6,)))
    uri = f"sqlite:///{tmp_path / 'mlflow.db'}"
    track(second, uri)
    found = compare([first, f"{uri}#synthetic"])
    assert all("a server has no per-item results" in contrast.basis for contrast in found.contrasts)
    assert np.isfinite(found.contrasts[1].interval.low)


def test_one_split_has_no_interval(tmp_path: Path) -> None:
    plan = dataclasses.replace(SMALL, n_splits=1)
    found = compare([study(tmp_path, "one", plan), study(tmp_path, "two", plan)])
    assert comparison_table(found).rows[0][-3:-1] == ("–", "–")
    assert "<figure" not in write_comparison(found, tmp_path / "out").html.read_text(encoding="utf-8")


def test_what_was_chosen_by_reported_figures_has_no_interval(tmp_path: Path) -> None:
    several = dataclasses.replace(SMALL, alphas=(0.2, 0.4))
    found = compare([study(tmp_path, "one"), study(tmp_path, "two", several)])
    assert {contrast.interval.ends for contrast in found.contrasts} == {""}
    assert {contrast.decision for contrast in found.contrasts} == {Decision.UNDECIDED}
    assert found.contrasts[0].interval.estimate == 0.0
    page = write_comparison(found, tmp_path / "out").html.read_text(encoding="utf-8")
    assert "These numbers are optimistic" in page
    assert "unpaired" not in page


def test_one_study_is_no_comparison(tmp_path: Path) -> None:
    with pytest.raises(ReportError, match="at least two studies, got 1"):
        compare([study(tmp_path, "one")])
