"""The report's files: whole, self-contained, escaped, the same each time."""

from __future__ import annotations

import csv
import json
import re
from collections.abc import Callable
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from xml.etree import ElementTree

import pytest

from analysis.report.export import table_latex
from analysis.report.page import render
from analysis.report.tables import table_rows, terminal_table
from analysis.report.text import chosen_inside
from analysis.report.write import ReportFiles, write_report
from analysis.results.load import ReportError, load_study
from trainables.records.failures import Failure, Stop, write_failure, write_stop
from trainables.records.parquet import read_record_file, record_files, write_records
from trainables.records.types import Candidate, SplitId

Make = Callable[..., Path]

N_FIGURES = 19


def without_figures(directory: Path) -> str:
    """The page of a study with nothing drawn."""
    results = load_study(directory)
    return render(results, results.reported_records, {}, [])


class Page(HTMLParser):
    """What the page holds, for checks that do not depend on its looks."""

    def __init__(self, source: str) -> None:
        super().__init__()
        self.source = source
        self.text = ""
        self.ids: list[str] = []
        self.addresses: list[str] = []
        self.labels: list[str] = []
        self._skips = 0
        self.feed(self.source)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        values = dict(attrs)
        self._skips += tag in ("style", "script")
        if values.get("id"):
            self.ids.append(str(values["id"]))
        self.addresses += [str(values[key]) for key in ("src", "href", "xlink:href") if values.get(key)]
        if tag == "svg" and values.get("role") == "img":
            self.labels.append(values.get("aria-label") or "")

    def handle_endtag(self, tag: str) -> None:
        self._skips -= tag in ("style", "script")

    def handle_data(self, data: str) -> None:
        if not self._skips:
            self.text += data


@pytest.fixture(scope="module")
def report(whole_report: ReportFiles) -> Page:
    return Page(whole_report.html.read_text(encoding="utf-8"))


def test_the_page_shows_every_row_of_the_table(report: Page, whole_study: Path) -> None:
    rows = table_rows(load_study(whole_study))
    assert [row["method"] for row in rows] == ["control", "e_mixup", "e_stitchup", "soft_e_mixup", "soft_e_stitchup"]
    assert [row["best"] for row in rows].count("yes") == 1
    text = " ".join(report.text.split())
    for heading in ("ECE", "OOD AUROC", "Epochs to control"):
        assert heading in text
    for row in rows:
        mean, deviation = row["objective"].split(" ± ")
        assert f"{mean} ± {deviation}" in text
        assert f"{row['n_splits']} {row['top1']} {row['macro_f1']} {row['accuracy']} {row['accuracy_known']}" in text
        assert row["published"] in text
    assert rows[4]["published"] == "0.9812 ± 0.0004"


def test_the_page_says_what_was_done(report: Page) -> None:
    text = " ".join(report.text.split())
    assert "5 methods of augmenting embeddings, in 9 candidates, on 500 items of 12 classes" in text
    assert "These numbers are optimistic, and decide nothing" in text
    assert "is better than" not in text
    assert "The image encoder is untrained." in text
    assert "AdamW, so the loss's reduction" in text
    assert "training.epochs" in text
    assert "All 9 candidates" in text


def test_the_page_needs_nothing_else(report: Page) -> None:
    assert all(address.startswith(("#", "data:")) for address in report.addresses)
    assert not re.search(r"@import|url\((?!#)", report.source)
    assert len(report.ids) == len(set(report.ids))
    targets = {address[1:] for address in report.addresses if address.startswith("#")}
    targets |= set(re.findall(r"url\(#([^)]+)\)", report.source))
    assert targets <= set(report.ids)


def test_every_figure_has_a_text_and_numbers(nested_report: ReportFiles) -> None:
    assert sorted(path.name for path in (nested_report.html.parent / "figures").iterdir()) == sorted(
        path.name for path in nested_report.figures
    )
    assert len(nested_report.figures) == N_FIGURES * 3
    for path in nested_report.figures:
        if path.suffix == ".svg":
            ElementTree.parse(path)
        elif path.suffix == ".pdf":
            assert path.read_bytes().startswith(b"%PDF")
        else:
            rows = list(csv.DictReader(path.open(encoding="utf-8")))
            assert {row["method"] for row in rows} >= {"e_mixup", "soft_e_stitchup"}
            if not path.name.startswith("differences-"):
                assert not any(float(row["minimum"]) > float(row["mean"]) + 1e-6 for row in rows)
    labels = Page(nested_report.html.read_text(encoding="utf-8")).labels
    assert len(labels) == N_FIGURES
    assert all("e_mixup" in label and re.search(r"0\.\d{3}", label) for label in labels)


