"""Following the log of a Ray job through lost connections."""

from __future__ import annotations

import asyncio
import re
import time
from collections.abc import Callable
from typing import Any

_SILENT_S, _GONE_AFTER_S = 20, 120

_RAYS_OWN = re.compile(r"Running entrypoint for job |.*\tINFO job_manager\.py")


def follow_log(client: Any, job_id: str, ended: Callable[[], bool], echo: Callable[[str], None]) -> float | None:
    """Hands on a job's lines until it has ended.

    Args:
        client: Ray's `JobSubmissionClient`.
        job_id: The job.
        ended: Whether the job is over; raises OSError or RuntimeError where the cluster does not say.
        echo: Told of every line, once.

    Returns:
        None when the job has ended; else for how many seconds the cluster has not answered.
    """
    return asyncio.run(_follow(client, job_id, ended, _Lines(echo)))


async def _follow(client: Any, job_id: str, ended: Callable[[], bool], lines: _Lines) -> float | None:
    import aiohttp  # what Ray's client uses

    answered_s = time.monotonic()
    while True:
        lines.start_over()
        stream = client.tail_job_logs(job_id)
        try:
            while (chunk := await _next(stream, ended)) is not None:
                lines.take(chunk)
        except (aiohttp.ClientError, OSError, RuntimeError):
            pass  # the connection was lost: asking for the job's state tells whether the cluster was, too
        finally:
            await stream.aclose()
        try:
            if await asyncio.to_thread(ended):
                lines.close()
                return None
            answered_s = time.monotonic()
        except (OSError, RuntimeError):
            silent_s = time.monotonic() - answered_s
            if silent_s > _GONE_AFTER_S:
                return silent_s
        await asyncio.sleep(1)


async def _next(stream: Any, ended: Callable[[], bool]) -> str | None:
    """The next text of a log, None at its end; where it is silent, asks whether the cluster is still there."""
    waiting = asyncio.ensure_future(anext(stream, None))
    try:
        while True:
            done, _ = await asyncio.wait({waiting}, timeout=_SILENT_S)
            if done:
                return waiting.result()
            if await asyncio.to_thread(ended):
                return None
    finally:
        waiting.cancel()
        await asyncio.wait({waiting})  # a generator that still runs cannot be closed


class _Lines:
    """A log that comes in pieces, and from its beginning after each lost connection, as lines, each once."""

    def __init__(self, echo: Callable[[str], None]) -> None:
        self._echo = echo
        self._n_taken = self._n_seen = 0
        self._rest = ""

    def start_over(self) -> None:
        """The next piece is the first again."""
        self._n_seen = 0

    def take(self, text: str) -> None:
        """Hands on what is new."""
        self._n_seen += len(text)
        n_new = self._n_seen - self._n_taken
        if n_new <= 0:
            return
        self._n_taken = self._n_seen
        *whole, self._rest = (self._rest + text[-n_new:]).split("\n")
        for line in whole:
            if not _RAYS_OWN.match(line):
                self._echo(line)

    def close(self) -> None:
        """Hands on a last line that did not end."""
        if self._rest:
            self._echo(self._rest)
