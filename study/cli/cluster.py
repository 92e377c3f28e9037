"""Commands that work on a cluster: preflight, submit, stop, and the status of a submitted study."""

from __future__ import annotations

import shlex
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

import click

from study.cli.options import EXIT_USER, StudyFile, config_option, python_option

if TYPE_CHECKING:
    from rich.table import Table

    from study.cluster.jobs import Cluster, ClusterJob
    from study.cluster.preflight import Check
    from study.config.schema import StudySpec


_address_option = click.option(
    "--address", required=True, metavar="URL", help="The cluster's dashboard: http://HOST:8265."
)


@click.command("submit")
@config_option
@_address_option
@python_option
@click.option("--no-preflight", is_flag=True, help="Submit without checking the nodes first.")
@click.option("--detach", is_flag=True, help="Return as soon as the study is submitted.")
@click.option("-o", "--output", type=click.Path(path_type=Path), help="Folder for the report.  [default: NAME-report]")
def submit_command(
    config: StudyFile, address: str, python: str, no_preflight: bool, detach: bool, output: Path | None
) -> None:
    """Run the study on a cluster, follow it, and fetch the report.

    A second submit follows the run that is already there. Ctrl-C leaves it running.
    """
    from study.cluster.jobs import EXIT_STOPPED, Cluster, file_digest
    from study.errors import LostError

    spec = config.load(remote=True)
    cluster = Cluster(address, python, click.echo)
    job, started = cluster.running(spec), False
    if job is None and not no_preflight:
        checked = cluster.call(["preflight", "--no-pilot"], config.text(), echo=click.echo)
        _exit_unless_ran(checked, address, 0, 2)
        if checked.exit_code:
            click.echo("Not submitted: preflight failed. Fix the errors above, or pass --no-preflight.", err=True)
            sys.exit(checked.exit_code)
    if job is None:
        job, started = cluster.start(spec, config.text())
    if started:
        click.echo(f"{job.id} is submitted.")
    else:
        click.echo(f"{job.id} is already running; following it.")
        if job.file_digest != file_digest(config.text()):
            click.echo(f"It runs another version of {config}: wait for it or stop it, then submit again.", err=True)
    ways = {"follow it": "submit", "see its status": "status", "stop it": "stop"}
    there = f"--address {shlex.quote(address)}"
    hints = "\n".join(f"To {what}: {config.command(command)} {there}" for what, command in ways.items())
    if detach:
        click.echo(hints)
        return
    try:
        job = cluster.follow(job.id, click.echo)
    except KeyboardInterrupt:
        click.echo(f"\n{job.id} continues on the cluster.\n{hints}", err=True)
        sys.exit(EXIT_STOPPED)
    if job.state == "STOPPED":
        click.echo(f"{job.id} was stopped. Recorded trials are kept; submit it again to continue.", err=True)
        sys.exit(EXIT_STOPPED)
    _exit_unless_ran(job, address, 0, 1, EXIT_USER, LostError.exit_code)
    if job.exit_code in (EXIT_USER, LostError.exit_code):
        sys.exit(job.exit_code)  # the log has the error
    here = _report_here(cluster, spec, job, output or Path(f"{spec.name}-report"))
    if here != spec.report_page:  # else the log has its path
        click.echo(f"Copied to this machine: {here}")
    sys.exit(job.exit_code)


@click.command("stop")
@config_option
@_address_option
@click.option("--name", help="The study's name, instead of its file.")
def stop_command(config: StudyFile, address: str, name: str | None) -> None:
    """Stop a study's run on a cluster.

    Recorded trials are kept, and the next submit continues.
    """
    from study.cluster.jobs import Cluster

    cluster = Cluster(address)
    running = [job for job in _runs(cluster, config, name) if not job.ended]
    for job in running:
        click.echo(
            f"{job.id}: {cluster.stop(job).state.lower()}. Recorded trials are kept; submit it again to continue."
        )
    if not running:
        click.echo("Nothing to stop: no run of the study is on the cluster.")


def show_remote_status(config: StudyFile, address: str, name: str | None, python: str) -> NoReturn:
    """Print the status of a study on a cluster: its job, and the output of `study status` there."""
    from study.cluster.jobs import Cluster
    from study.errors import ClusterError
    from trainables.records.description import NO_STUDY

    cluster = Cluster(address, python, click.echo)
    runs = _runs(cluster, config, name)
    if not runs:
        raise ClusterError(f"{address} has no run of {name or config}; submit it with `study submit`.")
    job = runs[-1]
    submitted = time.strftime("%Y-%m-%d %H:%M %Z", time.localtime(job.started_s))
    click.echo(f"{job.id}: {job.state.lower()}, submitted {submitted}")
    if job.state == "FAILED":
        click.echo(cluster.last_error(job) or job.message)

    def echo(line: str) -> None:
        if job.state != "FAILED" or NO_STUDY not in line:  # the reason is printed above
            click.echo(line)

    asked = cluster.call(["status"], None, job.folder, echo=echo)
    _exit_unless_ran(asked, address, 0, 2)
    sys.exit(asked.exit_code)