def test_the_threshold_curve_is_the_mean_over_splits(whole_study: Path, whole_report: ReportFiles) -> None:
    rows = list(csv.DictReader((whole_report.html.parent / "figures/accuracy-by-threshold.csv").open(encoding="utf-8")))
    (at,) = (row for row in rows if row["method"] == "control" and abs(float(row["threshold"]) - 0.6) < 1e-6)
    accuracies = [
        record.metrics["accuracy"]
        for record in load_study(whole_study).records
        if record.config.candidate.method == "control"
    ]
    assert float(at["mean"]) == pytest.approx(sum(accuracies) / 3, abs=1e-6)
    assert float(at["minimum"]) == pytest.approx(min(accuracies), abs=1e-6)
    assert float(at["maximum"]) == pytest.approx(max(accuracies), abs=1e-6)


def test_the_same_study_gives_the_same_bytes(whole_study: Path, whole_report: ReportFiles, tmp_path: Path) -> None:
    again = write_report(whole_study, tmp_path)
    for one, other in zip(
        (whole_report.html, whole_report.latex, whole_report.csv, *whole_report.figures),
        (again.html, again.latex, again.csv, *again.figures),
        strict=True,
    ):
        assert one.read_bytes() == other.read_bytes()


def test_the_table_goes_to_latex_and_csv(whole_study: Path, whole_report: ReportFiles) -> None:
    latex = whole_report.latex.read_text(encoding="utf-8")
    assert "\\toprule" in latex
    assert "soft\\_e\\_stitchup & alpha 0." in latex
    assert latex.count("\\\\\n") == 6
    rows = list(csv.DictReader(whole_report.csv.open(encoding="utf-8")))
    table = load_study(whole_study).table()
    best = table[table.method == "e_mixup"].groupby("alpha").auc_weighted.mean()
    assert float(rows[1]["auc_weighted"]) == pytest.approx(best.max(), abs=1e-12)
    assert float(rows[1]["alpha"]) == best.idxmax()


def test_the_terminal_table_is_the_same_as_text(whole_study: Path) -> None:
    results = load_study(whole_study)
    table = terminal_table(results)
    assert table.headings[:4] == ("Method", "Hyperparameters", "Weighted AUC", "Paper")
    assert [row[0] for row in table.rows] == list(results.description.methods)
    assert table.rows[1][2] == table_rows(results)[1]["objective"]
    assert all(len(row) == len(table.headings) for row in table.rows)


def test_latex_is_escaped(study_of: Make) -> None:
    results = load_study(study_of(methods=("control", "e_mixup"), alphas=(0.3,)))
    renamed = replace(results, description=replace(results.description, objective="a_b & 5 % ± {x} \\ −1 < “2” – 3"))
    metrics = {renamed.description.objective: 0.5}
    records = tuple(replace(record, metrics=record.metrics | metrics) for record in results.records)
    latex = table_latex(replace(renamed, records=records), {})
    assert r"A\_b \& 5 \% $\pm$ \{x\} \textbackslash \space $-$1 \textless{} ``2'' -- 3 &" in latex
    assert r"e\_mixup & alpha 0.3 & 0.5000 $\pm$ 0.0000 &" in latex


def test_text_from_the_study_is_escaped(study_of: Make) -> None:
    evil = "<script>alert(1)</script>"
    directory = study_of(changes={"name": evil, "choices": {evil: evil}, "settings": {"a": evil}})
    source = without_figures(directory)
    assert evil not in source
    assert "&lt;script&gt;alert(1)" in source


