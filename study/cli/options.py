"""Options and exit codes that the commands share."""

from __future__ import annotations

import shlex
from collections.abc import Callable
from dataclasses import dataclass
from functools import wraps
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from study.config.schema import StudySpec

EXIT_INCOMPLETE, EXIT_USER, EXIT_INTERRUPTED = 1, 2, 130

quiet_option = click.option("--quiet", is_flag=True, help="Show results and errors only.")

output_option = click.option("-o", "--output", type=click.Path(path_type=Path), help="Folder to write to.")

name_option = click.option("--name", help="With --address: the study's name, instead of its file.")

python_option = click.option(
    "--python", default="python", show_default=True, help="The Python on the cluster that has this project installed."
)


@dataclass(frozen=True)
class StudyFile:
    """A study file as a command names it.

    Attributes:
        path: The file.
        assignments: Values in place of the file's, each as `training.epochs=24`.
    """

    path: Path
    assignments: tuple[str, ...] = ()

    def load(self, *, remote: bool = False, encodes: bool = True) -> StudySpec:
        """Read and check the file, as `load_spec` does."""
        from study.config.load import load_spec

        return load_spec(self.path, assignments=self.assignments, remote=remote, encodes=encodes)

    def text(self) -> str:
        """Return the text of the file that has these values."""
        import yaml

        from study.config.assignments import assigned
        from study.config.yaml_file import read_yaml

        if not self.assignments:
            return self.path.read_text(encoding="utf-8")
        return yaml.safe_dump(assigned(read_yaml(self.path), self.assignments), sort_keys=False)

    def command(self, name: str) -> str:
        """Return a command on this study as a user types it."""
        return shlex.join(["study", name, "-c", str(self.path), *self._sets()])

    def __str__(self) -> str:
        return " ".join([str(self.path), *map(shlex.quote, self._sets())])

    def _sets(self) -> list[str]:
        return [part for assignment in self.assignments for part in ("--set", assignment)]


def config_option(command: Callable[..., Any]) -> Callable[..., Any]:
    """Give a command the argument `config`, a `StudyFile`: that of -c, with the values of --set."""

    @click.option(
        "-c",
        "--config",
        default="study.yaml",
        show_default=True,
        type=click.Path(path_type=Path),
        help="The study file.",
    )
    @click.option(
        "--set",
        "assignments",
        multiple=True,
        metavar="KEY=VALUE",
        help="A value in place of the study file's, such as training.epochs=24. May be repeated.",
    )
    @wraps(command)
    def with_study_file(*arguments: Any, config: Path, assignments: tuple[str, ...], **options: Any) -> Any:
        return command(*arguments, config=StudyFile(config, assignments), **options)

    return with_study_file


def named_files(pairs: tuple[str, ...]) -> dict[str, str]:
    """Return the file of each name, of options NAME=FILE.

    Raises:
        click.UsageError: One is something else.
    """
    for pair in pairs:
        if not all(pair.partition("=")):
            raise click.UsageError(f"--vectors must be NAME=FILE, got {pair!r}")
    return {name: file for name, _, file in (pair.partition("=") for pair in pairs)}
