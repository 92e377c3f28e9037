"""The `study` command. Its commands, and the heavy libraries below them, are imported when they are needed."""

from __future__ import annotations

import errno
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import import_module
from importlib.metadata import version
from types import FrameType

import click

from study.cli.options import EXIT_INTERRUPTED, EXIT_USER
from study.errors import LostError, StudyError
from study.execution.prepare import prepare

# The sections of `study --help`: the commands of each, and the modules that hold them.
SECTIONS = {
    "Set up": {"init": "init", "methods": "methods", "check": "local", "demo": "local"},
    "Run": {"run": "local", "embed": "local", "retry": "local"},
    "Look": {
        "status": "local", "report": "local", "open": "finished", "compare": "finished", "verify": "finished",
        "label": "finished", "embeddings": "embeddings",
    },
    "Share": {"export": "finished", "sync": "local", "tracker": "tracker"},
    "Cluster": {"preflight": "cluster", "submit": "cluster", "stop": "cluster"},
}  # fmt: skip


# Errors of the system about a path that the user gave.
_OF_PATHS = {
    errno.EACCES, errno.EPERM, errno.ENOENT, errno.ENOTDIR, errno.EISDIR, errno.EEXIST, errno.ENAMETOOLONG, errno.ELOOP,
}  # fmt: skip


class SectionedGroup(click.Group):
    """A group that imports a command when it is needed, and lists the commands in sections, each with its whole line.

    The function of the command `run` is `run_command`.
    """

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Return the names of all commands, in the order of the help."""
        return [name for modules in SECTIONS.values() for name in modules]

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Import a command; None if there is none of that name."""
        for modules in SECTIONS.values():
            if cmd_name in modules:
                command = getattr(import_module(f"study.cli.{modules[cmd_name]}"), f"{cmd_name}_command")
                return command if isinstance(command, click.Command) else None
        return None

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the sections, each command with the first line of its help."""
        for section, modules in SECTIONS.items():
            commands = {name: self.get_command(ctx, name) for name in modules}
            with formatter.section(section):
                formatter.write_dl(
                    [(name, (command.help or "").split("\n")[0]) for name, command in commands.items() if command]
                )


@click.group(cls=SectionedGroup, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(version("embedding-ablation-study"))
def study() -> None:
    """Run ablation studies of embedding augmentations: from a table of items to a compared table of methods."""


def main() -> None:
    """Run the command. A user's mistake ends it with one message and exit code 2."""
    prepare()
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, _interrupt_once)
    signal.signal(signal.SIGTERM, _interrupt_once)  # what Ray jobs and batch systems send to end a command
    with _user_errors_as_messages():
        sys.exit(study.main(prog_name="study", standalone_mode=False))


def _interrupt_once(number: int, frame: FrameType | None) -> None:
    """Interrupt the command, and ignore further signals: Ray needs seconds to stop its processes."""
    for later in (signal.SIGINT, signal.SIGTERM):
        signal.signal(later, signal.SIG_IGN)
    raise KeyboardInterrupt


@contextmanager
def _user_errors_as_messages() -> Iterator[None]:
    try:
        yield
    except LostError as error:
        _fail(error, LostError.exit_code)
    except StudyError as error:
        _fail(error)
    except click.ClickException as error:
        error.show()
        sys.exit(EXIT_USER)
    except (KeyboardInterrupt, click.Abort):
        click.echo("Interrupted; stopping. Recorded trials are kept: the same command continues.", err=True)
        sys.exit(EXIT_INTERRUPTED)
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EROFS):
            _fail(f"{error}. Make room there; recorded trials are kept, and the same command continues.")
        if error.errno not in _OF_PATHS or error.filename is None:
            raise
        _fail(f"{error.filename} must be a path to read or write: {error.strerror}. Correct it, or its permissions.")


def _fail(error: BaseException | str, exit_code: int = EXIT_USER) -> None:
    click.echo(f"Error: {error}", err=True)
    sys.exit(exit_code)
