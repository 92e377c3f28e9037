"""Texts of a table that hold a script: shown in the pages as they are written, and never run."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from analysis.report.write import write_report
from embedding_jobs.sources.items import Source
from study.labelling.items import RankedItem
from study.labelling.page import label_page
from tests.analysis_tests.report.test_browser import BROWSER, SHORT, printed, watched, what_was_seen
from trainables.records.failures import Failure, write_failure
from trainables.records.types import Candidate, SplitId

pytestmark = pytest.mark.skipif(not BROWSER, reason="no Chromium found: apt-get install chromium")

SCRIPT = """</script></style></title><script>console.error("run")</script><img src=x onerror='console.error("run")'>"""


def assert_shown_and_not_run(page: Path, folder: Path) -> None:
    document = printed(watched(page, SHORT), folder)
    assert what_was_seen(document)["errors"] == []
    assert '&lt;script&gt;console.error("run")&lt;/script&gt;' in document


def test_in_the_list_of_what_to_label(tmp_path: Path) -> None:
    source = Source(table="t.csv", id="id", label="label", text=("title",), image=None)
    items = [RankedItem(1, 0, SCRIPT, SCRIPT, 0.5, SCRIPT, {SCRIPT: SCRIPT}, None)]
    (tmp_path / "label.html").write_text(label_page(items, 1, source, SCRIPT, SCRIPT))
    assert_shown_and_not_run(tmp_path / "label.html", tmp_path)


def test_in_the_report(study_of: Callable[..., Path], tmp_path: Path) -> None:
    directory = study_of()
    description = json.loads((directory / "study.json").read_text())
    description["name"] = SCRIPT
    names = [SCRIPT] * description["data"]["n_classes"]
    description["data"] = {**description["data"], "notes": [SCRIPT], "class_names": names}
    description["choices"] = {SCRIPT: SCRIPT}
    (directory / "study.json").write_text(json.dumps(description))
    failure = Failure("test", Candidate.of("control", {}), (SplitId(1),), SCRIPT, SCRIPT, 3, 0.0)
    write_failure(directory / "records", failure, "aa11", {})
    assert_shown_and_not_run(write_report(directory, tmp_path / "report").html, tmp_path)
