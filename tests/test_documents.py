"""What the documents for readers and contributors name exists."""

import re
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).resolve().parents[1]

OF_THE_PROJECT = r"(?:study|embedding_jobs|trainables|analysis|tests|\.ci)/[\w./-]*\w/?"


@pytest.mark.parametrize("document", ["README.md", "CONTRIBUTING.md"])
def test_paths_exist(document: str) -> None:
    text = (ROOT / document).read_text(encoding="utf-8")
    paths = set(re.findall(rf"(?<![\w./-]){OF_THE_PROJECT}", text)) | set(re.findall(r"\]\(([\w./-]+)\)", text))
    paths |= {f"tests/benchmarks/{name}" for name in re.findall(r"\bbench_\w+\.py\b", text)}
    assert len(paths) > 5
    assert {path for path in paths if not (ROOT / path).exists()} == set()


def test_the_makefile_runs_what_the_readme_says() -> None:
    (command,) = re.findall(r"^python (.+) && python (-m pytest .+)$", (ROOT / "README.md").read_text("utf-8"), re.M)
    makefile = (ROOT / "Makefile").read_text("utf-8")
    for part in command:
        assert f"\t$(PYTHON) {part}\n" in makefile


def test_the_citation_is_of_this_version_and_of_the_readmes_papers() -> None:
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text("utf-8"))
    project = (ROOT / "pyproject.toml").read_text("utf-8")
    assert f'version = "{citation["version"]}"\n' in project
    assert f'license = "{citation["license"]}"\n' in project
    readme = (ROOT / "README.md").read_text("utf-8")
    for paper in citation["references"]:
        assert paper["authors"][0]["family-names"] in readme
        assert paper.get("url", "") in readme