def test_an_unfinished_study_is_reported_as_such(study_of: Make) -> None:
    directory = study_of(skip=lambda config: config.candidate.method == "e_mixup" and config.split.seed == 2)
    files = write_report(directory)
    text = " ".join(Page(files.html.read_text(encoding="utf-8")).text.split())
    assert "e_mixup(alpha=0.2): test split 2 is missing." in text
    assert "incomplete: 0 of 2 candidates" in text
    (row,) = (row for row in table_rows(load_study(directory)) if row["method"] == "e_mixup")
    assert (row["objective"], row["n_splits"], row["accuracy"]) == ("–", "0", "–")


def test_one_split_without_none_items_and_without_control(study_of: Make) -> None:
    directory = study_of(methods=("e_mixup", "custom"), n_splits=1, alphas=(0.3,), n_rare=0, preset=None)
    files = write_report(directory)
    page = Page(files.html.read_text(encoding="utf-8"))
    text = " ".join(page.text.split())
    assert "One split only." in text
    assert "No control." in text
    assert "No test item is a “none” item" in text
    assert not re.search("Accuracy on “none”|“None” items|accuracy and “none” meet", text)
    assert 'id="reader"' not in page.source
    assert "Paper:" not in text
    row = table_rows(load_study(directory))[0]
    assert (row["accuracy_none"], row["none_fraction"], row["published"]) == ("–", "0.0 %", "")
    assert re.fullmatch(r"0\.\d{4}", row["objective"])
    assert not (files.html.parent / "figures" / "none-accuracy-by-threshold.svg").exists()


def test_a_nested_study_decides_and_says_what_choosing_would_have_claimed(
    nested_report: ReportFiles, nested_study: Path
) -> None:
    text = " ".join(Page(nested_report.html.read_text(encoding="utf-8")).text.split())
    assert "These numbers are optimistic" not in text
    assert "chose a candidate of each method inside its training items" in text
    assert "Choosing by the scores that are reported would claim too much" in text
    assert "soft_e_stitchup is better than control" in text
    assert "top-1 better, +0." in text
    assert "Random splits share training items" in text
    assert "each split chose by the weighted AUC on its inner items" in str(chosen_inside(load_study(nested_study)))
    for heading in ("What each split chose", "Finding unknown classes by each score", "Calibration before and after"):
        assert heading in text
    assert "ECE, scaled" in text
    assert "at the threshold that each method’s inner splits chose" in text
    latex = nested_report.latex.read_text(encoding="utf-8")
    assert "& better &" in latex
    assert "alpha 0.4 (0.2--0.4)" in latex
    rows = list(csv.DictReader(nested_report.csv.open(encoding="utf-8")))
    table = load_study(nested_study).table()
    own = table[(table.method == "e_stitchup") & (table.phase == "test")]
    assert float(rows[2]["alpha"]) == own.alpha.median()
    assert (float(rows[2]["alpha_low"]), float(rows[2]["alpha_high"])) == (0.2, 0.4)
    found = json.loads(nested_report.json.read_text(encoding="utf-8"))["methods"][2]
    expected = {split: {"alpha": alpha} for split, alpha in zip(own.split, own.alpha, strict=True)}
    assert {one["split"]: one["hyperparameters"] for one in found["choices"]} == expected
    assert found["hyperparameters"]["alpha"]["high"] == 0.4
    assert found["luck"]["excess"] == pytest.approx(found["luck"]["claimed"] - found["luck"]["honest"])


def test_all_pairs_are_a_matrix(nested_report: ReportFiles) -> None:
    source = nested_report.html.read_text(encoding="utf-8")
    section = source[source.index('<h2 id="pairs">') :]
    assert "minus e_stitchup" in section
    pairs = json.loads(nested_report.json.read_text(encoding="utf-8"))["pairs"]
    assert len(pairs) == 10
    assert {(one["method"], one["reference"]) for one in pairs} >= {("e_stitchup", "e_mixup"), ("e_mixup", "control")}
    assert not any(one["confirmatory"] for one in pairs)


def test_what_was_chosen_by_the_reported_items_decides_nothing(whole_report: ReportFiles, whole_study: Path) -> None:
    assert chosen_inside(load_study(whole_study)) is None
    found = json.loads(whole_report.json.read_text(encoding="utf-8"))
    assert not any(method["against_control"] or method["intervals"] for method in found["methods"])
    assert found["pairs"] == []
    assert whole_report.findings == ()
    assert 'class="badge' not in whole_report.html.read_text(encoding="utf-8")
    assert not any(path.name.startswith("differences") for path in whole_report.figures)


