"""`study tracker up`: run an MLflow server that needs a password."""

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


@click.group("tracker")
def tracker_command() -> None:
    """Run an MLflow server that needs a password."""


@tracker_command.command("up")
@click.option(
    "-d",
    "--directory",
    default="tracker",
    show_default=True,
    type=click.Path(path_type=Path),
    help="Folder of its files.",
)
@click.option("--host", default="127.0.0.1", show_default=True, help="Address to listen on.")
@click.option("--port", default=5000, show_default=True, type=click.IntRange(1, 65535), help="Port to listen on.")
@click.option(
    "--backend-store-uri", envvar="MLFLOW_BACKEND_STORE_URI", help="MLflow's database.  [default: SQLite in DIRECTORY]"
)
@click.pass_context
def run_tracker(context: click.Context, directory: Path, host: str, port: int, backend_store_uri: str | None) -> None:
    """Run an MLflow server that needs a password, until Ctrl-C.

    The user is `admin`. The password is taken from MLFLOW_AUTH_ADMIN_PASSWORD, or made and kept in
    DIRECTORY/admin-password. MLFLOW_SERVER_ALLOWED_HOSTS lists the host names by which others may reach the server.
    """
    from study.tracking.server import run_server

    given = context.get_parameter_source("backend_store_uri") is ParameterSource.COMMANDLINE
    uri = backend_store_uri or ""
    if given and (urlsplit(uri).password or has_secret_parameter(uri)):
        raise click.UsageError(
            "--backend-store-uri must not contain a password, which every user of this machine could read there; set "
            "MLFLOW_BACKEND_STORE_URI instead"
        )
    click.echo(f"Starting MLflow; its log is {directory / 'tracker.log'}.", err=True)
    try:
        run_server(directory, host, port, backend_store_uri, lambda uri, secret: _show_address(uri, secret, host))
    except KeyboardInterrupt:
        click.echo("The tracker has stopped.")


def _show_address(uri: str, secret: Secret, host: str) -> None:
    from study.config.addresses import is_loopback
    from study.tracking.server import ADMIN, PASSWORD

    password = f'"$(cat {shlex.quote(str(secret.file))})"' if secret.file else f'"${PASSWORD}"'
    click.echo(f"MLflow runs at {uri}. The user is `{ADMIN}`, the password is in {secret.file or PASSWORD}.")
    click.echo(f"In the study file:                    tracking: {{uri: {uri}}}")
    click.echo(f"Where `study run` or its driver runs: export MLFLOW_TRACKING_USERNAME={ADMIN}")
    click.echo(f"                                      export MLFLOW_TRACKING_PASSWORD={password}")
    if not is_loopback(host):
        click.echo(
            f"The server listens on {host} without encryption: put a TLS proxy in front of it, or leave out --host and "
            "use ssh -L.",
            err=True,
        )
    click.echo("Ctrl-C stops the server.")
