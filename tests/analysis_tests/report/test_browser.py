"""The page in a real browser: what moves, moves; nothing fails; nothing runs off a small screen.

The page's own copy gets one more script, which presses and drags as a reader would and leaves what it saw in the
document; headless Chromium prints the document. No driver is needed.
"""

from __future__ import annotations

import html
import json
import re
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from analysis.report.comparison_page import write_comparison
from analysis.report.write import ReportFiles, write_report
from analysis.statistics.across_studies import compare

BROWSER = next(
    (found for name in ("chromium", "chromium-browser", "google-chrome") if (found := shutil.which(name))), ""
)

pytestmark = pytest.mark.skipif(not BROWSER, reason="no Chromium found: apt-get install chromium")


WATCH = """<script>
window.seen = { errors: [] };
addEventListener("error", (event) => seen.errors.push(event.message));
addEventListener("unhandledrejection", (event) => seen.errors.push(String(event.reason)));
for (const kind of ["error", "warn"]) console[kind] = (...words) => seen.errors.push(words.join(" "));
</script>"""


ACT = """<script>
addEventListener("load", () => {
  seen.ready_ms = performance.now();
  seen.width = [document.documentElement.scrollWidth, innerWidth];
  const table = document.querySelector("table.results");
  const column = (name) => [...table.tHead.rows[0].cells].findIndex((cell) => cell.classList.contains(name));
  const texts = (place) => [...table.tBodies[0].rows].map((row) => row.cells[place].textContent.trim());
  const press = (name) => { table.tHead.querySelector("th." + name + " button").click(); return texts(column(name)); };
  seen.accuracies = [press("accuracy"), press("accuracy")];
  seen.sorted = table.querySelector("th.accuracy").getAttribute("aria-sort");
  seen.methods = press("method");
  seen.differences = table.tHead.querySelector("th.difference") ? press("difference") : [];

  const slider = document.getElementById("slider");
  const read = () => [...document.querySelectorAll("#reader tbody tr")].map((row) => row.cells[1].textContent);
  const figure = document.getElementById("figure-accuracy-by-threshold");
  const line = () => figure.querySelector("[id$=-cursor] path").getBoundingClientRect().x;
  const box = figure.querySelector("svg").getBoundingClientRect();
  const text = () => document.getElementById("threshold-value").textContent;
  const drag = (value) => {
    slider.value = value;
    slider.dispatchEvent(new Event("input", { bubbles: true }));
    return { text: text(), read: read(), line: (line() - box.x) / box.width };
  };
  seen.start = { text: text(), read: read() };
  seen.low = drag(1);
  seen.high = drag(17);

  const curve = () => getComputedStyle(document.querySelector("#roc-series-0")).display;
  const button = document.querySelector('#legend button[data-series="control"]');
  seen.curve = [curve()];
  button.click(); seen.curve.push(curve());
  button.click(); seen.curve.push(curve());

  const paper = () => getComputedStyle(document.body).backgroundColor;
  seen.paper = [paper()];
  document.getElementById("theme").click(); seen.paper.push(paper());

  seen.figures = [...document.querySelectorAll("figure")].map((figure) => {
    const svg = figure.querySelector(":scope > svg");
    return { label: svg.getAttribute("aria-label"), paths: svg.querySelectorAll("[id*='-series-'] path").length,
             links: figure.querySelectorAll("a[download]").length, width: svg.getBoundingClientRect().width,
             id: figure.id, legend: [...figure.querySelectorAll(".series li")].map((line) => line.textContent.trim()),
             points: svg.querySelectorAll("[id*='-mark-'] use").length, top: figure.getBoundingClientRect().top,
             heights: [...svg.querySelectorAll("[id*='-ytick_'] text")].map((text) => text.textContent) };
  });
  const out = document.createElement("script");
  out.type = "application/json"; out.id = "seen"; out.textContent = JSON.stringify(seen);
  document.body.append(out);
});
</script>"""


SHORT = """<script>
addEventListener("load", () => {
  seen.width = [document.documentElement.scrollWidth, innerWidth];
  const out = document.createElement("script");
  out.type = "application/json"; out.id = "seen"; out.textContent = JSON.stringify(seen);
  document.body.append(out);
});
</script>"""


def watched(page: Path, script: str) -> str:
    """The page's source with a script that watches it and one that acts on it."""
    source = page.read_text(encoding="utf-8")
    return source.replace("<head>", "<head>" + WATCH).replace("</body>", script + "</body>")


def printed(source: str, folder: Path, size: str = "1280,900") -> str:
    """A document, printed by the browser after its scripts have run."""
    copy = folder / "page.html"
    copy.write_text(source, encoding="utf-8")
    options = ["--headless", "--no-sandbox", "--disable-gpu", "--disable-background-networking", "--no-first-run"]
    command = [BROWSER, *options, f"--user-data-dir={folder / 'profile'}", f"--window-size={size}", "--dump-dom"]
    return subprocess.run([*command, copy.as_uri()], capture_output=True, text=True, timeout=300, check=True).stdout


def visit(page: Path, folder: Path, size: str = "1280,900") -> dict[str, Any]:
    return what_was_seen(printed(watched(page, ACT), folder, size))


