"""`study init`: a study file from a preset, or for a table."""

from __future__ import annotations

from importlib.resources import files
from pathlib import Path
from typing import Any

import click

from study.cli.options import StudyFile, named_files

_PRESETS = ("nested", "cross_validation", "official", "paper", "deep_augmentation", "demo")


@click.command("init")
@click.argument("preset", type=click.Choice(_PRESETS), required=False, metavar="[PRESET]")
@click.option("--table", metavar="PATH", help="Write a file for this table, instead of a preset's.")
@click.option("--label", metavar="COLUMN", help="With --table: the classes.")
@click.option("--text", multiple=True, metavar="COLUMN", help="With --table: texts. May be repeated.")
@click.option("--image", metavar="COLUMN", help="With --table: pictures, or their paths.")
@click.option(
    "--vectors",
    multiple=True,
    metavar="COLUMN",
    help="With --table: vectors in the table, or NAME=FILE. May be repeated.",
)
@click.option("--id", metavar="COLUMN", help="With --table: unique ids.")
@click.option("--group", metavar="COLUMN", help="With --table: what no split may divide.")
@click.option("--split", metavar="COLUMN", help="With --table: train, validation or test.")
@click.option("--encoder", metavar="MODEL", help="With --table: model of the texts: a folder, hub name or package://.")
@click.option(
    "-o", "--output", default="study.yaml", show_default=True, type=click.Path(path_type=Path), help="File to write."
)
def init_command(preset: str | None, table: str | None, output: Path, encoder: str | None, **columns: Any) -> None:
    """Write a study file: a commented PRESET, or one for your table.

    PRESET is nested (the default), cross_validation, official, paper, deep_augmentation or demo.

    A file for a --table is short and needs no editing. Columns that are not named are found where their names or
    contents leave no doubt; splits and training follow from the sizes of the table and of its classes.
    """
    if output.exists():
        raise click.ClickException(f"{output} exists; give another name with --output")
    given = {key: value for key, value in columns.items() if value}
    if table is None:
        if given or encoder:
            raise click.UsageError("Columns and an encoder need --table, whose columns they name.")
        text, said = preset_text(preset or "nested"), "Its first lines say what it needs. Change it, then"
    elif preset is not None:
        raise click.UsageError("Give a PRESET or a --table, not both.")
    else:
        from study.config.new_file import new_file

        if any("=" in name for name in given.get("vectors", ())):
            given["vectors"] = named_files(given["vectors"])
        made = new_file(table, output, given, encoder)
        text, said = made.text, f"{made.summary}. Next"
    output.parent.mkdir(parents=True, exist_ok=True)
    with output.open("x") as file:
        file.write(text)
    click.echo(f"{output} written. {said}: {StudyFile(output).command('check')}")


def preset_text(name: str) -> str:
    """Return the study file of a preset."""
    return (files("study.config") / "presets" / f"{name}.yaml").read_text()
