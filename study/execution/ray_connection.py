"""Connect to the Ray that a study runs on: one on this machine, started for the study, or a cluster."""

from __future__ import annotations

import _thread
import logging
import os
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import ray
import ray.exceptions

from embedding_jobs.ray_session import start_ray, stop_ray, token_path, use_token
from study.config.schema import StudySpec
from study.errors import RAY_IS_DEAD, ClusterError, LostError, StudyError
from study.execution.prepare import first_stderr

_ANSWERS_WITHIN_S, _LOST_AFTER_S, _INTERRUPTED_WITHIN_S = 5, 35, 10


def address_of(spec: StudySpec) -> str:
    """Return the address of a study's Ray: HOST:PORT or auto for a cluster, local for this machine.

    Without "local", Ray would join any cluster that it finds noted on this machine, or wait for one that has ended.
    """
    return spec.resources.address or os.environ.get("RAY_ADDRESS") or "local"


def connect_ray(spec: StudySpec) -> None:
    """Join the cluster that the study file or RAY_ADDRESS names, or start Ray on this machine; once per process.

    Raises:
        ClusterError: The cluster does not answer, or rejects the token.
    """
    if ray.is_initialized():
        return
    logging.getLogger("ray").setLevel(logging.ERROR)
    address = address_of(spec)
    if address == "local":
        try:
            start_ray()
        except StudyError:
            raise
        except Exception as error:  # Ray has no narrower one for a process of its own that does not come up
            cause = str(error).strip().split("\n")[0]
            raise LostError(f"Ray did not start on this machine ({cause}). The same command tries again.") from error
        _Watch(_local_ray_is_dead, 0, RAY_IS_DEAD).start()
        return
    if "://" in address:
        raise ClusterError(
            f"`resources.address`, or RAY_ADDRESS, must be HOST:PORT of the cluster that this machine is a node of, or "
            f"auto, got {address}. From another machine: study submit --address http://HOST:8265"
        )
    os.environ.setdefault("RAY_BACKEND_LOG_LEVEL", "fatal")  # not earlier: Ray announces it when it is imported
    use_token()
    if address != "auto":
        _refuse_silent(address)
    try:
        joined = ray.init(address=address, log_to_driver=False, logging_level=logging.ERROR)
    except ray.exceptions.AuthenticationError:
        raise ClusterError(rejected_token(address)) from None
    except ConnectionError as error:  # also with a wrong token, which only a log of Ray's tells
        raise ClusterError(f"The Ray cluster at {address} could not be joined ({error}). {_token_remedy()}") from None
    found = joined.address_info["gcs_address"]
    event = f"The Ray cluster at {found} has stopped responding."
    remedy = "Recorded trials are kept: once the cluster is back, the same command continues."
    _Watch(lambda: _is_silent(found), _LOST_AFTER_S, f"{event} {remedy}").start()


def disconnect_ray() -> None:
    """Leave the Ray that `connect_ray` has started or joined; one that the process had before stays."""
    if _Watch.current is not None:
        _Watch.current = None
        stop_ray()
        ray.shutdown()


@contextmanager
def loss_as_error() -> Iterator[None]:
    """Raise an error in the block if the Ray that `connect_ray` has started or joined stops.

    Raises:
        LostError: It has stopped.
    """
    _Watch.n_blocks += 1
    try:
        yield
    except (KeyboardInterrupt, Exception) as error:
        watch = _Watch.current
        interrupted = isinstance(error, KeyboardInterrupt)  # by the watch, unless by the user
        if isinstance(error, StudyError) or watch is None or not (watch.lost if interrupted else watch.is_silent()):
            raise
        watch.interrupted.set()
        disconnect_ray()
        raise LostError(watch.message) from None
    finally:
        _Watch.n_blocks -= 1


class _Watch(threading.Thread):
    """Interrupt the main thread, while it is in a block of `loss_as_error`, when Ray stops.

    Ray itself waits for up to a minute, or for ever, and then ends the process without a message. Until then the main
    thread is often in a call of Ray's that cannot be interrupted; if it does not return from it, this thread ends the
    process.

    Args:
        is_silent: Returns whether Ray does not answer now.
        lost_after_s: Ray is lost when it has not answered for longer.
        message: What has happened then, and what to do.
    """

    current: _Watch | None = None
    n_blocks = 0

    def __init__(self, is_silent: Callable[[], bool], lost_after_s: float, message: str) -> None:
        super().__init__(name="ray-watch", daemon=True)
        self.is_silent, self.lost, self.interrupted = is_silent, False, threading.Event()
        self.message, self._lost_after_s = message, lost_after_s
        _Watch.current = self

    def run(self) -> None:
        answered_s = time.monotonic()
        while _Watch.current is self:
            # The third condition, after the second: outside the blocks, Ray is stopped on purpose.
            if not _Watch.n_blocks or not self.is_silent() or not _Watch.n_blocks:
                answered_s = time.monotonic()
            elif time.monotonic() - answered_s > self._lost_after_s:
                self.lost = True
                _thread.interrupt_main()
                if not self.interrupted.wait(_INTERRUPTED_WITHIN_S):
                    os.write(first_stderr(), f"Error: {self.message}\n".encode())
                    os._exit(LostError.exit_code)
                return
            time.sleep(1)


def _local_ray_is_dead() -> bool:
    """Return whether a process is dead without which Ray cannot go on. Ray has no public function for it."""
    node = ray._private.worker._global_node
    return node is not None and any(kind in ("gcs_server", "raylet") for kind, _ in node.dead_processes())


def _is_silent(address: str) -> bool:
    """Return whether the cluster does not answer now."""
    try:
        _open_connection(address)
    except OSError:
        return True
    return False


def _open_connection(address: str) -> None:
    """Raise OSError if nothing listens at HOST:PORT."""
    host, _, port = address.rpartition(":")
    socket.create_connection((host.strip("[]"), int(port)), timeout=_ANSWERS_WITHIN_S).close()


def rejected_token(address: str) -> str:
    """Return the message for a cluster that rejects this machine's token, or its absence."""
    return f"The Ray cluster at {address} rejected the authentication token. {_token_remedy()}"


def _token_remedy() -> str:
    return (
        f"This machine needs the cluster's token: put it into {token_path()}, mode 0600, or into a file that "
        "RAY_AUTH_TOKEN_PATH names."
    )


def _refuse_silent(address: str) -> None:
    """Refuse an address where nothing answers, for which Ray itself would wait for minutes.

    Raises:
        ClusterError: Nothing answers, or the address is not valid.
    """
    host, _, port = address.rpartition(":")
    if not host or not port.isdigit():
        raise ClusterError(f"`resources.address`, or RAY_ADDRESS, must be HOST:PORT or auto, got {address!r}")
    try:
        _open_connection(address)
    except OSError as error:
        raise ClusterError(
            f"No Ray cluster answers at {address} ({error.strerror or error}). Start it, or correct the address "
            "(`resources.address` in the study file, or RAY_ADDRESS)."
        ) from None