def _runs(cluster: Cluster, config: StudyFile, name: str | None) -> list[ClusterJob]:
    """Return the runs of a study, by its name or its file, oldest first."""
    if name is not None:
        return cluster.runs_of(name)
    return cluster.runs_of(config.load(remote=True))


def _exit_unless_ran(job: ClusterJob, address: str, *expected: int) -> None:
    """Exit with a message if a job's command has not ended with one of the expected exit codes."""
    if job.exit_code in expected:
        return
    if job.exit_code is None:
        click.echo(f"{job.id} {job.state.lower()}: {job.message or 'its node was lost'} ({address})", err=True)
    else:
        remedy = "Install this project for the head's `python`, or name the Python that has it with --python."
        click.echo(f"{job.id} did not run on the cluster: exit code {job.exit_code}. {remedy}", err=True)
    sys.exit(EXIT_USER)


def _report_here(cluster: Cluster, spec: StudySpec, job: ClusterJob, folder: Path) -> Path:
    """Return the report if this machine sees the study's storage, else a copy of it."""
    there = spec.report_page
    if there.exists() and there.stat().st_mtime >= job.started_s:
        return there
    return cluster.fetch_report(spec, folder)


@click.command("preflight")
@config_option
@click.option("--address", metavar="URL", help="A cluster's dashboard.  [default: the Ray that `study run` would use]")
@python_option
@click.option("--no-pilot", is_flag=True, help="Count the work without measuring its cost.")
@click.option("--price-per-hour", type=click.FloatRange(min=0), help="Price of one node, to estimate the cost.")
def preflight_command(
    config: StudyFile, address: str | None, python: str, no_pilot: bool, price_per_hour: float | None
) -> None:
    """Check every node, then estimate time and cost.

    The exit code is 2 if a check fails. A tracker that does not answer is only reported: `study sync` writes to it
    later.
    """
    if address is None:
        sys.exit(_preflight_here(config, no_pilot=no_pilot, price_per_hour=price_per_hour))
    from study.cluster.jobs import Cluster

    config.load(remote=True)
    flags = ["--no-pilot"] if no_pilot else []
    flags += ["--price-per-hour", str(price_per_hour)] if price_per_hour is not None else []
    job = Cluster(address, python, click.echo).call(["preflight", *flags], config.text(), echo=click.echo)
    _exit_unless_ran(job, address, 0, 2)
    sys.exit(job.exit_code)


def _preflight_here(config: StudyFile, *, no_pilot: bool, price_per_hour: float | None) -> int:
    spec = config.load()
    from rich.text import Text

    from study.cluster import estimate
    from study.cluster.nodes import alive_nodes, slots_of
    from study.execution.devices import with_devices
    from study.execution.progress import chatter_to
    from study.execution.ray_connection import connect_ray, loss_as_error

    with chatter_to(Path("/dev/null")) as console, loss_as_error():
        console.print("Asking every node ...")
        connect_ray(spec)
        found = alive_nodes()
        spec = with_devices(spec)
        checks, work = estimate.inspect(spec, found)
        console.print(check_table(checks))
        unmet = [check for check in checks if not check.ok]
        for check in unmet:
            console.print(Text(f"{check.node}, {check.what}: {check.found}. Remedy: {check.remedy}."), soft_wrap=True)
        failed = [check for check in unmet if check.what != "tracker"]  # `study sync` can write to it later
        if work is not None and not failed:
            costs = None
            if not no_pilot and any(slots_of(spec, node) for node in found):
                console.print("Trying one unit of rows and two packs ...")
                costs = estimate.measure_costs(spec, work)
            for line in estimate.plan_lines(spec, work, costs, found, price_per_hour):
                console.print(Text(line), soft_wrap=True)
    return EXIT_USER if failed else 0


def check_table(checks: list[Check]) -> Table:
    """Return one row per node: the checks that are met, and those that failed."""
    from rich.table import Table

    table = Table(box=None, pad_edge=False)
    for heading in ("node", "ok", "failed"):
        table.add_column(heading)
    for node in dict.fromkeys(check.node for check in checks):
        words = {ok: ", ".join(c.what for c in checks if c.node == node and c.ok == ok) for ok in (True, False)}
        table.add_row(node, words[True], words[False])
    return table
