"""Options and exit codes that the commands share."""

from __future__ import annotations

from pathlib import Path

import click

EXIT_INCOMPLETE = 1

EXIT_USER = 2

EXIT_INTERRUPTED = 130


_config = click.option(
    "-c", "--config", default="study.yaml", show_default=True, type=click.Path(path_type=Path), help="The study file."
)

_quiet = click.option("--quiet", is_flag=True, help="Show results and errors only.")
