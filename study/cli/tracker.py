"""`study tracker`: a tracking server of one's own, closed to strangers."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

import click
from click.core import ParameterSource

from study.config.addresses import has_secret_parameter

if TYPE_CHECKING:
    from study.tracking.server import Secret


@click.group()
def tracker() -> None:
    """A tracking server of one's own."""


@tracker.command()
@click.option(
    "-d", "--directory", default="tracker", show_default=True, type=click.Path(path_type=Path), help="For its files."
)
@click.option("--host", default="127.0.0.1", show_default=True, help="Interface to listen on.")
@click.option("--port", default=5000, show_default=True, type=click.IntRange(1, 65535))
@click.option(
    "--backend-store-uri", envvar="MLFLOW_BACKEND_STORE_URI", help="MLflow's database.  [default: SQLite in DIRECTORY]"
)
@click.pass_context
def up(context: click.Context, directory: Path, host: str, port: int, backend_store_uri: str | None) -> None:
    """Run an MLflow server that asks for a password, until Ctrl-C.

    The user is `admin`; its password is that of MLFLOW_AUTH_ADMIN_PASSWORD, or is made and kept in
    DIRECTORY/admin-password. MLFLOW_SERVER_ALLOWED_HOSTS says by which names others may reach it.
    """
    from study.errors import TrackerError
    from study.tracking.server import run_server

    given = context.get_parameter_source("backend_store_uri") is ParameterSource.COMMANDLINE
    uri = backend_store_uri or ""
    if given and (urlsplit(uri).password or has_secret_parameter(uri)):
        raise click.UsageError(
            "--backend-store-uri must not hold a password, which every user of this machine could read there; set "
            "MLFLOW_BACKEND_STORE_URI instead"
        )
    click.echo(f"Starting MLflow; what it says goes to {directory / 'tracker.log'}.", err=True)
    try:
        run_server(directory, host, port, backend_store_uri, lambda uri, secret: _tell(uri, secret, host))
    except TrackerError as error:
        raise click.ClickException(str(error)) from None
    except KeyboardInterrupt:
        click.echo("The tracker is stopped.")


def _tell(uri: str, secret: Secret, host: str) -> None:
    from study.config.addresses import is_loopback
    from study.tracking.server import ADMIN, PASSWORD

    password = f'"$(cat {shlex.quote(str(secret.file))})"' if secret.file else f'"${PASSWORD}"'
    click.echo(f"MLflow answers at {uri} to the user `{ADMIN}`; its password is in {secret.file or PASSWORD}.")
    click.echo(f"A study file names it so:       tracking: {{uri: {uri}}}")
    click.echo(f"and `study` knows the password: export MLFLOW_TRACKING_USERNAME={ADMIN}")
    click.echo(f"                                export MLFLOW_TRACKING_PASSWORD={password}")
    if not is_loopback(host):
        click.echo(
            f"It listens on {host}, and what it says is not encrypted: put a proxy with TLS before it, or leave "
            "--host out and reach it by ssh -L.",
            err=True,
        )
    click.echo("Ctrl-C stops it.")
