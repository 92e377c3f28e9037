"""The public API: what `import study` gives, and that importing a module changes nothing."""

import subprocess
import sys
from pathlib import Path

import pytest
from rich.console import Console

from study.execution.progress import notebook_progress

ROOT = Path(__file__).resolve().parents[2]


def python(code: str) -> str:
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_the_api_is_listed_and_loads_nothing_heavy() -> None:
    names = ["StudyError", "StudyResult", "StudySpec", "check_spec", "load_spec", "open_study", "run_study"]
    code = "import sys, study; print(dir(study), {'torch', 'ray', 'optuna', 'mlflow'} & set(sys.modules))"
    assert python(code) == f"{names} set()\n"
    python("import study\nfor name in dir(study): assert getattr(study, name).__name__ == name")
    assert python("import study; print(hasattr(study, 'run_studdy'))") == "False\n"


def test_a_users_program_sees_the_types(tmp_path: Path) -> None:
    script = tmp_path / "mine.py"
    script.write_text(
        "from study import StudyError, StudyResult, StudySpec, check_spec, load_spec, open_study, run_study\n"
        "spec: StudySpec = load_spec('study.yaml')\n"
        "result: StudyResult = run_study(spec)\n"
        "n_missing: int = spec.splits.n_splits - result.n_recorded\n"
        "names: list[str] = list(result.table()['method'])\n"
        "digest: str = open_study(result.directory).embeddings.digest\n"
        "def fails(error: StudyError) -> str:\n"
        "    return str(error)\n"
        "run_study('study.yaml')\n"
        "n_missing = check_spec({}, 'study.yaml')\n"
    )
    done = subprocess.run(
        [sys.executable, "-m", "mypy", "--strict", "--no-error-summary", str(script)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    found = [line.partition("mine.py:")[2] for line in done.stdout.splitlines() if "error:" in line]
    assert [line.partition(":")[0] for line in found] == ["9", "10"], done.stdout
    assert 'has incompatible type "str"; expected "StudySpec"' in found[0]
    assert 'expression has type "StudySpec", variable has type "int"' in found[1]


def test_importing_a_module_changes_nothing() -> None:
    """Every module of the packages, after the libraries, whose own effects are not ours."""
    code = """
import importlib, logging, os, pkgutil, sys
import matplotlib, mlflow.pyfunc, mlflow.tracking, optuna, pandas, ray.data, ray.job_submission, ray.tune
import sklearn, torch
from ray.tune.execution import class_cache

def state():
    names = ["", "alembic", "mlflow", "mlflow.pyfunc", "mlflow.store.db.utils", "optuna", "ray", "ray.data",
             "ray.dashboard.modules.dashboard_sdk", "ray.dashboard.modules.job.sdk"]
    levels = {name: logging.getLogger(name).level for name in names}
    return dict(os.environ), levels, set(class_cache.ENV_VARS_TO_PROPAGATE), optuna.logging.get_verbosity()

before, n_descriptors, n_modules = state(), len(os.listdir("/proc/self/fd")), 0
for package in ("study", "embedding_jobs", "trainables", "analysis"):
    for found in pkgutil.walk_packages(importlib.import_module(package).__path__, f"{package}."):
        if found.name.endswith("__main__"):
            continue
        try:
            importlib.import_module(found.name)
        except ModuleNotFoundError as error:  # a kernel for GPUs; only GPU builds of torch bring Triton
            assert (found.name, error.name) == ("trainables.training.philox", "triton"), found.name
        n_modules += 1
assert n_modules > 100
assert state() == before
assert len(os.listdir("/proc/self/fd")) == n_descriptors
"""
    python(code)


def test_progress_is_shown_in_a_notebook_and_not_in_a_program(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    notebook_progress().say("in a program")
    monkeypatch.setattr(Console, "is_jupyter", True, raising=False)
    monkeypatch.setattr("rich.console._is_jupyter", lambda: True)
    notebook_progress().say("in a notebook")
    assert capsys.readouterr().out == "in a notebook\n"
