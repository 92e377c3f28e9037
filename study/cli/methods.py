"""The command that lists the methods."""

from __future__ import annotations

import click


@click.command("methods")
@click.argument("name", required=False)
def methods_command(name: str | None) -> None:
    """List the methods: what each does, hyperparameters, ranges, source.

    With a NAME, only the methods whose names contain it. Installed packages of third parties are included.
    """
    from study.cli.console import show_rows
    from trainables.methods.protocol import LANE_SETTINGS
    from trainables.methods.registry import get_method, method_names

    found = [one for one in method_names() if name is None or name in one]
    if not found:
        raise click.UsageError(f"NAME must be part of a method's name, got {name!r}: {', '.join(method_names())}.")
    rows = []
    for method in map(get_method, found):
        params = "\n".join(f"{key} = {known}" for key, known in method.hyperparameters.items())
        rows.append((method.name, getattr(method, "summary", ""), params, getattr(method, "source", "")))
    show_rows(("method", "what it does", "hyperparameters", "source"), rows, n_left=4)
    click.echo(f"\nEvery method may also be given its own {', '.join(LANE_SETTINGS)}.")
    click.echo("A study file names methods in `search.methods`: a value, a list of values, or {low, high, log}.")
