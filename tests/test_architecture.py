"""The house's plan, held by reading imports: who may know whom, and who may load the heavy libraries."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PACKAGES = ("study", "embedding_jobs", "trainables", "analysis")
FILES = sorted(path for package in PACKAGES for path in (ROOT / package).rglob("*.py"))

# What each package may import of the others: whole packages, or single modules.
EDGES = {
    "study": ("embedding_jobs", "trainables", "analysis"),
    "trainables": ("embedding_jobs.store",),
    "analysis": ("trainables.records", "trainables.unfinished"),
    "embedding_jobs": (),
}
HEAVY = {
    "torch": {
        *(f"trainables/{path.name}" for path in (ROOT / "trainables").glob("*.py")),
        *(f"embedding_jobs/{name}.py" for name in ("image_encoder", "text_encoder", "torch_runtime")),
    }
    - {f"trainables/{name}.py" for name in ("records", "splits", "unfinished")},
    "ray": {
        "embedding_jobs/extract.py",
        "embedding_jobs/ray_session.py",
        "embedding_jobs/stages.py",
        "trainables/pack.py",
        "study/runner.py",
        "study/tuning.py",
        "study/cluster.py",
        "study/launch.py",
        "study/nodes.py",
        "study/plan.py",
    },
    "optuna": {"study/space.py", "study/search.py", "study/journal.py", "study/importance.py"},
    "mlflow": {"study/tracking.py", "study/export.py", "analysis/runs.py"},
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
    assert found <= HEAVY[library], f"{library} is imported by {sorted(found - HEAVY[library])}"


def test_files_stay_small() -> None:
    lengths = {str(path.relative_to(ROOT)): len(path.read_text().splitlines()) for path in FILES}
    assert not {name: length for name, length in lengths.items() if length > 400}


@pytest.mark.parametrize("arguments", [["--help"], ["check", "--help"], ["check", "-c", "missing.yaml"]])
def test_the_command_starts_without_heavy_imports(arguments: list[str]) -> None:
    code = (
        f"import sys; sys.argv = ['study', *{arguments}]\n"
        "from study.cli import main\n"
        "try:\n    main()\nexcept SystemExit:\n    pass\n"
        "heavy = {'torch', 'ray', 'optuna', 'mlflow', 'transformers', 'timm', 'matplotlib', 'pandas'}\n"
        "print('loaded', sorted(heavy & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "loaded []"
