"""Commands that work on a cluster: they send the study there, and say what becomes of it."""

from __future__ import annotations

import shlex
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

import click

if TYPE_CHECKING:
    from study.launch import Cluster, Job
    from study.spec import StudySpec

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
@click.option("--detach", is_flag=True, help="Come back as soon as the study is sent.")
@click.option("-o", "--output", type=click.Path(path_type=Path), help="Folder for the report.  [default: NAME-report]")
def submit(config: Path, address: str, python: str, detach: bool, output: Path | None) -> None:
    """Run the study on a cluster: embed, train, report. A second submit follows the run that is there."""
    from study.check import load_spec
    from study.launch import STOPPED, Cluster
    from study.spec import digest

    spec = load_spec(config, travels=True)
    cluster = Cluster(address, python)
    job, was_there = cluster.start(spec, config)
    if was_there:
        click.echo(f"{job.id} runs already; following it.")
        if job.file_digest != digest({"text": config.read_text()}):
            click.echo(f"It was sent with another {config}: wait for it or stop it, then submit again.", err=True)
    later = f"--address {shlex.quote(address)} -c {shlex.quote(str(config))}"
    ways = {"follow it": "submit", "see where it stands": "status", "stop it": "stop"}
    told = "\n".join(f"To {what}: study {command} {later}" for what, command in ways.items())
    if detach:
        click.echo(f"{job.id} is sent.\n{told}")
        return
    try:
        job = cluster.follow(job.id, click.echo)
    except KeyboardInterrupt:
        click.echo(f"\n{job.id} goes on without you.\n{told}", err=True)
        sys.exit(STOPPED)
    _exit_unless_reported(job, address)
    click.echo(f"Report: {_report_here(cluster, spec, job, output or Path(f'{spec.name}-report'))}")
    sys.exit(job.exit_code)


@click.command()
@_config
@_address
@_name
def stop(config: Path, address: str, name: str | None) -> None:
    """End a study's run on a cluster; what is finished stays, and the next submit goes on from there."""
    from study.launch import Cluster

    cluster = Cluster(address)
    running = [job for job in _runs(cluster, config, name) if not job.ended]
    for job in running:
        click.echo(f"{job.id}: {cluster.stop(job).state.lower()}. What is recorded stays; submit it again to go on.")
    if not running:
        click.echo("No run of it is on the cluster; nothing to stop.")


def status_there(config: Path, address: str, name: str | None, python: str) -> NoReturn:
    """Prints where a study on a cluster stands: its job, and what `study status` says there."""
    from study.cluster import ClusterError
    from study.launch import Cluster

    cluster = Cluster(address, python)
    runs = _runs(cluster, config, name)
    if not runs:
        raise ClusterError(f"{address} knows no run of {name or config}; send it with `study submit`.")
    job = runs[-1]
    click.echo(f"{job.id}: {job.state.lower()}, sent {time.strftime('%Y-%m-%d %H:%M', time.localtime(job.started_s))}")
    sys.exit(cluster.call(["status"], None, job.folder, echo=click.echo).exit_code)


def _runs(cluster: Cluster, config: Path, name: str | None) -> list[Job]:
    """The runs of a study, by its name or its file, oldest first."""
    if name is not None:
        return cluster.runs_of(name)
    from study.check import load_spec
    from study.launch import job_stem

    spec = load_spec(config, travels=True)
    return [job for job in cluster.runs_of(spec.name) if job.id.startswith(f"{job_stem(spec)}-")]


def _exit_unless_reported(job: Job, address: str) -> None:
    from study.launch import STOPPED

    if job.state == "STOPPED":
        click.echo(f"{job.id} was stopped. What is recorded stays; submit it again to go on.", err=True)
        sys.exit(STOPPED)
    if job.exit_code not in (0, 1):
        click.echo(f"{job.id} failed: {job.message or 'its node was lost'} ({address})", err=True)
        sys.exit(2)


def _report_here(cluster: Cluster, spec: StudySpec, job: Job, folder: Path) -> Path:
    """The report where this machine sees the study's storage, else a copy of it."""
    there = spec.root / "report" / "report.html"
    if there.exists() and there.stat().st_mtime >= job.started_s:
        return there
    return cluster.fetch_report(spec, folder)


CLUSTER_COMMANDS = (stop, submit)
