"""`study embeddings`: what a store holds, whether it is sound, and taking a column out."""

from __future__ import annotations

import sys
from pathlib import Path

import click

_config = click.option(
    "-c", "--config", default="study.yaml", show_default=True, type=click.Path(path_type=Path), help="The study file."
)

_store = click.option("--store", type=click.Path(path_type=Path), help="A store, in place of a study file's.")


@click.group()
def embeddings() -> None:
    """See, verify and remove columns of an embedding store."""


@embeddings.command("ls")
@_config
@_store
def list_columns(config: Path, store: Path | None) -> None:
    """What is there, made by what, how large, how fast."""
    from rich.console import Console
    from rich.table import Table

    from embedding_jobs.store.store import Store

    opened = Store(_directory(config, store))
    table = Table(box=None, pad_edge=False)
    for heading in ("column", "model", "items", "distinct", "numbers", "MB", "inputs/s", ""):
        table.add_column(heading, justify="left" if heading in ("column", "model", "") else "right")
    for facts in opened.describe():
        manifest = facts.manifest
        if manifest is None:
            table.add_row(facts.name, "", "", "", "", f"{facts.n_bytes / 1e6:,.1f}", "", facts.problem)
            continue
        rate = facts.measured.get("inputs_per_s")
        table.add_row(
            facts.name,
            str(manifest.settings.get("model", manifest.encoder)),
            f"{manifest.n_items:,}",
            f"{manifest.n_distinct:,}",
            f"{manifest.dimension:,} {manifest.dtype}",
            f"{facts.n_bytes / 1e6:,.1f}",
            f"{rate:,.0f}" if rate else "",
            f"{manifest.n_skipped:,} skipped" if manifest.n_skipped else "",
        )
    console = Console()
    Console(width=console.width if console.is_terminal else 160).print(table)


@embeddings.command()
@_config
@_store
@click.argument("columns", nargs=-1)
def verify(config: Path, store: Path | None, columns: tuple[str, ...]) -> None:
    """Recompute checksums and row alignment of COLUMNS, or of all; exit code 1 where something is damaged."""
    from embedding_jobs.store.store import Store

    opened = Store(_directory(config, store))
    damages = opened.verify(columns or None)
    for damage in damages:
        click.echo(f"{damage.column}/{damage.file}: {damage.reason}")
    click.echo("`study embed` makes what is damaged anew." if damages else f"{opened.directory}: sound.")
    sys.exit(1 if damages else 0)


@embeddings.command("rm")
@_config
@_store
@click.argument("column")
@click.option("--yes", is_flag=True, help="Do not ask.")
def remove(config: Path, store: Path | None, column: str, yes: bool) -> None:
    """Remove COLUMN; the others stay."""
    from embedding_jobs.store.store import Store

    opened = Store(_directory(config, store))
    name = opened.find(column)
    if not yes:
        click.confirm(f"Remove {name} from {opened.directory}?", abort=True)
    opened.remove(name)
    click.echo(f"{name} removed. `study embed` makes it anew.")


def _directory(config: Path, store: Path | None) -> Path:
    if store is not None:
        return store
    from study.config.load import load_spec

    return load_spec(config).store