def test_one_candidate_a_method_is_not_a_choice(study_of: Make) -> None:
    text = " ".join(Page(without_figures(study_of(alphas=(0.3,)))).text.split())
    assert "These numbers are optimistic" not in text
    assert "All 2 candidates" not in text


def test_a_study_without_trials(study_of: Make) -> None:
    directory = study_of(skip=lambda config: True)
    with pytest.raises(ReportError, match="no finished trial to report, of 2 planned methods"):
        write_report(directory)
    assert sorted(path.name for path in directory.iterdir()) == ["study.json"]


def test_series_of_a_figure_are_named_for_the_script(nested_report: ReportFiles) -> None:
    source = nested_report.html.read_text(encoding="utf-8")
    found = re.findall(r'<figure id="[^"]+" data-series="([^"]+)"', source)
    assert len(found) == N_FIGURES
    assert json.loads(found[11].replace("&#34;", '"'))[0] == "control"


def test_failures_and_candidates_that_were_given_up_are_named(study_of: Make) -> None:
    directory = study_of(
        methods=("control", "e_mixup", "e_stitchup"),
        skip=lambda c: (
            c.candidate.method == "e_stitchup" or (dict(c.candidate.params).get("alpha"), c.split.seed) == (0.4, 2)
        ),
    )
    records = directory / "records"
    for alpha in (0.2, 0.4):
        candidate = Candidate.of("e_stitchup", {"alpha": alpha})
        write_failure(
            records,
            Failure("test", candidate, tuple(map(SplitId, range(3))), "the loss is <nan>", "...", 2, 0.0),
            "aa11",
            {},
        )
    write_stop(
        records,
        Stop("test", Candidate.of("e_mixup", {"alpha": 0.4}), (SplitId(2),), "racing", "auc_weighted", 0.81, 10, 40),
        "aa11",
        {},
    )
    text = " ".join(Page(without_figures(directory)).text.split())
    assert "2 packs of trials could not be trained" in text
    assert "e_stitchup(alpha=0.2) on test splits 0, 1, 2: the loss is <nan> (2 attempts)" in text
    assert "incomplete: 0 of 2 candidates" in text
    assert "e_mixup(alpha=0.4), after 75 % of its training: its weighted AUC of 0.8100 was worse than that of" in text
    assert load_study(directory).missing == ["e_stitchup: 2 of 2 candidates have no finished test trial."]


def test_curves_that_are_all_zero_are_left_out_and_named(study_of: Make) -> None:
    """As learning curves are where no confidence ever exceeds the study's threshold."""
    directory = study_of(methods=("control", "e_mixup"))
    for path in record_files(directory / "records"):
        records = read_record_file(path, with_items=True)
        curves = [replace(one.curves, epoch_accuracy=0 * one.curves.epoch_accuracy) for one in records]
        write_records(path.parent, [replace(one, curves=own) for one, own in zip(records, curves, strict=True)])
    files = write_report(directory)
    names = {path.stem for path in files.figures}
    assert "learning-none-accuracy" in names
    assert "learning-accuracy" not in names
    assert "Left out, as every value is 0: Accuracy while learning." in files.html.read_text(encoding="utf-8")


def test_a_study_of_which_everything_failed_says_why(study_of: Make) -> None:
    directory = study_of(methods=("control",), skip=lambda config: True)
    write_failure(
        directory / "records",
        Failure("test", Candidate("control"), (SplitId(0),), "no memory", "...", 3, 0.0),
        "aa11",
        {},
    )
    with pytest.raises(ReportError, match=r"planned methods\. control on test splits 0: no memory"):
        write_report(directory)


def test_importances_are_shown_where_they_are_known(study_of: Make) -> None:
    directory = study_of()
    (directory / "importance.json").write_text('{"importances": {"e_mixup": {"alpha": 0.75, "softness": 0.25}}}')
    assert "alpha</td><td>75 %" in without_figures(directory)
    files = write_report(directory)
    assert json.loads(files.json.read_text(encoding="utf-8"))["importances"]["e_mixup"]["softness"] == 0.25
    (directory / "importance.json").write_text("{")
    with pytest.raises(ReportError, match=r"importance\.json cannot be read .*Remove it"):
        load_study(directory)
