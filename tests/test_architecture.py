"""The house's plan, held by reading imports: who may know whom, and who may load the heavy libraries."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]

PACKAGES = ("study", "embedding_jobs", "trainables", "analysis")

FILES = sorted(path for package in PACKAGES for path in (ROOT / package).rglob("*.py"))


# What each package may import of the others: whole packages, or single modules and rooms.
EDGES = {
    "study": ("embedding_jobs", "trainables", "analysis"),
    "trainables": ("embedding_jobs.files", "embedding_jobs.errors", "embedding_jobs.store"),
    "analysis": ("trainables.records", "embedding_jobs.files", "embedding_jobs.errors"),
    "embedding_jobs": (),
}
# Where the heavy libraries may be imported: rooms (whole folders) and single files.
HEAVY = {
    "torch": (
        "trainables/methods/",
        "trainables/evaluation/",
        "trainables/training/",
        "trainables/packs/",
        "embedding_jobs/encoders/",
    ),
    "ray": (
        "embedding_jobs/pipeline/",
        "embedding_jobs/ray_session.py",
        "trainables/packs/trainable.py",
        "study/execution/",
        "study/cluster/",
    ),
    "optuna": ("study/search/",),
    "mlflow": ("study/tracking/", "study/model/", "analysis/results/mlflow.py"),
}


def imported(path: Path) -> set[str]:
    """Names of every module that a file imports, inside functions too; `from a import b` gives a and a.b."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            names |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
    return names


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_edges_between_packages(path: Path) -> None:
    package = path.relative_to(ROOT).parts[0]
    for name in imported(path):
        other = name.split(".")[0]
        if other in PACKAGES and other != package:
            allowed = EDGES[package]
            whole = other in allowed
            assert whole or any(f"{name}.".startswith(f"{edge}.") for edge in allowed), f"{path} imports {name}"


@pytest.mark.parametrize("library", HEAVY)
def test_who_imports_the_heavy_libraries(library: str) -> None:
    found = {
        str(path.relative_to(ROOT)) for path in FILES if any(name.split(".")[0] == library for name in imported(path))
    }
    strays = sorted(path for path in found if not path.startswith(HEAVY[library]))
    assert not strays, f"{library} is imported by {strays}"


def test_files_stay_small() -> None:
    lengths = {str(path.relative_to(ROOT)): len(path.read_text().splitlines()) for path in FILES}
    assert not {name: length for name, length in lengths.items() if length > 400}


@pytest.mark.parametrize("arguments", [["--help"], ["check", "--help"], ["check", "-c", "missing.yaml"]])
def test_the_command_starts_without_heavy_imports(arguments: list[str]) -> None:
    code = (
        f"import sys; sys.argv = ['study', *{arguments}]\n"
        "from study.cli.app import main\n"
        "try:\n    main()\nexcept SystemExit:\n    pass\n"
        "heavy = {'torch', 'ray', 'optuna', 'mlflow', 'transformers', 'timm', 'matplotlib', 'pandas'}\n"
        "print('loaded', sorted(heavy & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "loaded []"
