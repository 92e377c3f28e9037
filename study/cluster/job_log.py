"""Follow the log of a Ray job; a lost connection is made again."""

from __future__ import annotations

import asyncio
import re
import time
from collections.abc import Callable
from typing import Any

_SILENT_S, _GONE_AFTER_S = 20, 120

_LINES_OF_RAY = re.compile(r"Running entrypoint for job |.*\tINFO job_manager\.py")


def follow_log(client: Any, job_id: str, ended: Callable[[], bool], echo: Callable[[str], None]) -> float | None:
    """Pass on a job's lines until it has ended.

    Args:
        client: Ray's `JobSubmissionClient`.
        job_id: The job.
        ended: Returns whether the job has ended; raises OSError or RuntimeError if the cluster does not answer.
        echo: Called with every line, once.

    Returns:
        None when the job has ended; else the seconds for which the cluster has not answered.
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
            pass  # the connection is lost; the query below shows whether the cluster is, too
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
    """Return the next text of a log, None at its end; during a silence, ask whether the job has ended."""
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
        await asyncio.wait({waiting})  # a running generator cannot be closed


class _Lines:
    """Lines of a log that arrives in pieces, from its beginning again after each lost connection; each line once."""

    def __init__(self, echo: Callable[[str], None]) -> None:
        self._echo = echo
        self._n_taken = self._n_seen = 0
        self._rest = ""

    def start_over(self) -> None:
        """Expect the log from its beginning."""
        self._n_seen = 0

    def take(self, text: str) -> None:
        """Pass on the lines of a piece that were not passed on before."""
        self._n_seen += len(text)
        n_new = self._n_seen - self._n_taken
        if n_new <= 0:
            return
        self._n_taken = self._n_seen
        *whole, self._rest = (self._rest + text[-n_new:]).split("\n")
        for line in whole:
            if not _LINES_OF_RAY.match(line):
                self._echo(line)

    def close(self) -> None:
        """Pass on a last line without a line break."""
        if self._rest:
            self._echo(self._rest)
