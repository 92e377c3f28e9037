"""The `study` command: a thin face of the packages. Heavy libraries are imported where they are needed."""

from __future__ import annotations

import errno
import shlex
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.metadata import version
from importlib.resources import files
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING

import click

from study.cluster_commands import CLUSTER_COMMANDS, status_there
from study.commands import COMMANDS, report_from_server
from study.tracker_command import tracker

if TYPE_CHECKING:
    from study.results import StudyResult
    from study.spec import StudySpec

EXIT_INCOMPLETE = 1
EXIT_USER = 2
EXIT_INTERRUPTED = 130

PRESETS = ("paper", "nested", "deep_augmentation", "demo")

_config = click.option(
    "-c", "--config", default="study.yaml", show_default=True, type=click.Path(path_type=Path), help="The study file."
)
_quiet = click.option("--quiet", is_flag=True, help="Show results and errors only.")


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(version("embedding-ablation-study"))
def study() -> None:
    """Ablation studies of embedding augmentations, from a product table to a compared table of methods."""


@study.command()
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


@study.command()
@_config
def check(config: Path) -> None:
    """Check a study file against its table: every problem at once, before anything heavy starts."""
    from analysis.references import uncompared
    from analysis.words import plural
    from embedding_jobs.items import checked_source
    from embedding_jobs.store import Store
    from study.check import load_spec
    from study.space import n_candidates, unguided
    from study.spec import phases

    spec = load_spec(config)
    if (spec.root / "study.json").exists():
        from study.description import refuse_changed_file

        refuse_changed_file(spec)
    checked_source(spec.data.source, spec.data.columns, Store(spec.store), spec.data.on_error)
    counts = {method: n_candidates(spec.search, method) for method in spec.search.methods}
    click.echo(f"{config}: sound. Candidates: {', '.join(f'{method} {n}' for method, n in counts.items())}.")
    for phase in phases(spec.splits.protocol):
        n, n_splits = len(counts) if phase == "confirm" else sum(counts.values()), len(spec.split_seeds(phase))
        trials = plural(n * n_splits, "trial")
        click.echo(f"{phase}: {plural(n, 'candidate')} x {plural(n_splits, 'split')} = {trials}.")
    for remark in filter(None, (uncompared(counts), unguided(spec.search))):
        click.echo(remark)


@study.command()
@_config
@_quiet
def embed(config: Path, quiet: bool) -> None:
    """Encode the shards that the embedding store lacks."""
    spec = _load(config)
    from study.progress import Progress, chatter_to

    with chatter_to(spec.log) as console, Progress(console, quiet=quiet) as progress:
        progress.say(f"Study {spec.name}, in {spec.root}")
        from study.runner import embed as embed_missing  # seconds

        embed_missing(spec, progress)
    click.echo(f"Embeddings: {spec.store}")


@study.command()
@_config
@_quiet
def run(config: Path, quiet: bool) -> None:
    """Encode, then train every planned trial that is not recorded; run again after any interruption."""
    spec = _load(config)
    sys.exit(_run(spec, config, quiet=quiet))


@study.command()
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

    from study.description import DESCRIPTION, DescriptionError, differs, planned, read_description, refuse_changed_file
    from study.status import in_words, read_activity, read_status, work_in_words

    if not (spec.root / DESCRIPTION).exists() and (activity := read_activity(spec.root)) is not None:
        click.echo("\n".join(work_in_words(activity)))  # it encodes what the study will be about
        return
    before = read_description(spec.root)
    now = planned(spec, before)
    found = read_status(spec.root, now)
    table = Table(box=None, pad_edge=False)
    for index, heading in enumerate(("phase", "method", "planned", "done", "failed", "stopped", "missing")):
        table.add_column(heading, justify="left" if index < 2 else "right")
    for row in found.methods:
        counts = (row.n_planned, row.n_done, row.n_failed, row.n_stopped, row.n_missing)
        table.add_row(row.phase, row.method, *map(str, counts))
    Console().print(table)
    for line in in_words(found):
        click.echo(line)
    if differs(before, now):
        click.echo("The study file has changed since the last run; counted is what it plans now.")
    try:
        refuse_changed_file(spec)
    except DescriptionError as error:
        click.echo(error, err=True)


@study.command()
@_config
def retry(config: Path) -> None:
    """Forget which packs failed, so that the next run tries them again."""
    spec = _load(config, encodes=False)
    from study.status import only_run
    from trainables.unfinished import forget_failures, read_failures

    failures = read_failures(spec.records)
    if failures:
        with only_run(spec.root):
            forget_failures(spec.records, failures)
    click.echo(f"{len(failures)} failures forgotten." + (f" Next: {_command('run', config)}" if failures else ""))


@study.command()
@_config
@click.option("--tracking-uri", help="Read the study from this MLflow server, without its records.")
@click.option("--study", "name", help="Name of the study on that server.")
@click.option("-o", "--output", type=click.Path(path_type=Path), help="Folder of a report from a server.")
def report(config: Path, tracking_uri: str | None, name: str | None, output: Path | None) -> None:
    """Write the report of what is recorded: page, tables, figures."""
    if not (tracking_uri or name or output):
        _report(_load(config, encodes=False))
    elif tracking_uri and name:
        report_from_server(tracking_uri, name, output or Path("report"))
    else:
        raise click.UsageError("--tracking-uri, --study and --output go together; the first two are needed.")


