"""Run a command in a child process, so that Ray cannot end it without a message.

Where its raylet dies at some moments, Ray's C++ code ends the process that uses it, with exit code 1 and no word. Only
another process can say so then.
"""

from __future__ import annotations

import ctypes
import os
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

from study.errors import RAY_IS_DEAD, LostError

_PASSED_ON = (signal.SIGINT, signal.SIGTERM)

_PR_SET_PDEATHSIG = 1


@contextmanager
def in_child_process() -> Iterator[None]:
    """Run the block in a child process; this one waits for it and ends as it ends, by exit code or signal.

    Must be entered before anything starts a thread. The child is killed with this process, which passes SIGINT and
    SIGTERM on to it. Exit code 1 of a child that did not reach the end of the block becomes a message and the code of
    `LostError`. Only on Linux; elsewhere the block runs in this process.
    """
    if not sys.platform.startswith("linux"):
        yield
        return
    reached, reaches = os.pipe()
    parent = os.getpid()
    # A signal that comes before it can be passed on waits until then.
    unblocked = signal.pthread_sigmask(signal.SIG_BLOCK, _PASSED_ON)
    if child := os.fork():
        os.close(reaches)
        _end_as(child, reached, unblocked)
    signal.pthread_sigmask(signal.SIG_SETMASK, unblocked)
    os.close(reached)
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:  # it was killed before
        os.kill(os.getpid(), signal.SIGKILL)
    try:
        yield
    finally:
        os.write(reaches, b"end")


def _end_as(child: int, reached: int, unblocked: set[int]) -> None:
    def pass_on(number: int, frame: FrameType | None) -> None:
        os.kill(child, number)  # it exists: nobody has waited for it

    for number in _PASSED_ON:
        if signal.getsignal(number) is not signal.SIG_IGN:
            signal.signal(number, pass_on)
    signal.pthread_sigmask(signal.SIG_SETMASK, unblocked)
    _, status = os.waitpid(child, 0)
    for number in _PASSED_ON:
        signal.signal(number, signal.SIG_IGN)
    code = os.waitstatus_to_exitcode(status)
    if code < 0:
        if -code != signal.SIGKILL:
            signal.signal(-code, signal.SIG_DFL)
        os.kill(os.getpid(), -code)
    if code == 1 and not _has_text(reached):
        os.write(2, f"Error: {RAY_IS_DEAD}\n".encode())
        code = LostError.exit_code
    os._exit(code)


def _has_text(pipe: int) -> bool:
    os.set_blocking(pipe, False)  # a process that the child has left may hold the other end open
    try:
        return bool(os.read(pipe, 1))
    except BlockingIOError:
        return False
