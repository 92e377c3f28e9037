"""A bound on the time that a tracking server takes.

MLflow's time-outs are for each read: a server that sends a byte now and then never meets one.
"""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Executor, Future
from threading import Thread
from typing import Any, TypeVar

_T = TypeVar("_T")


def within(limit_s: float, work: Callable[[], _T]) -> _T:
    """Return what some work returns, or stop to wait for it.

    Late work goes on in a daemon thread: the end of the process does not wait for it.

    Raises:
        TimeoutError: The work took longer.
    """
    future: Future[_T] = Future()
    Thread(target=_settle, args=(future, work), daemon=True).start()
    try:
        return future.result(limit_s)
    except TimeoutError:
        if future.done():  # a time-out inside the work
            raise
        raise TimeoutError(f"no end within {limit_s:g} s") from None


class SameThread(Executor):
    """An executor that does its work at once: the end of the process would wait for the threads of another one."""

    def submit(self, fn: Callable[..., _T], /, *args: Any, **kwargs: Any) -> Future[_T]:
        """Do the work, and return its outcome."""
        future: Future[_T] = Future()
        _settle(future, lambda: fn(*args, **kwargs))
        return future


def _settle(future: Future[_T], work: Callable[[], _T]) -> None:
    try:
        future.set_result(work())
    except BaseException as error:
        future.set_exception(error)
