"""Options and exit codes that the commands share."""

from __future__ import annotations

import shlex
from pathlib import Path

import click

EXIT_INCOMPLETE, EXIT_USER, EXIT_INTERRUPTED = 1, 2, 130

config_option = click.option(
    "-c", "--config", default="study.yaml", show_default=True, type=click.Path(path_type=Path), help="The study file."
)

quiet_option = click.option("--quiet", is_flag=True, help="Show results and errors only.")

output_option = click.option("-o", "--output", type=click.Path(path_type=Path), help="Folder to write to.")

name_option = click.option("--name", help="With --address: the study's name, instead of its file.")

python_option = click.option(
    "--python", default="python", show_default=True, help="The Python on the cluster that has this project installed."
)


def command_line(name: str, config: Path) -> str:
    """Return a command on a study file as a user types it."""
    return f"study {name} -c {shlex.quote(str(config))}"
