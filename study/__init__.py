"""Ablation studies of embedding augmentations: the study file, its search, its runs and the `study` command.

In a program or a notebook: `run_study(load_spec("study.yaml"))`.
"""

from typing import Any

__all__ = ["load_spec", "run_study"]


def __getattr__(name: str) -> Any:
    # Not imported above: `study --help` answers without loading torch and Ray.
    if name == "load_spec":
        from study.config.load import load_spec

        return load_spec
    if name == "run_study":
        from study.execution.run import run_study

        return run_study
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
