"""A study as a Ray job: sent to a cluster, followed, asked after, stopped, its report fetched.

The cluster does what this machine would do: a job is the `study` command, run on a copy of the study file. Nothing but
that file travels there, and nothing but text comes back.
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
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from embedding_jobs.ray_session import use_token
from study.cluster.job_log import follow_log
from study.cluster.report_transfer import unpack
from study.config.addresses import is_loopback
from study.config.schema import StudySpec, digest
from study.errors import ClusterError, TransferError
from study.execution.ray_connection import refused

FILE = "study.yaml"

"""Name of the study file in the job's folder."""

STOPPED = 130

_ANSWERS_WITHIN_S, _TAKES_JOBS_WITHIN_S, _STOPS_WITHIN_S = 10, 30, 60


@dataclass(frozen=True)
class Job:
    """A job of a study.

    Attributes:
        id: Its submission id.
        state: PENDING, RUNNING, STOPPED, SUCCEEDED or FAILED.
        exit_code: Of its command; None while it runs, and where the command was not let end.
        message: What the cluster says of it.
        started_s: When it was submitted, seconds since 1970, by the cluster's clock.
        file_digest: Of the study file that it was sent with.
        folder: Where the cluster keeps that file.
    """

    id: str
    state: str
    exit_code: int | None
    message: str
    started_s: float
    file_digest: str
    folder: str

    @property
    def ended(self) -> bool:
        """Whether it is over, however."""
        return self.state in ("STOPPED", "SUCCEEDED", "FAILED")


class Cluster:
    """A Ray cluster, by the address of its dashboard.

    Args:
        address: `http://HOST:8265`; of a cluster behind a firewall, the near end of a tunnel.
        python: The interpreter on the head node that has this project.
        say: Told what is waited for.

    Raises:
        ClusterError: Nobody answers there; it has not our token; or it takes jobs from anybody who reaches it.
    """

    def __init__(self, address: str, python: str = "python", say: Callable[[str], None] = lambda _: None) -> None:
        self.address, self._python, self._say = address.rstrip("/"), python, say
        _refuse_open(self.address)
        use_token()
        logging.getLogger("ray").setLevel(logging.ERROR)
        import ray.exceptions
        from ray.job_submission import JobSubmissionClient

        for name in ("dashboard_sdk", "job.sdk"):  # which set their own level when they are imported
            logging.getLogger(f"ray.dashboard.modules.{name}").setLevel(logging.ERROR)
        try:
            with _without_address(), self._talking():
                self._client = JobSubmissionClient(self.address)
        except ray.exceptions.AuthenticationError:
            raise ClusterError(refused(self.address)) from None
        except RuntimeError as error:
            raise ClusterError(f"{self.address} must be the dashboard of a Ray cluster: {error}") from None

    def running(self, spec: StudySpec) -> Job | None:
        """The run of a study that is not over; None where there is none."""
        return next((job for job in self._runs(spec) if not job.ended), None)

    def start(self, spec: StudySpec, config: Path) -> Job:
        """Starts a run of a study; of two submits at once, both get the first one's.

        Args:
            spec: The study, of which none is running.
            config: Its file.
        """
        attempt = max((int(job.id.rpartition("-")[2]) for job in self._runs(spec)), default=0) + 1
        job_id = f"{job_stem(spec)}-{attempt}"
        about = {"study": spec.name, "file": file_digest(config)}
        try:
            self._submit(["run"], config, about, job_id)
        except RuntimeError as error:
            if "already exists" not in str(error):
                raise
        return self.job(job_id)

    def call(self, arguments: list[str], config: Path | None, folder: str = "", *, echo: Callable[[str], None]) -> Job:
        """Runs a short `study` command on the cluster; an interrupt ends it there, too.

        Args:
            arguments: Of the command.
            config: The study file; None for that of `folder`.
            folder: Where the cluster keeps the file.
            echo: Told of every line.
        """
        job_id = self._submit(arguments, config, {}, folder=folder)
        try:
            return self.follow(job_id, echo)
        except KeyboardInterrupt:
            self._client.stop_job(job_id)
            raise

    def follow(self, job_id: str, echo: Callable[[str], None]) -> Job:
        """Hands on a job's lines until it has ended, through lost connections.

        Raises:
            ClusterError: The cluster has not answered for two minutes.
        """
        lost_s = follow_log(self._client, job_id, lambda: self.job(job_id).ended, echo)
        if lost_s is not None:
            raise ClusterError(
                f"{self.address} has not answered for {lost_s:.0f} s. What is recorded stays; once the cluster is "
                "back, the same command goes on from there."
            )
        return self.job(job_id)

    def job(self, job_id: str) -> Job:
        """A job, as it stands."""
        with self._talking():
            return _job(self._client.get_job_info(job_id))

    def last_words(self, job: Job) -> str:
        """The error that a job ended with, else its last line."""
        with self._talking():
            lines = str(self._client.get_job_logs(job.id)).rstrip().splitlines()
        begins = [number for number, line in enumerate(lines) if line.startswith("Error: ")]
        return "\n".join(lines[begins[-1] if begins else -1 :])

    def runs_of(self, study: str) -> list[Job]:
        """The runs of a study of that name that the cluster knows, oldest first."""
        return [job for job, about in self._jobs_about() if about.get("study") == study]

    def stop(self, job: Job) -> Job:
        """Ends a job as Ctrl-C would: what is finished stays.

        Raises:
            ClusterError: It does not end.
        """
        with self._talking():
            self._client.stop_job(job.id)
        deadline_s = time.monotonic() + _STOPS_WITHIN_S + 30
        while not (now := self.job(job.id)).ended:
            if time.monotonic() > deadline_s:
                raise ClusterError(f"The job {job.id} was told to stop, and has not; see {self.address}")
            time.sleep(0.5)
        return now

    def fetch_report(self, spec: StudySpec, folder: Path) -> Path:
        """Brings the report here.

        Args:
            spec: The study.
            folder: Where to.

        Returns:
            The page.

        Raises:
            ClusterError: It does not arrive.
        """
        command = (
            f"{shlex.quote(self._python)} -m study.cluster.report_transfer {shlex.quote(str(spec.root / 'report'))}"
        )
        with self._talking():
            job_id = self._hand_in(entrypoint=command)
            while not (job := self.job(job_id)).ended:
                time.sleep(0.3)
            log = self._client.get_job_logs(job_id)
        try:
            unpack(log, folder)
        except TransferError as error:
            raise ClusterError(
                f"{error}. The report is on the cluster, {spec.root / 'report'} ({job.message})"
            ) from None
        return folder / "report.html"

    def _submit(
        self,
        arguments: list[str],
        config: Path | None,
        about: dict[str, str],
        job_id: str | None = None,
        folder: str = "",
    ) -> str:
        """Submits a `study` command on a study file; secrets stay out of what is sent."""
        command = shlex.join([self._python, "-m", "study", *arguments, "-c", FILE])
        settings = {
            "RAY_JOB_STOP_WAIT_TIME_S": str(_STOPS_WITHIN_S),
            "COLUMNS": str(shutil.get_terminal_size().columns),
        }
        with tempfile.TemporaryDirectory() as sent, self._talking():
            if config is not None:
                shutil.copyfile(config, Path(sent) / FILE)
            environment = {"working_dir": sent if config is not None else folder, "env_vars": settings}
            return self._hand_in(entrypoint=command, runtime_env=environment, metadata=about, submission_id=job_id)

    def _hand_in(self, **job: Any) -> str:
        """Submits a job; to a young cluster, as soon as it takes one.

        Raises:
            ClusterError: It takes none.
        """
        deadline_s, told = time.monotonic() + _TAKES_JOBS_WITHIN_S, False
        while True:
            try:
                return str(self._client.submit_job(**job))
            except RuntimeError as error:
                if "No available agent" not in str(error):
                    raise
                if not told:
                    self._say(f"{self.address} takes no jobs yet; asking again for {_TAKES_JOBS_WITHIN_S} s ...")
                    told = True
            if time.monotonic() > deadline_s:
                raise ClusterError(
                    f"{self.address} takes no jobs: no agent of its head node answers. If it has just been started, "
                    "try again; if it stays so, dashboard_agent.log on the head says why. A port that is taken is "
                    "changed by `ray start --dashboard-agent-listen-port`."
                )
            time.sleep(1)

    @contextmanager
    def _talking(self) -> Iterator[None]:
        """A connection that breaks is the cluster's trouble, not a mistake in here."""
        try:
            yield
        except OSError as error:  # what Ray's client and its connections raise
            raise ClusterError(f"The cluster at {self.address} does not answer any more: {error}") from None

    def _runs(self, spec: StudySpec) -> list[Job]:
        return [job for job, _ in self._jobs_about() if job.id.startswith(f"{job_stem(spec)}-")]

    def _jobs_about(self) -> list[tuple[Job, Mapping[str, str]]]:
        with self._talking():
            found = [(_job(one), one.metadata or {}) for one in self._client.list_jobs() if one.submission_id]
        return sorted(found, key=lambda pair: pair[0].started_s)


