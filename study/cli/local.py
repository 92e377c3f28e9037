"""The commands that work on this machine: init, check, embed, run, status, retry, report, sync, demo."""

from __future__ import annotations

import shlex
import sys
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING

import click

from study.cli.cluster import status_there
from study.cli.finished import report_from_server
from study.cli.options import EXIT_INCOMPLETE, _config, _quiet

if TYPE_CHECKING:
    from analysis.report.write import ReportFiles
    from analysis.results.aggregate import StudyResults
    from study.config.schema import StudySpec
    from study.state.results import StudyResult

PRESETS = ("paper", "nested", "deep_augmentation", "demo")


@click.command()
@click.argument("preset", type=click.Choice(PRESETS), default="nested")
@click.option(
    "-o", "--output", default="study.yaml", show_default=True, type=click.Path(path_type=Path), help="File to write."
)
def init(preset: str, output: Path) -> None:
    """Write a commented study file from PRESET."""
    output.parent.mkdir(parents=True, exist_ok=True)
    try:
        with output.open("x") as file:
            file.write(_preset(preset))
    except FileExistsError:
        raise click.ClickException(f"{output} exists; give another name with --output") from None
    click.echo(f"{output} written. Name your table in its `data` section, then: study check -c {output}")


@click.command()
@_config
def check(config: Path) -> None:
    """Check a study file against its table: every problem at once, before anything heavy starts."""
    from analysis.format import plural
    from analysis.results.controls import uncompared
    from embedding_jobs.store.items import checked_source
    from embedding_jobs.store.store import Store
    from study.config.load import load_spec
    from study.search.space import n_candidates, unguided
    from trainables.records.types import PROTOCOLS

    spec = load_spec(config)
    if (spec.root / "study.json").exists():
        from study.state.description import refuse_changes

        refuse_changes(spec)
    checked_source(spec.data.source, spec.data.columns, Store(spec.store), spec.data.on_error)
    counts = {method: n_candidates(spec.search, method) for method in spec.search.methods}
    click.echo(f"{config}: sound. Candidates: {', '.join(f'{method} {n}' for method, n in counts.items())}.")
    for phase in PROTOCOLS[spec.splits.protocol]:
        n, n_splits = len(counts) if phase == "confirm" else sum(counts.values()), len(spec.split_seeds(phase))
        trials = plural(n * n_splits, "trial")
        click.echo(f"{phase}: {plural(n, 'candidate')} x {plural(n_splits, 'split')} = {trials}.")
    for remark in filter(None, (uncompared(counts), unguided(spec.search))):
        click.echo(remark)


@click.command()
@_config
@_quiet
def embed(config: Path, quiet: bool) -> None:
    """Encode the shards that the embedding store lacks."""
    spec = _load(config)
    from study.execution.progress import Progress, chatter_to

    with chatter_to(spec.log) as console, Progress(console, quiet=quiet) as progress:
        progress.say(f"Study {spec.name}, in {spec.root}")
        from study.execution.run import embed as embed_missing  # seconds

        embed_missing(spec, progress)
    click.echo(f"Embeddings: {spec.store}")


@click.command()
@_config
@_quiet
def run(config: Path, quiet: bool) -> None:
    """Encode, then train every planned trial that is not recorded; run again after any interruption."""
    spec = _load(config)
    sys.exit(_run(spec, config, quiet=quiet))


@click.command()
@_config
@click.option("--address", metavar="URL", help="A cluster's dashboard, for a study that was sent there.")
@click.option("--name", help="With --address: the study's name, in place of its file.")
@click.option("--python", default="python", help="With --address: the cluster's interpreter that has this project.")
def status(config: Path, address: str | None, name: str | None, python: str) -> None:
    """Show what is done, running, failed and missing; also while a run works."""
    if address is not None:
        status_there(config, address, name, python)
    spec = _load(config, encodes=False)
    from rich.console import Console
    from rich.table import Table

    from study.state.description import refuse_changes
    from study.state.lock import read_activity
    from study.state.status import in_words, read_status, work_in_words
    from trainables.records.description import DESCRIPTION, DescriptionError, read_description

    if not (spec.root / DESCRIPTION).exists() and (activity := read_activity(spec.root)) is not None:
        click.echo("\n".join(work_in_words(activity)))  # it encodes what the study will be about
        return
    found = read_status(spec, read_description(spec.root))
    table = Table(box=None, pad_edge=False)
    for index, heading in enumerate(("phase", "method", "planned", "done", "failed", "stopped", "missing")):
        table.add_column(heading, justify="left" if index < 2 else "right")
    for row in found.methods:
        counts = (row.n_planned, row.n_done, row.n_failed, row.n_stopped, row.n_missing)
        table.add_row(row.phase, row.method, *map(str, counts))
    Console().print(table)
    for line in in_words(found):
        click.echo(line)
    try:
        refuse_changes(spec)
    except DescriptionError as error:
        click.echo(error, err=True)