@study.command()
@_config
def sync(config: Path) -> None:
    """Write to MLflow what it lacks; into an empty server, everything."""
    spec = _load(config, encodes=False)
    from study.runner import sync as sync_study

    click.echo(f"Writing to {spec.tracking_uri} ...")
    written = sync_study(spec)
    click.echo(f"{written} trials written to {spec.tracking_uri}; the others were there.")


@study.command()
@click.option(
    "-d", "--directory", default="demo", show_default=True, type=click.Path(path_type=Path), help="Where to work."
)
@_quiet
def demo(directory: Path, quiet: bool) -> None:
    """Run the main job on a built-in catalogue: five methods, three splits, one table."""
    from study.demo import make_catalogue

    directory.mkdir(parents=True, exist_ok=True)
    click.echo(f"Making the catalogue in {directory} ...")
    make_catalogue(directory / "catalogue")
    config = directory / "study.yaml"
    if not config.exists():
        config.write_text(_preset("demo"))
    spec = _load(config)
    sys.exit(_run(spec, config, quiet=quiet))


for _other in (*COMMANDS, *CLUSTER_COMMANDS, tracker):
    study.add_command(_other)


def main() -> None:
    """Runs the command; a user's mistake ends it with one message and exit code 2."""
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, _interrupt_once)
    signal.signal(signal.SIGTERM, _interrupt_once)  # how a cluster ends a job, and a batch system its own
    with _user_errors_as_messages():
        sys.exit(study.main(prog_name="study", standalone_mode=False))


def _interrupt_once(number: int, frame: FrameType | None) -> None:
    """Ends the command. Ray takes seconds to stop, and interrupting that too would leave its processes behind."""
    for later in (signal.SIGINT, signal.SIGTERM):
        signal.signal(later, signal.SIG_IGN)
    raise KeyboardInterrupt


@contextmanager
def _user_errors_as_messages() -> Iterator[None]:
    from embedding_jobs.sources import SourceError
    from study.check import SpecError

    try:
        yield
    except SystemExit:
        raise  # before the last clause is asked, which imports everything
    except (SpecError, SourceError) as error:
        _fail(error)
    except click.ClickException as error:
        error.show()
        sys.exit(EXIT_USER)
    except (KeyboardInterrupt, click.Abort):
        click.echo("Interrupted; stopping. What is recorded stays: the same command goes on from there.", err=True)
        sys.exit(EXIT_INTERRUPTED)
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT, errno.EROFS):
            raise
        _fail(f"{error}. Make room there; what is recorded stays, and the same command goes on from it.")
    except _user_errors() as error:
        _fail(error)


def _fail(error: BaseException | str) -> None:
    click.echo(f"Error: {error}", err=True)
    sys.exit(EXIT_USER)


def _user_errors() -> tuple[type[Exception], ...]:
    """The errors that a user can mend. Evaluated only when one was raised: it imports everything."""
    from analysis.load import ReportError
    from embedding_jobs.encoders import EncoderError
    from embedding_jobs.shards import StoreError
    from study.cluster import ClusterError
    from study.description import DescriptionError
    from study.model import ModelError
    from study.status import StudyError
    from study.tracking import TrackingError
    from trainables.lanes import TrainingError
    from trainables.records import RecordError

    of_data = (EncoderError, StoreError, RecordError, DescriptionError)
    return (*of_data, ClusterError, StudyError, TrackingError, ReportError, ModelError, TrainingError)


def _load(config: Path, *, encodes: bool = True) -> StudySpec:
    from study.check import load_spec

    return load_spec(config, encodes=encodes)


def _preset(name: str) -> str:
    return (files("study") / "presets" / f"{name}.yaml").read_text()


def _run(spec: StudySpec, config: Path, *, quiet: bool) -> int:
    from study.progress import Progress, chatter_to

    with chatter_to(spec.log) as console, Progress(console, quiet=quiet) as progress:
        progress.say(f"Study {spec.name}, in {spec.root}")
        from study.runner import run_study  # seconds

        result = run_study(spec, progress)
        progress.say("Writing the report ...")
    _report(spec, tracks=result.tracking_problem is None)
    _tell(result, spec, config)
    return EXIT_INCOMPLETE if result.failures else 0


def _report(spec: StudySpec, *, tracks: bool = True) -> None:
    from analysis.aggregate import missing_trials
    from analysis.load import load_study
    from analysis.references import uncompared
    from analysis.report import write_report
    from analysis.tables import terminal_table
    from analysis.texts import optimistic, unsure
    from study.importance import write_importances
    from study.runner import attach
    from study.status import read_activity
    from study.terminal import show
    from study.tracking import TrackingError

    write_importances(spec)
    results = load_study(spec.root)
    written = write_report(spec.root)
    show(terminal_table(results))
    for remark in filter(None, (unsure(results), optimistic(results), uncompared(results.description.methods))):
        click.echo(remark)
    for sentence in (*written.findings, *(f"Missing: {sentence}" for sentence in missing_trials(results))):
        click.echo(sentence)
    try:
        if tracks and read_activity(spec.root) is None:  # else a run works, which will attach its own
            attach(spec, {"report": written.html.parent})
    except TrackingError as error:
        click.echo(error, err=True)
    click.echo(f"Report: {written.html}")


def _tell(result: StudyResult, spec: StudySpec, config: Path) -> None:
    from analysis.texts import what_was_saved

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
        click.echo(f"Tracebacks are in {spec.records / 'failed'}. Once mended: {again}", err=True)


def _command(name: str, config: Path) -> str:
    return f"study {name} -c {shlex.quote(str(config))}"