def job_stem(spec: StudySpec) -> str:
    """What the ids of a study's jobs begin with: the same for every submit of the same study."""
    deciding = {**spec.deciding_settings(), "table": spec.data.table, "directory": spec.directory}
    return f"{spec.name}-{digest(deciding)[:8]}"


def file_digest(config: Path) -> str:
    """A short hash of a study file as it stands."""
    return digest({"text": config.read_text()})


def _job(found: Any) -> Job:
    return Job(
        id=found.submission_id,
        state=str(found.status.value),
        exit_code=found.driver_exit_code,
        message=(found.message or "").split(", last available logs")[0],
        started_s=(found.start_time or 0) / 1000,
        file_digest=(found.metadata or {}).get("file", ""),
        folder=(found.runtime_env or {}).get("working_dir", ""),
    )


def _refuse_open(address: str) -> None:
    """Asks without a token, which then is not sent to a cluster that does not want it.

    Raises:
        ClusterError: The address is none; nobody answers; or anybody may run code there.
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
            f"No Ray dashboard answers at {address} ({getattr(error, 'reason', 'it speaks no HTTP')}). Correct "
            "`--address`, whose port is 8265 unless told otherwise, or open the tunnel to the cluster (`ray dashboard "
            "cluster.yaml`, `ssh -L 8265:127.0.0.1:8265 HEAD`)."
        ) from None
    if code in (401, 403):
        return
    if code != 200:
        raise ClusterError(f"{address} must be the dashboard of a Ray cluster, it answers with HTTP status {code}")
    if not is_loopback(parts.hostname):
        raise ClusterError(
            f"The Ray cluster at {address} must ask for a token, it runs code for anybody who reaches it. Start it "
            "with RAY_AUTH_MODE=token and the same token on every node and here (README, On a cluster)."
        )


@contextmanager
def _without_address() -> Iterator[None]:
    """Ray's client prefers these variables to the address that it is given."""
    names = ("RAY_ADDRESS", "RAY_API_SERVER_ADDRESS")
    saved = {name: os.environ.pop(name) for name in names if name in os.environ}
    try:
        yield
    finally:
        os.environ.update(saved)
