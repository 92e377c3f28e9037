"""Ablation studies of embedding augmentations: the study file, its search, its runs and the `study` command.

In a program or a notebook: `run_study(load_spec("study.yaml"))`.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

__all__ = ["StudyError", "StudyResult", "StudySpec", "check_spec", "load_spec", "open_study", "run_study"]

if TYPE_CHECKING:
    from study.config.load import check_spec, load_spec
    from study.config.schema import StudySpec
    from study.errors import StudyError
    from study.execution.run import run_study
    from study.model.retrain import open_study
    from study.state.results import StudyResult
else:
    # Imported at first use: `study --help` loads none of torch, Ray, Optuna and MLflow.
    _MODULES = {
        "StudyError": "study.errors",
        "StudyResult": "study.state.results",
        "StudySpec": "study.config.schema",
        "check_spec": "study.config.load",
        "load_spec": "study.config.load",
        "open_study": "study.model.retrain",
        "run_study": "study.execution.run",
    }

    def __getattr__(name: str) -> Any:
        if name not in _MODULES:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        return getattr(import_module(_MODULES[name]), name)

    def __dir__() -> list[str]:
        return __all__
