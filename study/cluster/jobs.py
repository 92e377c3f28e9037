"""Run a study as a Ray job: submit it to a cluster, follow it, query it, stop it, fetch its report.

A job is the `study` command, run by the cluster on a copy of the study file. Nothing but that file is sent, and
nothing but text is received.
"""

from __future__ import annotations

import http.client
import logging
import os
import shlex
import shutil
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from embedding_jobs.ray_session import use_token
from study.cluster.job_log import follow_log
from study.cluster.report_transfer import unpack_report
from study.config.addresses import is_loopback
from study.config.schema import StudySpec, digest
from study.errors import ClusterError, LostError, TransferError
from study.execution.ray_connection import rejected_token

EXIT_STOPPED = 130

_FILE = "study.yaml"  # name of the study file in the job's folder

_ANSWERS_WITHIN_S, _TAKES_JOBS_WITHIN_S, _STOPS_WITHIN_S = 10, 30, 60


@dataclass(frozen=True)
class ClusterJob:
    """A job of a study.

    Attributes:
        id: Its submission id.
        study: Name of the study; "" for a short command.
        state: PENDING, RUNNING, STOPPED, SUCCEEDED or FAILED.
        exit_code: Of its command; None while it runs, and where the command was killed.
        message: The cluster's message on its state.
        started_s: Time of submission in seconds since 1970, by the cluster's clock.
        file_digest: Of the study file that it was submitted with.
        folder: Where the cluster stores that file.
    """

    id: str
    study: str
    state: str
    exit_code: int | None
    message: str
    started_s: float
    file_digest: str
    folder: str

    @property
    def ended(self) -> bool:
        """Whether the job has ended, for whatever reason."""
        return self.state in ("STOPPED", "SUCCEEDED", "FAILED")


