"""Commands that work on a cluster: they send the study there, and say what becomes of it."""

from __future__ import annotations

import shlex
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

import click

if TYPE_CHECKING:
    from rich.table import Table

    from study.cluster.jobs import Cluster, ClusterJob
    from study.cluster.preflight import Check
    from study.config.schema import StudySpec


_config = click.option(
    "-c", "--config", default="study.yaml", show_default=True, type=click.Path(path_type=Path), help="The study file."
)

_address = click.option("--address", required=True, metavar="URL", help="The cluster's dashboard: http://HOST:8265.")


_python = click.option(
    "--python", default="python", show_default=True, help="The cluster's interpreter that has this project."
)

_name = click.option("--name", help="The study's name, in place of its file.")


@click.command()
@_config
@_address
@_python
@click.option("--no-preflight", is_flag=True, help="Send it without asking the nodes first.")
@click.option("--detach", is_flag=True, help="Come back as soon as the study is sent.")
@click.option("-o", "--output", type=click.Path(path_type=Path), help="Folder for the report.  [default: NAME-report]")
def submit(config: Path, address: str, python: str, no_preflight: bool, detach: bool, output: Path | None) -> None:
    """Run the study on a cluster: embed, train, report. A second submit follows the run that is there."""
    from study.cluster.jobs import EXIT_STOPPED, Cluster, file_digest
    from study.config.load import load_spec

    spec = load_spec(config, remote=True)
    cluster = Cluster(address, python, click.echo)
    job = cluster.running(spec)
    if job is None and not no_preflight:
        checked = cluster.call(["preflight", "--no-pilot"], config, echo=click.echo)
        _exit_unless_ran(checked, address, 0, 2)
        if checked.exit_code:
            click.echo("Not submitted: preflight failed. Fix the errors above, or pass --no-preflight.", err=True)
            sys.exit(checked.exit_code)
    if job is None:
        job = cluster.start(spec, config)
        click.echo(f"{job.id} is sent.")
    else:
        click.echo(f"{job.id} runs already; following it.")
        if job.file_digest != file_digest(config):
            click.echo(f"It was sent with another {config}: wait for it or stop it, then submit again.", err=True)
    later = f"--address {shlex.quote(address)} -c {shlex.quote(str(config))}"
    ways = {"follow it": "submit", "see where it stands": "status", "stop it": "stop"}
    told = "\n".join(f"To {what}: study {command} {later}" for what, command in ways.items())
    if detach:
        click.echo(told)
        return
    try:
        job = cluster.follow(job.id, click.echo)
    except KeyboardInterrupt:
        click.echo(f"\n{job.id} goes on without you.\n{told}", err=True)
        sys.exit(EXIT_STOPPED)
    if job.state == "STOPPED":
        click.echo(f"{job.id} was stopped. What is recorded stays; submit it again to go on.", err=True)
        sys.exit(EXIT_STOPPED)
    _exit_unless_ran(job, address, 0, 1, 2)
    if job.exit_code == 2:
        sys.exit(2)  # the log has said why
    here = _report_here(cluster, spec, job, output or Path(f"{spec.name}-report"))
    if here != _report_there(spec):  # which the log has named
        click.echo(f"Copied to this machine: {here}")
    sys.exit(job.exit_code)


@click.command()
@_config
@_address
@_name
def stop(config: Path, address: str, name: str | None) -> None:
    """End a study's run on a cluster; what is finished stays, and the next submit goes on from there."""
    from study.cluster.jobs import Cluster

    cluster = Cluster(address)
    running = [job for job in _runs(cluster, config, name) if not job.ended]
    for job in running:
        click.echo(f"{job.id}: {cluster.stop(job).state.lower()}. What is recorded stays; submit it again to go on.")
    if not running:
        click.echo("No run of it is on the cluster; nothing to stop.")


def status_there(config: Path, address: str, name: str | None, python: str) -> NoReturn:
    """Prints where a study on a cluster stands: its job, and what `study status` says there."""
    from study.cluster.jobs import Cluster
    from study.errors import ClusterError
    from trainables.records.description import NO_STUDY

    cluster = Cluster(address, python, click.echo)
    runs = _runs(cluster, config, name)
    if not runs:
        raise ClusterError(f"{address} knows no run of {name or config}; send it with `study submit`.")
    job = runs[-1]
    click.echo(
        f"{job.id}: {job.state.lower()}, sent {time.strftime('%Y-%m-%d %H:%M %Z', time.localtime(job.started_s))}"
    )
    if job.state == "FAILED":
        click.echo(cluster.last_error(job) or job.message)

    def echo(line: str) -> None:
        if job.state != "FAILED" or NO_STUDY not in line:  # it has just been said why
            click.echo(line)

    told = cluster.call(["status"], None, job.folder, echo=echo)
    _exit_unless_ran(told, address, 0, 2)
    sys.exit(told.exit_code)