def on_a_phone(page: Path, folder: Path) -> dict[str, Any]:
    """What is seen in a frame of 375 pixels: a window itself is never narrower than 500."""
    source = html.escape(watched(page, ACT))
    copy_out = """addEventListener("load", () => {
      document.body.append(document.getElementById("phone").contentDocument.getElementById("seen").cloneNode(true));
    });"""
    frame = f'<iframe id="phone" width="375" height="800" style="border: 0" srcdoc="{source}"></iframe>'
    return what_was_seen(printed(f"<!DOCTYPE html><body>{frame}<script>{copy_out}</script></body>", folder))


def what_was_seen(document: str) -> dict[str, Any]:
    found = re.search(r'<script type="application/json" id="seen">(.*?)</script>', document, re.DOTALL)
    assert found, "the page's script did not run to its end"
    return dict(json.loads(html.unescape(found.group(1))))


@pytest.fixture(scope="module")
def seen(nested_report: ReportFiles, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    return visit(nested_report.html, tmp_path_factory.mktemp("browser"))


def test_nothing_fails(seen: dict[str, Any]) -> None:
    assert seen["errors"] == []


def test_the_table_sorts(seen: dict[str, Any]) -> None:
    falling, rising = seen["accuracies"]
    assert [float(text) for text in falling] == sorted((float(text) for text in falling), reverse=True)
    assert rising == falling[::-1]
    assert seen["sorted"] == "ascending"
    assert seen["methods"] == sorted(seen["methods"])
    # Control has no difference to itself: it comes last.
    assert seen["differences"][-1] == "–"


def test_the_slider_reads_off_and_moves_the_line(seen: dict[str, Any]) -> None:
    assert seen["start"]["text"] == "0.60"
    assert seen["low"]["text"] == "0.10"
    assert seen["high"]["text"] == "0.90"
    assert all(float(low) > float(high) for low, high in zip(seen["low"]["read"], seen["high"]["read"], strict=True))
    assert 0.1 < seen["low"]["line"] < 0.3
    assert seen["high"]["line"] - seen["low"]["line"] == pytest.approx(0.8 * 0.8, abs=0.1)


def test_the_legend_hides_and_shows(seen: dict[str, Any]) -> None:
    assert seen["curve"][0] == seen["curve"][2] != "none"
    assert seen["curve"][1] == "none"


def test_the_theme_changes(seen: dict[str, Any]) -> None:
    assert seen["paper"][0] != seen["paper"][1]


def test_every_figure_has_a_text_lines_and_files(seen: dict[str, Any]) -> None:
    assert len(seen["figures"]) == 19
    for figure in seen["figures"]:
        assert len(figure["label"]) > 40
        assert figure["paths"] >= 4
        assert figure["links"] == 3
        assert figure["width"] > 300


def test_the_page_becomes_ready(seen: dict[str, Any]) -> None:
    assert seen["ready_ms"] < 60_000


def test_a_phone_is_not_run_off(nested_report: ReportFiles, tmp_path: Path) -> None:
    found = on_a_phone(nested_report.html, tmp_path)
    assert found["width"][0] <= found["width"][1] == 375
    assert found["errors"] == []
    assert found["high"]["text"] == "0.90"
    assert all(200 < figure["width"] <= 375 for figure in found["figures"])


def test_gains_by_layer_stand_beside_each_other_on_one_scale(deep_report: ReportFiles, tmp_path: Path) -> None:
    found = visit(deep_report.html, tmp_path)
    assert found["errors"] == []
    assert found["width"][0] <= found["width"][1]
    figures = {figure["id"]: figure for figure in found["figures"]}
    for name in ("auc_weighted", "accuracy"):
        pair = [figures[f"figure-layers-{name}-{objective}"] for objective in ("contrastive", "supervised")]
        assert pair[0]["top"] == pair[1]["top"]
        assert pair[0]["heights"] == pair[1]["heights"] != []
        for figure in pair:
            assert figure["legend"] == [
                "dropout", "dropout, stop-gradient", "PCA", "PCA, stop-gradient", "uniform dropout",
            ]  # fmt: skip
            # Four families at four layers and at `auto`, and one point of uniform dropout.
            assert figure["points"] == 4 * 5 + 1
    for figure in (figure for name, figure in figures.items() if "layers-" in name):
        assert len(figure["label"]) > 40
        assert figure["links"] == 3
        assert figure["width"] > 300


def test_layers_on_a_phone(deep_report: ReportFiles, tmp_path: Path) -> None:
    found = on_a_phone(deep_report.html, tmp_path)
    assert found["errors"] == []
    assert found["width"][0] <= found["width"][1] == 375
    assert all(200 < figure["width"] <= 375 for figure in found["figures"])


def test_the_page_of_a_comparison(tmp_path: Path, whole_study: Path, study_of: Callable[..., Path]) -> None:
    page = write_comparison(compare([str(whole_study), str(study_of())]), tmp_path / "out").html
    found = what_was_seen(printed(watched(page, SHORT), tmp_path, "500,900"))
    assert found["errors"] == []
    assert found["width"][0] <= found["width"][1]


def test_a_page_with_little_in_it(study_of: Callable[..., Path], tmp_path: Path) -> None:
    directory = study_of(methods=("e_mixup",), n_splits=1, n_rare=0, alphas=(0.3,))
    found = what_was_seen(printed(watched(write_report(directory).html, SHORT), tmp_path, "500,900"))
    assert found["errors"] == []
    assert found["width"][0] <= found["width"][1]
