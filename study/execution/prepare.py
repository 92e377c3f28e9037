"""Prepare the process for a study: quiet libraries that report to nobody. Importing a module changes none of this."""

from __future__ import annotations

import logging
import os
from functools import cache

_ENVIRONMENT = {
    # Tune's own loggers and tables take a fifth of a second per trial; `Progress` shows what they would.
    "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",
    "TUNE_DISABLE_SIGINT_HANDLER": "1",
    "RAY_AIR_NEW_OUTPUT": "0",
    "MLFLOW_DISABLE_TELEMETRY": "true",  # read when MLflow is imported
}


def prepare() -> None:
    """Set the environment variables and the log level that a study needs. Variables that the user has set are kept.

    Every entry calls this: the command before it imports libraries, the functions of the API after it, since Optuna
    sets its log level when it is imported.
    """
    for name, value in _ENVIRONMENT.items():
        os.environ.setdefault(name, value)
    logging.getLogger("optuna").setLevel(logging.WARNING)
    first_stderr()


@cache
def first_stderr() -> int:
    """Return a descriptor of the standard error that the process began with, wherever it is redirected later."""
    return os.dup(2)