@click.command()
@_config
def retry(config: Path) -> None:
    """Forget which packs failed, so that the next run tries them again."""
    spec = _load(config, encodes=False)
    from study.state.lock import only_run
    from trainables.records.failures import forget_failures, read_failures

    failures = read_failures(spec.records)
    if failures:
        with only_run(spec.root):
            forget_failures(spec.records, failures)
    click.echo(f"{len(failures)} failures forgotten." + (f" Next: {_command('run', config)}" if failures else ""))


@click.command()
@_config
@click.option("--tracking-uri", help="Read the study from this MLflow server, without its records.")
@click.option("--study", "name", help="Name of the study on that server.")
@click.option("-o", "--output", type=click.Path(path_type=Path), help="Folder of a report from a server.")
def report(config: Path, tracking_uri: str | None, name: str | None, output: Path | None) -> None:
    """Write the report of what is recorded: page, tables, figures."""
    if not (tracking_uri or name or output):
        from study.execution.finish import finish_study

        found = finish_study(_load(config, encodes=False))
        _show_report(found.results, found.report)
        if problem := found.report_problem or found.tracking_problem:
            if found.report is None:
                raise click.ClickException(problem)
            click.echo(problem, err=True)
    elif tracking_uri and name:
        report_from_server(tracking_uri, name, output or Path("report"))
    else:
        raise click.UsageError("--tracking-uri, --study and --output go together; the first two are needed.")


@click.command()
@_config
def sync(config: Path) -> None:
    """Write to MLflow what it lacks; into an empty server, everything."""
    spec = _load(config, encodes=False)
    from study.tracking.sync import sync as sync_study

    click.echo(f"Writing to {spec.tracking_uri} ...")
    written = sync_study(spec)
    click.echo(f"{written} trials written to {spec.tracking_uri}; the others were there.")


@click.command()
@click.option(
    "-d", "--directory", default="demo", show_default=True, type=click.Path(path_type=Path), help="Where to work."
)
@_quiet
def demo(directory: Path, quiet: bool) -> None:
    """Run the main job on a built-in catalogue: five methods, three splits, one table."""
    from study.demo.catalogue import make_catalogue

    directory.mkdir(parents=True, exist_ok=True)
    click.echo(f"Making the catalogue in {directory} ...")
    make_catalogue(directory / "catalogue")
    config = directory / "study.yaml"
    if not config.exists():
        config.write_text(_preset("demo"))
    spec = _load(config)
    sys.exit(_run(spec, config, quiet=quiet))


def _load(config: Path, *, encodes: bool = True) -> StudySpec:
    from study.config.load import load_spec

    return load_spec(config, encodes=encodes)


def _preset(name: str) -> str:
    return (files("study.config") / "presets" / f"{name}.yaml").read_text()


def _run(spec: StudySpec, config: Path, *, quiet: bool) -> int:
    from study.execution.progress import Progress, chatter_to

    with chatter_to(spec.log) as console, Progress(console, quiet=quiet) as progress:
        progress.say(f"Study {spec.name}, in {spec.root}")
        from study.execution.run import run_study  # seconds

        result = run_study(spec, progress)
    _show_report(result.results, result.report)
    _show_run(result, spec, config)
    if result.report_problem:
        raise click.ClickException(result.report_problem)
    return EXIT_INCOMPLETE if result.failures else 0


def _show_report(results: StudyResults, report: ReportFiles | None) -> None:
    from analysis.report.tables import terminal_table
    from analysis.report.text import optimistic, unsure
    from analysis.results.controls import uncompared
    from study.cli.console import show

    if report is None:
        return
    show(terminal_table(results))
    for remark in filter(None, (unsure(results), optimistic(results), uncompared(results.description.methods))):
        click.echo(remark)
    for sentence in (*report.findings, *(f"Missing: {sentence}" for sentence in results.missing)):
        click.echo(sentence)
    click.echo(f"Report: {report.html}")


def _show_run(result: StudyResult, spec: StudySpec, config: Path) -> None:
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
        again = f"{_command('retry', config)} && {_command('run', config)}"
        click.echo(f"Tracebacks are in {spec.records / 'failed'}. Once the cause is fixed: {again}", err=True)


def _command(name: str, config: Path) -> str:
    return f"study {name} -c {shlex.quote(str(config))}"


LOCAL_COMMANDS = (init, check, embed, run, status, retry, report, sync, demo)
