"""Track a running study: one thread writes to MLflow, and catches up after the server was away."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Iterator
from typing import TYPE_CHECKING

from study.errors import SlowTrackerError, TrackingError
from trainables.records.types import TrialRecord

if TYPE_CHECKING:
    from study.tracking.mlflow import Tracker


class BackgroundTracker:
    """Write records to a tracker from one thread, so that a slow or absent server never delays the study.

    An absent server is tried again every `retry_s`. After each connection all recorded trials are compared with what
    the server has, and the missing ones are written.

    Args:
        connect: Returns the connected tracker; called in the thread.
        recorded: Reads all records; called in the thread.
        say: Receives a message when the server becomes absent or rejects a request; called in the thread.
        retry_s: Seconds between attempts to reach an absent server.
        limit_s: The longest time that `close` waits.
    """

    def __init__(
        self,
        connect: Callable[[], Tracker],
        recorded: Callable[[], Iterable[TrialRecord]],
        say: Callable[[str], None],
        retry_s: float = 10,
        limit_s: float = 200,
    ) -> None:
        self._connect, self._recorded, self._say = connect, recorded, say
        self._retry_s, self._limit_s = retry_s, limit_s
        self._waiting: list[TrialRecord] = []
        self._changed = threading.Condition()
        self._closing = self._given_up = self._connected = False
        self._ended: Tracker | TrackingError = TrackingError("MLflow was not reached")
        self._thread = threading.Thread(target=self._work, name="tracking", daemon=True)
        self._thread.start()

    def write(self, records: Iterable[TrialRecord]) -> None:
        """Queue records that are already on disk; without a server they are read from there later."""
        with self._changed:
            if self._connected:
                self._waiting += records
                self._changed.notify()

    def give_up(self) -> None:
        """End the thread before its next record, without waiting for it. After `close`, nothing is left to end."""
        with self._changed:
            self._closing = self._given_up = True
            self._changed.notify()

    def close(self) -> Tracker:
        """Wait until everything is written or a last attempt has failed, and return the tracker.

        The wait is bounded, whatever the server does: the time-outs of single requests do not bound it.

        Raises:
            TrackingError: The last attempt has failed, or took too long.
        """
        with self._changed:
            self._closing = True
            self._changed.notify()
        self._thread.join(self._limit_s)
        if self._thread.is_alive():
            self.give_up()
            raise SlowTrackerError(self._limit_s)
        if isinstance(self._ended, TrackingError):
            raise self._ended
        return self._ended

    def _work(self) -> None:
        has_failed = False
        while True:
            last_attempt = self._closing
            try:
                self._ended = self._keep_up(self._connect())
                return
            except Exception as error:
                found = error if isinstance(error, TrackingError) else _unexpected(error)
                if not self._given_up and (
                    not has_failed or self._connected
                ):  # once each time that the server goes away
                    self._say(str(found))
                self._ended, has_failed = found, True
            with self._changed:
                self._connected = False
                self._waiting.clear()
                if last_attempt or self._given_up:
                    return
                self._changed.wait_for(lambda: self._closing, self._retry_s)

    def _keep_up(self, tracker: Tracker) -> Tracker:
        """Write what is recorded and what is queued, until the tracker is closed."""
        with self._changed:
            self._connected = True
        tracker.write(self._while_wanted(self._recorded()))
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._closing or bool(self._waiting))
                records, self._waiting = self._waiting, []
            if not records:
                return tracker
            tracker.write(self._while_wanted(records))

    def _while_wanted(self, records: Iterable[TrialRecord]) -> Iterator[TrialRecord]:
        for record in records:
            if self._given_up:
                raise SlowTrackerError(self._limit_s)
            yield record


def _unexpected(error: Exception) -> TrackingError:
    """Return an error to report in place of one that would end the thread unnoticed."""
    return TrackingError(
        f"Records could not be written to MLflow ({type(error).__name__}: {error}). Nothing is lost: fix the error, "
        "then `study sync` writes what is missing there."
    )
