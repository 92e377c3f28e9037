"""A command in a child process: it ends as the child ends, and the child with it."""

import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from study.errors import RAY_IS_DEAD

pytestmark = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="only Linux ends a child with its parent")

IN_CHILD = """
import os, signal, sys, time
from study.cli.child_process import in_child_process
with in_child_process():
    {body}
"""


def start(body: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", IN_CHILD.format(body=body)], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )


@pytest.mark.parametrize(
    ("body", "code"),
    [
        ("print('done')", 0),
        ("sys.exit(2)", 2),
        ("os._exit(3)", 3),
        ("sys.exit(1)", 1),
        ("os.kill(os.getpid(), signal.SIGKILL)", -signal.SIGKILL),
        ("os.kill(os.getpid(), signal.SIGSEGV)", -signal.SIGSEGV),
    ],
)
def test_the_command_ends_as_its_child(body: str, code: int) -> None:
    process = start(body)
    out, err = process.communicate()
    assert (process.returncode, out, err) == (code, "done\n" if code == 0 else "", "")


def test_a_child_that_ends_without_a_word_is_a_lost_ray() -> None:
    process = start("os._exit(1)")
    assert process.communicate() == ("", f"Error: {RAY_IS_DEAD}\n")
    assert process.returncode == 3


def test_an_error_that_is_not_caught_keeps_its_traceback() -> None:
    process = start("1 / 0")
    _, err = process.communicate()
    assert process.returncode == 1
    assert "ZeroDivisionError" in err
    assert RAY_IS_DEAD not in err


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_is_passed_on(number: signal.Signals) -> None:
    body = f"signal.signal({number:d}, lambda *_: sys.exit(7)); print('ready', flush=True); time.sleep(600)"
    process = start(body)
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    process.send_signal(number)
    assert process.wait(60) == 7


def test_a_killed_command_leaves_no_child() -> None:
    process = start("print(os.getpid(), flush=True); time.sleep(600)")
    assert process.stdout is not None
    child = int(process.stdout.readline())
    process.kill()
    process.wait()
    deadline = time.monotonic() + 60
    while is_alive(child):
        assert time.monotonic() < deadline
        time.sleep(0.01)


def is_alive(pid: int) -> bool:
    try:
        return " Z " not in Path(f"/proc/{pid}/stat").read_text()
    except FileNotFoundError:
        return False