class Cluster:
    """A Ray cluster, by the address of its dashboard.

    Args:
        address: `http://HOST:8265`; for a cluster behind a firewall, the local end of a tunnel.
        python: The interpreter on the head node that has this project.
        say: Called with a line when there is something to wait for.

    Raises:
        ClusterError: The address does not answer, rejects the token, or accepts jobs without a token.
    """

    def __init__(self, address: str, python: str = "python", say: Callable[[str], None] = lambda _: None) -> None:
        self.address, self._python, self._say = address.rstrip("/"), python, say
        refuse_open_cluster(self.address)
        use_token()
        logging.getLogger("ray").setLevel(logging.ERROR)
        import ray.exceptions
        from ray.job_submission import JobSubmissionClient

        for name in ("dashboard_sdk", "job.sdk"):  # these set their own level when they are imported
            logging.getLogger(f"ray.dashboard.modules.{name}").setLevel(logging.ERROR)
        try:
            with _without_address(), self._connection():
                self._client = JobSubmissionClient(self.address)
        except ray.exceptions.AuthenticationError:
            raise ClusterError(rejected_token(self.address)) from None
        except RuntimeError as error:
            raise ClusterError(f"{self.address} must be the dashboard of a Ray cluster: {error}") from None

    def running(self, spec: StudySpec) -> ClusterJob | None:
        """Return the run of a study that has not ended; None if there is none."""
        return next((job for job in self.runs_of(spec) if not job.ended), None)

    def start(self, spec: StudySpec, text: str) -> tuple[ClusterJob, bool]:
        """Start a run of a study, whose file has this text, unless it has one by now.

        When two processes start one at once, both choose the same id, and the cluster accepts it once.

        Returns:
            The run, and whether this call has started it.
        """
        runs = self.runs_of(spec)
        if active := next((job for job in runs if not job.ended), None):
            return active, False
        attempt = max((int(job.id.rpartition("-")[2]) for job in runs), default=0) + 1
        job_id = f"{_job_stem(spec)}-{attempt}"
        metadata = {"study": spec.name, "file": file_digest(text)}
        try:
            self._submit(["run"], text, metadata, job_id)
        except RuntimeError as error:
            if "already exists" not in str(error):
                raise
            return self.job(job_id), False
        return self.job(job_id), True

    def call(
        self, arguments: list[str], text: str | None, folder: str = "", *, echo: Callable[[str], None]
    ) -> ClusterJob:
        """Run a short `study` command on the cluster; an interrupt also ends it there.

        The study file has this text, or is, where that is None, the file that the cluster stores in `folder`.
        """
        job_id = self._submit(arguments, text, {}, folder=folder)
        try:
            return self.follow(job_id, echo)
        except KeyboardInterrupt:
            self._client.stop_job(job_id)
            raise

    def follow(self, job_id: str, echo: Callable[[str], None]) -> ClusterJob:
        """Pass on a job's lines until it has ended; a lost connection is made again.

        Raises:
            LostError: The cluster has not answered for two minutes.
        """
        lost_s = follow_log(self._client, job_id, lambda: self.job(job_id).ended, echo)
        if lost_s is not None:
            raise LostError(
                f"{self.address} has not answered for {lost_s:.0f} s. Recorded trials are kept; once the cluster is "
                "back, run the same command again to continue."
            )
        return self.job(job_id)

    def job(self, job_id: str) -> ClusterJob:
        """Return the current state of a job."""
        with self._connection():
            return _job(self._client.get_job_info(job_id))

    def last_error(self, job: ClusterJob) -> str:
        """Return the error that a job ended with, else its last line."""
        with self._connection():
            lines = str(self._client.get_job_logs(job.id)).rstrip().splitlines()
        begins = [number for number, line in enumerate(lines) if line.startswith("Error: ")]
        return "\n".join(lines[begins[-1] if begins else -1 :])

    def runs_of(self, study: StudySpec | str) -> list[ClusterJob]:
        """Return the runs of a study, or of every study with a name, that the cluster knows; oldest first."""
        with self._connection():
            jobs = [_job(found) for found in self._client.list_jobs() if found.submission_id]
        jobs.sort(key=lambda job: job.started_s)
        if isinstance(study, str):
            return [job for job in jobs if job.study == study]
        return [job for job in jobs if job.id.startswith(f"{_job_stem(study)}-")]

    def stop(self, job: ClusterJob) -> ClusterJob:
        """End a job as Ctrl-C would; finished work is kept.

        Raises:
            ClusterError: It does not end.
        """
        with self._connection():
            self._client.stop_job(job.id)
        deadline_s = time.monotonic() + _STOPS_WITHIN_S + 30
        while not (now := self.job(job.id)).ended:
            if time.monotonic() > deadline_s:
                raise ClusterError(f"The job {job.id} does not stop; see its log at {self.address}")
            time.sleep(0.5)
        return now

    def fetch_report(self, spec: StudySpec, folder: Path) -> Path:
        """Copy the report from the cluster into a folder on this machine, and return the path of its page.

        Raises:
            ClusterError: The report does not arrive.
        """
        report = spec.report_page.parent
        command = shlex.join([self._python, "-m", "study.cluster.report_transfer", str(report)])
        with self._connection():
            job_id = self._submit_job(entrypoint=command)
            while not (job := self.job(job_id)).ended:
                time.sleep(0.3)
            log = self._client.get_job_logs(job_id)
        try:
            unpack_report(log, folder)
        except TransferError as error:
            raise ClusterError(f"{error}. The report is on the cluster, {report} ({job.message})") from None
        return folder / spec.report_page.name

    def _submit(
        self,
        arguments: list[str],
        text: str | None,
        metadata: dict[str, str],
        job_id: str | None = None,
        folder: str = "",
    ) -> str:
        """Submit a `study` command on a study file; of this machine's environment, nothing is sent."""
        variables = {
            "RAY_JOB_STOP_WAIT_TIME_S": str(_STOPS_WITHIN_S),
            "COLUMNS": str(shutil.get_terminal_size().columns),
        }
        with tempfile.TemporaryDirectory() as sent, self._connection():
            if text is not None:
                (Path(sent) / _FILE).write_text(text, encoding="utf-8")
            return self._submit_job(
                entrypoint=shlex.join([self._python, "-m", "study", *arguments, "-c", _FILE]),
                runtime_env={"working_dir": sent if text is not None else folder, "env_vars": variables},
                metadata=metadata,
                submission_id=job_id,
            )

    def _submit_job(self, **job: Any) -> str:
        """Submit a job; a cluster that has just started is asked again until it accepts jobs.

        Raises:
            ClusterError: It accepts none.
        """
        deadline_s, told = time.monotonic() + _TAKES_JOBS_WITHIN_S, False
        while True:
            try:
                return str(self._client.submit_job(**job))
            except RuntimeError as error:
                if "No available agent" not in str(error):
                    raise
            if not told:
                self._say(f"{self.address} does not accept jobs yet; trying for {_TAKES_JOBS_WITHIN_S} s ...")
                told = True
            if time.monotonic() > deadline_s:
                raise ClusterError(
                    f"{self.address} does not accept jobs: no agent of its head node answers. If it has just been "
                    "started, try again; otherwise see dashboard_agent.log on the head for the reason. If the agent's "
                    "port is in use, choose another with `ray start --dashboard-agent-listen-port`."
                )
            time.sleep(1)

    @contextmanager
    def _connection(self) -> Iterator[None]:
        """Report a lost connection as an error of the cluster."""
        try:
            yield
        except OSError as error:  # what Ray's client and its connections raise
            raise ClusterError(f"The cluster at {self.address} has stopped responding: {error}") from None


