"""Commands on finished studies: what they say beside each other, and what is done with them."""

from __future__ import annotations

from pathlib import Path

import click

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


COMMANDS = (compare,)