def _runs(cluster: Cluster, config: Path, name: str | None) -> list[ClusterJob]:
    """The runs of a study, by its name or its file, oldest first."""
    if name is not None:
        return cluster.runs_of(name)
    from study.config.load import load_spec

    return cluster.runs_of(load_spec(config, remote=True))


def _exit_unless_ran(job: ClusterJob, address: str, *expected: int) -> None:
    """Ends with a sentence where a job's command did not come to an end of its own."""
    if job.exit_code in expected:
        return
    if job.exit_code is None:
        click.echo(f"{job.id} {job.state.lower()}: {job.message or 'its node was lost'} ({address})", err=True)
    else:
        remedy = "Install this project for the head's `python`, or name the interpreter that has it with --python."
        click.echo(f"{job.id} did not run there, exit code {job.exit_code}. {remedy}", err=True)
    sys.exit(2)


def _report_there(spec: StudySpec) -> Path:
    return spec.root / "report" / "report.html"


def _report_here(cluster: Cluster, spec: StudySpec, job: ClusterJob, folder: Path) -> Path:
    """The report where this machine sees the study's storage, else a copy of it."""
    there = _report_there(spec)
    if there.exists() and there.stat().st_mtime >= job.started_s:
        return there
    return cluster.fetch_report(spec, folder)


@click.command()
@_config
@click.option("--address", metavar="URL", help="A cluster's dashboard; else the Ray that `study run` would use.")
@_python
@click.option("--no-pilot", is_flag=True, help="Count only; measure nothing.")
@click.option("--price-per-hour", type=click.FloatRange(min=0), help="Of one node.")
def preflight(config: Path, address: str | None, python: str, no_pilot: bool, price_per_hour: float | None) -> None:
    """Check every node for what the study needs, then say what it will take; exit code 2 if a check failed.

    A tracker that does not answer is told, and stops nothing: `study sync` writes to it later.
    """
    if address is None:
        sys.exit(_preflight_here(config, no_pilot=no_pilot, price_per_hour=price_per_hour))
    from study.cluster.jobs import Cluster
    from study.config.load import load_spec

    load_spec(config, remote=True)
    flags = ["--no-pilot"] if no_pilot else []
    flags += ["--price-per-hour", str(price_per_hour)] if price_per_hour is not None else []
    job = Cluster(address, python, click.echo).call(["preflight", *flags], config, echo=click.echo)
    _exit_unless_ran(job, address, 0, 2)
    sys.exit(job.exit_code)


def _preflight_here(config: Path, *, no_pilot: bool, price_per_hour: float | None) -> int:
    from study.config.load import load_spec

    spec = load_spec(config)
    from rich.text import Text

    from study.cluster import estimate
    from study.cluster.nodes import alive_nodes, slots_of
    from study.execution.progress import chatter_to
    from study.execution.ray_connection import connect_ray, loss_as_error

    with chatter_to(Path("/dev/null")) as console, loss_as_error():
        console.print("Asking every node ...")
        connect_ray(spec)
        found = alive_nodes()
        checks, work = estimate.inspect(spec, found)
        console.print(check_table(checks))
        wanting = [check for check in checks if not check.ok]
        for check in wanting:
            console.print(Text(f"{check.node}, {check.what}: {check.found}. Remedy: {check.remedy}."), soft_wrap=True)
        failed = [check for check in wanting if check.what != "tracker"]  # it may be written to later
        if work is not None and not failed:
            costs = None
            if not no_pilot and any(slots_of(spec, node) for node in found):
                console.print("Trying one unit of rows and two packs ...")
                costs = estimate.measure_costs(spec, work)
            for line in estimate.plan_lines(spec, work, costs, found, price_per_hour):
                console.print(Text(line), soft_wrap=True)
    return 2 if failed else 0


def check_table(checks: list[Check]) -> Table:
    """One row a node: what is as it must be, and what is not."""
    from rich.table import Table

    table = Table(box=None, pad_edge=False)
    for heading in ("node", "ok", "failed"):
        table.add_column(heading)
    for node in dict.fromkeys(check.node for check in checks):
        words = {ok: ", ".join(c.what for c in checks if c.node == node and c.ok == ok) for ok in (True, False)}
        table.add_row(node, words[True], words[False])
    return table


CLUSTER_COMMANDS = (preflight, stop, submit)
