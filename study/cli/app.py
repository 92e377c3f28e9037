"""The `study` command: a thin face of the packages. Heavy libraries are imported where they are needed."""

from __future__ import annotations

import errno
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.metadata import version
from types import FrameType

import click

from study.cli.cluster import CLUSTER_COMMANDS
from study.cli.finished import COMMANDS
from study.cli.local import LOCAL_COMMANDS
from study.cli.options import EXIT_INTERRUPTED, EXIT_USER
from study.cli.tracker import tracker
from study.errors import StudyError
from study.execution.prepare import prepare


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(version("embedding-ablation-study"))
def study() -> None:
    """Ablation studies of embedding augmentations, from a product table to a compared table of methods."""


for _other in (*LOCAL_COMMANDS, *COMMANDS, *CLUSTER_COMMANDS, tracker):
    study.add_command(_other)


def main() -> None:
    """Runs the command; a user's mistake ends it with one message and exit code 2."""
    prepare()
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, _interrupt_once)
    signal.signal(signal.SIGTERM, _interrupt_once)  # how a cluster ends a job, and a batch system its own
    with _user_errors_as_messages():
        sys.exit(study.main(prog_name="study", standalone_mode=False))


def _interrupt_once(number: int, frame: FrameType | None) -> None:
    """Ends the command. Ray takes seconds to stop, and interrupting that too would leave its processes behind."""
    for later in (signal.SIGINT, signal.SIGTERM):
        signal.signal(later, signal.SIG_IGN)
    raise KeyboardInterrupt


@contextmanager
def _user_errors_as_messages() -> Iterator[None]:
    try:
        yield
    except StudyError as error:
        _fail(error)
    except click.ClickException as error:
        error.show()
        sys.exit(EXIT_USER)
    except (KeyboardInterrupt, click.Abort):
        click.echo("Interrupted; stopping. What is recorded stays: the same command goes on from there.", err=True)
        sys.exit(EXIT_INTERRUPTED)
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT, errno.EROFS):
            raise
        _fail(f"{error}. Make room there; what is recorded stays, and the same command goes on from it.")


def _fail(error: BaseException | str) -> None:
    click.echo(f"Error: {error}", err=True)
    sys.exit(EXIT_USER)
