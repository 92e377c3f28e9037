"""Connect to the Ray that a study runs on: one on this machine, started for the study, or a cluster."""

from __future__ import annotations

import _thread
import logging
import os
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

import ray
import ray.exceptions

from embedding_jobs.ray_session import start_ray, token_path, use_token
from study.config.schema import StudySpec
from study.errors import ClusterError
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
        start_ray()
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
    _Watch.current = _Watch(joined.address_info["gcs_address"])
    _Watch.current.start()


@contextmanager
def loss_as_error() -> Iterator[None]:
    """Raise an error in the block if the cluster stops responding.

    Raises:
        ClusterError: The cluster has stopped responding.
    """
    try:
        yield
    except (KeyboardInterrupt, ConnectionError, ray.exceptions.RayError) as error:
        watch = _Watch.current
        interrupted = isinstance(error, KeyboardInterrupt)  # by the watch, unless by the user
        if watch is None or not (watch.lost if interrupted else watch.is_silent()):
            raise
        watch.interrupted.set()
        raise ClusterError(watch.message) from None


class _Watch(threading.Thread):
    """Interrupt the run when the cluster stops responding.

    Ray itself waits for a minute and then ends the process without a message. Until then the main thread is often in a
    call of Ray's that cannot be interrupted; if it does not return from it, this thread ends the process.
    """

    current: _Watch | None = None

    def __init__(self, address: str) -> None:
        super().__init__(name="cluster-watch", daemon=True)
        self.address, self.lost, self.interrupted = address, False, threading.Event()
        self.message = (
            f"The Ray cluster at {address} has stopped responding. Recorded trials are kept: once the cluster is back, "
            "the same command continues."
        )

    def is_silent(self) -> bool:
        """Return whether the cluster does not answer now."""
        try:
            _open_connection(self.address)
        except OSError:
            return True
        return False

    def run(self) -> None:
        answered_s = time.monotonic()
        while ray.is_initialized():
            if not self.is_silent():
                answered_s = time.monotonic()
            elif time.monotonic() - answered_s > _LOST_AFTER_S:
                self.lost = True
                _thread.interrupt_main()
                if not self.interrupted.wait(_INTERRUPTED_WITHIN_S):
                    os.write(first_stderr(), f"Error: {self.message}\n".encode())
                    os._exit(2)
                return
            time.sleep(2)


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
