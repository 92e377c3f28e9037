"""Tracking beside the study: one thread writes, and catches up whenever the server is back."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable

from study.tracking import Tracker, TrackingError
from trainables.records import TrialRecord


class BackgroundTracker:
    """Writes records to a tracker from one thread, so that a slow or absent server never delays the study.

    A server that goes away is asked again every `retry_s`; one that comes back is told everything, since nobody knows
    what it still has. What it has is not written twice.

    Args:
        connect: Makes the tracker, in the thread.
        retry_s: Pause before an absent server is asked again.
    """

    def __init__(self, connect: Callable[[], Tracker], retry_s: float = 10) -> None:
        self._connect, self._retry_s = connect, retry_s
        self._records: list[TrialRecord] = []
        self.n_written = 0
        """Records that the server has, as far as this connection knows."""
        self._changed = threading.Condition()
        self._closing = False
        self._error: TrackingError | None = None
        self._thread = threading.Thread(target=self._work, name="tracking", daemon=True)
        self._thread.start()

    def write(self, records: Iterable[TrialRecord]) -> None:
        """Queues records to be written."""
        with self._changed:
            self._records += records
            self._changed.notify()

    def close(self) -> None:
        """Waits until everything is written, or a last attempt has failed.

        Raises:
            TrackingError: The server could not be reached at last.
        """
        with self._changed:
            self._closing = True
            self._changed.notify()
        self._thread.join()
        if self._error is not None:
            raise self._error

    def _work(self) -> None:
        while True:
            last_attempt = self._closing
            try:
                self._keep_up(self._connect())
                self._error = None
                return
            except TrackingError as error:
                self._error = error
            if last_attempt:
                return
            with self._changed:
                self._changed.wait_for(lambda: self._closing, self._retry_s)

    def _keep_up(self, tracker: Tracker) -> None:
        """Writes what is queued, and what comes, until the end."""
        self.n_written = 0
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._closing or len(self._records) > self.n_written)
                waiting = self._records[self.n_written :]
            if not waiting:
                return
            tracker.write(waiting)
            self.n_written += len(waiting)
