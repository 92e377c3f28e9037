"""Commands that work on this machine: check, demo, run, embed, retry, status, report, sync."""

from __future__ import annotations

import os
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import click

from study.cli.cluster import show_remote_status
from study.cli.init import preset_text
from study.cli.options import EXIT_INCOMPLETE, StudyFile, config_option, name_option, python_option, quiet_option

if TYPE_CHECKING:
    from analysis.report.write import ReportFiles
    from analysis.results.aggregate import StudyResults
    from study.config.schema import StudySpec
    from study.state.results import StudyResult


@click.command("check")
@config_option
def check_command(config: StudyFile) -> None:
    """Check the study file and its table, and count the trials.

    Names every problem at once. Reads every row of the table, and starts nothing.
    """
    from analysis.format import plural
    from analysis.results.controls import uncompared
    from embedding_jobs.store.items import checked_source
    from embedding_jobs.store.store import Store
    from study.config.machine_rules import device_here, too_large_here
    from study.config.table_rules import metadata_in_words, training_in_words
    from study.search.space import n_candidates, unconverged, unguided
    from study.state.description import refuse_changes, refuse_foreign_early, refuse_other_data

    spec = config.load()
    refuse_changes(spec)
    _, facts = checked_source(spec.data.source, spec.data.columns, Store(spec.store), spec.data.on_error)
    refuse_other_data(spec, facts)
    refuse_foreign_early(spec)
    counts = {method: n_candidates(spec.search, method) for method in spec.search.methods}
    click.echo(f"{config}: valid. Candidates: {', '.join(f'{method} {n}' for method, n in counts.items())}.")
    for phase in spec.phases:
        n = sum(counts.values()) if phase == spec.phases[0] else len(counts)
        n_splits = len(spec.planned_splits(phase))
        trials = plural(n * n_splits, "trial")
        click.echo(f"{phase}: {plural(n, 'candidate')} x {plural(n_splits, 'split')} = {trials}.")
    for line in (*training_in_words(spec), *metadata_in_words(facts)):
        click.echo(line)
    on_cluster = spec.resources.address or os.environ.get("RAY_ADDRESS")
    click.echo(f"Packs train on {f'the cluster at {on_cluster}' if on_cluster else device_here(spec.resources)}.")
    too_large = None if on_cluster else too_large_here(spec.resources)
    for remark in filter(
        None, (unconverged(spec.search, spec.training), uncompared(counts), unguided(spec.search), too_large)
    ):
        click.echo(remark)


@click.command("embed")
@config_option
@quiet_option
def embed_command(config: StudyFile, quiet: bool) -> None:
    """Encode what is missing in the embedding store."""
    spec = config.load()
    from study.execution.progress import Progress, chatter_to

    _say_study(spec, quiet)
    from study.execution.run import check_run, embed  # takes seconds

    checked = check_run(spec)  # a refused run changes nothing in the study's directory, its log included
    with chatter_to(spec.log) as console, Progress(console, quiet=quiet) as progress:
        embed(spec, progress, checked)
    click.echo(f"Embeddings: {spec.store}")


@click.command("run")
@config_option
@quiet_option
def run_command(config: StudyFile, quiet: bool) -> None:
    """Encode and train what is missing, then write the report.

    After any interruption, run it again: it continues.
    """
    _run(config, quiet=quiet)


@click.command("status")
@config_option
@click.option("--address", metavar="URL", help="The dashboard of the cluster that the study was submitted to.")
@name_option
@python_option
def status_command(config: StudyFile, address: str | None, name: str | None, python: str) -> None:
    """Show what is done, failed and missing, also during a run."""
    if address is not None:
        show_remote_status(config, address, name, python)
    spec = config.load(encodes=False)
    from study.cli.console import show_rows
    from study.state.description import refuse_changes
    from study.state.lock import read_activity
    from study.state.status import in_words, read_status, work_in_words
    from trainables.records.description import DESCRIPTION, DescriptionError, read_description

    if not (spec.root / DESCRIPTION).exists() and (activity := read_activity(spec.root)) is not None:
        click.echo("\n".join(work_in_words(activity)))  # the first run is encoding
        return
    found = read_status(spec, read_description(spec.root))
    rows = [
        (row.phase, row.method, *map(str, (row.n_planned, row.n_done, row.n_failed, row.n_stopped, row.n_missing)))
        for row in found.methods
    ]
    show_rows(("phase", "method", "planned", "done", "failed", "stopped", "missing"), rows)
    for line in in_words(found):
        click.echo(line)
    try:
        refuse_changes(spec)
    except DescriptionError as error:
        click.echo(error, err=True)


@click.command("retry")
@config_option
def retry_command(config: StudyFile) -> None:
    """Forget failed packs, so that the next run tries them again."""
    spec = config.load(encodes=False)
    from analysis.format import plural
    from study.state.lock import only_run
    from trainables.records.description import read_description
    from trainables.records.failures import forget_failures, read_failures

    before = read_description(spec.root)  # there is nothing to try again where no study has run
    failures = read_failures(spec.records, *before.made_by)
    if failures:
        with only_run(spec.root):
            forget_failures(spec.records, failures)
    click.echo(
        f"{plural(len(failures), 'failure')} forgotten." + (f" Next: {config.command('run')}" if failures else "")
    )


