"""Tracking beside the study: one thread writes, and catches up whenever the server is back."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable

from study.errors import TrackingError
from study.tracking.mlflow import Tracker
from trainables.records.types import TrialRecord


class BackgroundTracker:
    """Writes records to a tracker from one thread, so that a slow or absent server never delays the study.

    A server that goes away is asked again every `retry_s`; one that comes back is told everything that is recorded,
    since nobody knows what it still has. What it has is not written twice.

    Args:
        connect: Makes the tracker, in the thread.
        recorded: Reads all records, in the thread.
        say: Told, in the thread, whenever the server is found away or refusing.
        retry_s: Pause before an absent server is asked again.
    """

    def __init__(
        self,
        connect: Callable[[], Tracker],
        recorded: Callable[[], Iterable[TrialRecord]],
        say: Callable[[str], None],
        retry_s: float = 10,
    ) -> None:
        self._connect, self._recorded, self._say, self._retry_s = connect, recorded, say, retry_s
        self._waiting: list[TrialRecord] = []
        self._changed = threading.Condition()
        self._closing = self._connected = False
        self._error: TrackingError | None = None
        self._thread = threading.Thread(target=self._work, name="tracking", daemon=True)
        self._thread.start()

    def write(self, records: Iterable[TrialRecord]) -> None:
        """Queues records to be written; they are recorded already."""
        with self._changed:
            if self._connected:  # or they are read, once there is a server
                self._waiting += records
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
            except Exception as error:
                found = error if isinstance(error, TrackingError) else _unforeseen(error)
                if self._error is None or self._connected:
                    self._say(str(found))
                self._error = found
            with self._changed:
                self._connected = False
                self._waiting.clear()
                if last_attempt:
                    return
                self._changed.wait_for(lambda: self._closing, self._retry_s)

    def _keep_up(self, tracker: Tracker) -> None:
        """Writes what is recorded, and what comes, until the end."""
        with self._changed:
            self._connected = True
        tracker.write(self._recorded())
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._closing or bool(self._waiting))
                records, self._waiting = self._waiting, []
            if not records:
                return
            tracker.write(records)


def _unforeseen(error: Exception) -> TrackingError:
    """Nobody would hear of an error that ended the thread."""
    return TrackingError(
        f"What is recorded could not be tracked ({type(error).__name__}: {error}). Nothing is lost: once that is "
        "mended, `study sync` writes what MLflow lacks."
    )
