"""Commands on finished studies: what they say beside each other, and what is done with them."""

from __future__ import annotations

import sys
from pathlib import Path

import click

from study.embeddings import embeddings

_config = click.option(
    "-c", "--config", default="study.yaml", show_default=True, type=click.Path(path_type=Path), help="The study file."
)
_split = click.option("--split", type=int, help="Split seed; the first recorded one if not given.")
_output = click.option("-o", "--output", type=click.Path(path_type=Path), help="Folder to write into.")


@click.command()
@click.argument("studies", nargs=-1, required=True, metavar="STUDY STUDY...")
@_output
def compare(studies: tuple[str, ...], output: Path | None) -> None:
    """Compare studies with the first one: directories, or `URI#NAME` for one on an MLflow server."""
    from analysis.compare import compare as compare_studies
    from analysis.compare_page import comparison_table, write_comparison
    from study.terminal import show

    comparison = compare_studies(studies)
    written = write_comparison(comparison, output or Path("comparison"))
    show(comparison_table(comparison))
    click.echo(f"Comparison: {written.html}")


@click.command()
@click.argument("cell")
@_config
@_split
@click.option("--tolerance", type=float, default=0.001, show_default=True, help="Largest difference that agrees.")
def verify(cell: str, config: Path, split: int | None, tolerance: float) -> None:
    """Retrain a CELL of the table (a method, or `e_mixup(alpha=0.3)`) and say whether it agrees; exit code 1 if not."""
    from study.check import load_spec
    from study.terminal import show
    from study.verify import verification_table
    from study.verify import verify as verify_cell

    found = verify_cell(load_spec(config).root, cell, split, tolerance)
    show(verification_table(found), n_left=1)
    for what, then, now in found.differing:
        click.echo(f"Recorded on other {what}: {then}; now {now}.")
    word = "agrees" if found.agrees else "does not agree"
    same = f"{found.same_share:.1%} of its items have the very same confidence"
    click.echo(f"{found.trial} {word}, within {tolerance:g}; {same}.")
    sys.exit(0 if found.agrees else 1)


def report_from_server(uri: str, name: str, output: Path) -> None:
    """Writes and prints the report of a study from an MLflow server alone."""
    from analysis.aggregate import missing_trials
    from analysis.report import write_server_report
    from analysis.runs import load_runs
    from analysis.tables import terminal_table
    from study.terminal import show

    study = load_runs(uri, name)
    written = write_server_report(study, output)
    show(terminal_table(study.results))
    for sentence in missing_trials(study.results):
        click.echo(f"Missing: {sentence}")
    click.echo(f"Report, without what rests on single items: {written.html}")


COMMANDS = (
    compare,
    embeddings,
    verify,
)