@click.command("report")
@config_option
@click.option("--tracking-uri", metavar="URI", help="Read the study from this MLflow server, without its records.")
@click.option("--study", "name", help="With --tracking-uri: the name of the study there.")
@click.option(
    "-o",
    "--output",
    type=click.Path(path_type=Path),
    help="With --tracking-uri: folder to write.  [default: report]",
)
@click.option("--pairs", is_flag=True, help="Compare every method with every other.")
def report_command(
    config: StudyFile, tracking_uri: str | None, name: str | None, output: Path | None, pairs: bool
) -> None:
    """Write the report of what is recorded: page, tables, figures."""
    if pairs and tracking_uri:
        raise click.UsageError("--pairs needs results per item, which an MLflow server does not have.")
    if not (tracking_uri or name or output):
        from study.execution.finish import finish_study

        found = finish_study(config.load(encodes=False), all_pairs=pairs)
        if found.report is None:
            raise click.ClickException(str(found.report_problem))
        _show_report(found.results, found.report)
        if found.tracking_problem:
            click.echo(found.tracking_problem, err=True)
    elif tracking_uri and name:
        _report_from_server(tracking_uri, name, output or Path("report"))
    else:
        raise click.UsageError("A report from a server needs both --tracking-uri and --study.")


@click.command("sync")
@config_option
def sync_command(config: StudyFile) -> None:
    """Write to MLflow what is missing there."""
    spec = config.load(encodes=False)
    from analysis.format import plural
    from study.tracking.sync import sync

    click.echo(f"Writing to {spec.tracking_uri} ...")
    written = sync(spec)
    click.echo(f"{plural(written, 'trial')} written to {spec.tracking_uri}; no trial is missing there.")


@click.command("demo")
@click.option(
    "-d", "--directory", default="demo", show_default=True, type=click.Path(path_type=Path), help="Folder to write to."
)
@quiet_option
def demo_command(directory: Path, quiet: bool) -> None:
    """Run a small study of a made-up catalogue: five methods."""
    from embedding_jobs.files import private_folder
    from study.demo.catalogue import make_catalogue

    private_folder(directory)
    click.echo(f"Making the catalogue in {directory} ...")
    make_catalogue(directory / "catalogue")
    config = directory / "study.yaml"
    if not config.exists():
        config.write_text(preset_text("demo"))
    _run(StudyFile(config), quiet=quiet)


def _run(config: StudyFile, *, quiet: bool) -> None:
    spec = config.load()
    from study.execution.progress import Progress, chatter_to

    _say_study(spec, quiet)
    from study.execution.run import check_run, run_study  # takes seconds

    checked = check_run(spec)  # a refused run changes nothing in the study's directory, its log included
    with chatter_to(spec.log) as console, Progress(console, quiet=quiet) as progress:
        result = run_study(spec, progress, checked)
    if result.report is not None:
        _show_report(result.results, result.report)
    _show_run(result, spec, config)
    if result.report is None:
        raise click.ClickException(str(result.report_problem))
    sys.exit(EXIT_INCOMPLETE if result.failures else 0)


def _say_study(spec: StudySpec, quiet: bool) -> None:
    if not quiet:
        click.echo(f"Study {spec.name}, in {spec.root}")


def _show_report(results: StudyResults, report: ReportFiles) -> None:
    _show_table(results, report.findings)
    click.echo(f"Report: {report.html}")


def _show_table(results: StudyResults, findings: Sequence[str] = ()) -> None:
    from analysis.report.tables import terminal_table
    from analysis.report.text import chosen_inside, optimistic
    from analysis.results.controls import uncompared
    from study.cli.console import show_table

    for remark in results.convergence:
        click.echo(remark)
    show_table(terminal_table(results))
    remarks = filter(None, (chosen_inside(results), optimistic(results), uncompared(results.description.methods)))
    for sentence in (*remarks, *findings, *(f"Missing: {sentence}" for sentence in results.missing)):
        click.echo(sentence)


def _show_run(result: StudyResult, spec: StudySpec, config: StudyFile) -> None:
    from analysis.report.text import what_was_saved

    click.echo(f"{result.n_recorded} trials recorded in {spec.records}, {result.n_trained} of them by this run.")
    if result.stops:
        click.echo(what_was_saved(result.stops))
    if result.tracking_problem:
        click.echo(result.tracking_problem, err=True)
    elif not spec.tracking.uri:
        click.echo(f"MLflow: mlflow ui --backend-store-uri {shlex.quote(spec.tracking_uri)}")
    for failure in result.failures:
        click.echo(f"Failed: {failure}", err=True)
    if result.failures:
        again = f"{config.command('retry')} && {config.command('run')}"
        click.echo(f"Tracebacks are in {spec.records / 'failed'}. Fix the cause, then: {again}", err=True)


def _report_from_server(uri: str, name: str, output: Path) -> None:
    from analysis.report.write import write_server_report
    from analysis.results.mlflow import load_runs

    results = load_runs(uri, name)
    written = write_server_report(results, output)
    _show_table(results)
    click.echo(f"Report, without per-item results: {written.html}")