def _job_stem(spec: StudySpec) -> str:
    """Return the beginning of the ids of a study's jobs, the same for every submit of the same study."""
    deciding = {**spec.deciding_settings(), "table": spec.data.table, "directory": spec.directory}
    return f"{spec.name}-{digest(deciding)[:8]}"


def file_digest(text: str) -> str:
    """Return a short hash of a study file's text."""
    return digest({"text": text})


def _job(found: Any) -> ClusterJob:
    metadata = found.metadata or {}
    return ClusterJob(
        id=found.submission_id,
        study=metadata.get("study", ""),
        state=str(found.status.value),
        exit_code=found.driver_exit_code,
        message=(found.message or "").split(", last available logs")[0],
        started_s=(found.start_time or 0) / 1000,
        file_digest=metadata.get("file", ""),
        folder=(found.runtime_env or {}).get("working_dir", ""),
    )


def refuse_open_cluster(address: str) -> None:
    """Connect without a token first, so that the token is never sent to a cluster that does not ask for it.

    Raises:
        ClusterError: The address is not valid, does not answer, or accepts jobs from anyone.
    """
    parts = urlsplit(address)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise ClusterError(f"`--address` must be the cluster's dashboard, such as http://HOST:8265, got {address!r}")
    try:
        with urllib.request.urlopen(f"{address}/api/jobs/", timeout=_ANSWERS_WITHIN_S) as answer:
            code = answer.status
    except urllib.error.HTTPError as error:
        code = error.code
    except (OSError, http.client.HTTPException) as error:
        raise ClusterError(
            f"No Ray dashboard answers at {address} ({getattr(error, 'reason', 'the answer is not HTTP')}). Correct "
            "`--address` (the port is 8265 by default), or open the tunnel to the cluster (`ray dashboard "
            "cluster.yaml`, `ssh -L 8265:127.0.0.1:8265 HEAD`)."
        ) from None
    if code in (401, 403):
        return
    if code != 200:
        raise ClusterError(f"{address} must be the dashboard of a Ray cluster, got HTTP status {code}")
    if not is_loopback(parts.hostname):
        raise ClusterError(
            f"The Ray cluster at {address} must require a token: without one it runs code for anyone who reaches it. "
            "Start it with RAY_AUTH_MODE=token and the same token on every node and here (README, On a cluster)."
        )


@contextmanager
def _without_address() -> Iterator[None]:
    """Hide the environment variables that Ray's client prefers to the address it is given."""
    names = ("RAY_ADDRESS", "RAY_API_SERVER_ADDRESS")
    saved = {name: os.environ.pop(name) for name in names if name in os.environ}
    try:
        yield
    finally:
        os.environ.update(saved)
