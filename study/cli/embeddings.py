"""`study embeddings`: list, verify and remove the columns of an embedding store."""

from __future__ import annotations

import sys
from pathlib import Path

import click

from study.cli.options import StudyFile, config_option

_store_option = click.option("--store", type=click.Path(path_type=Path), help="A store, instead of the study file's.")


@click.group("embeddings")
def embeddings_command() -> None:
    """List, verify or remove the columns of the embedding store."""


@embeddings_command.command("ls")
@config_option
@_store_option
def list_columns(config: StudyFile, store: Path | None) -> None:
    """List the columns: their encoder, size and encoding speed."""
    from embedding_jobs.errors import StoreError
    from embedding_jobs.store.store import Store
    from study.cli.console import show_rows

    rows = []
    opened = Store(_directory(config, store))
    if not opened.directory.is_dir():
        raise StoreError(f"there is no embedding store at {opened.directory}; `study embed` makes it")
    for facts in opened.describe():
        manifest, megabytes = facts.manifest, f"{facts.n_bytes / 1e6:,.1f}"
        if manifest is None:
            rows.append((facts.name, "", facts.problem or "", "", "", "", megabytes, ""))
            continue
        rate = facts.measured.get("inputs_per_s")
        rows.append(
            (
                facts.name,
                str(manifest.settings.get("model", manifest.encoder)),
                f"{manifest.n_skipped:,} skipped" if manifest.n_skipped else "",
                f"{manifest.n_items:,}",
                f"{manifest.n_distinct:,}",
                f"{manifest.dimension:,} {manifest.dtype}",
                megabytes,
                f"{rate:,.0f}" if isinstance(rate, int | float) else "",
            )
        )
    show_rows(("column", "model", "", "items", "distinct", "dimensions", "MB", "inputs/s"), rows, n_left=3)


@embeddings_command.command("verify")
@config_option
@_store_option
@click.argument("columns", nargs=-1)
def verify_columns(config: StudyFile, store: Path | None, columns: tuple[str, ...]) -> None:
    """Check the files of COLUMNS, or of all; exit code 1 if damaged.

    Recomputes the checksums and compares the rows of every column with the items.
    """
    from embedding_jobs.store.store import Store

    opened = Store(_directory(config, store))
    damages = opened.verify(columns or None)
    for damage in damages:
        click.echo(f"{damage.column}/{damage.file}: {damage.reason}")
    click.echo("`study embed` encodes damaged shards again." if damages else f"{opened.directory}: valid.")
    sys.exit(1 if damages else 0)


@embeddings_command.command("rm")
@config_option
@_store_option
@click.argument("column")
@click.option("--yes", is_flag=True, help="Do not ask.")
def remove_column(config: StudyFile, store: Path | None, column: str, yes: bool) -> None:
    """Remove COLUMN and keep the others."""
    from embedding_jobs.store.store import Store

    opened = Store(_directory(config, store))
    name = opened.find(column)
    if not yes:
        try:
            agreed = click.confirm(f"Remove {name} from {opened.directory}?")
        except click.Abort:  # there is no terminal to answer from
            agreed = False
        if not agreed:
            raise click.UsageError("Nothing removed. Pass --yes to remove without a question.")
    opened.remove(name)
    click.echo(f"{name} removed. `study embed` encodes it again.")


def _directory(config: StudyFile, store: Path | None) -> Path:
    if store is not None:
        return store
    return config.load().store
