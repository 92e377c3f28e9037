"""Joining the Ray that a study runs on: one of its own on this machine, or a cluster's."""

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

_ANSWERS_WITHIN_S, _GONE_AFTER_S, _COMES_OUT_WITHIN_S = 5, 35, 10

_STDERR = os.dup(2)  # before a command sends what libraries print to a file


def address_of(spec: StudySpec) -> str:
    """Where a study's Ray is: HOST:PORT or auto for a cluster, local for one of its own on this machine.

    Without "local", Ray would join whatever cluster it finds noted on this machine, or wait for one that is gone.
    """
    return spec.resources.address or os.environ.get("RAY_ADDRESS") or "local"


def connect(spec: StudySpec) -> None:
    """Joins the cluster that the study file or RAY_ADDRESS names, or starts Ray on this machine; once a process.

    Raises:
        ClusterError: The cluster is not there, or refuses the token.
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
    use_token()
    if address != "auto":
        _refuse_silent(address)
    try:
        joined = ray.init(address=address, log_to_driver=False, logging_level=logging.ERROR)
    except ray.exceptions.AuthenticationError:
        raise ClusterError(refused(address)) from None
    except ConnectionError as error:
        # A wrong token looks like this, too, and the cause is given in a log only.
        raise ClusterError(f"The Ray cluster at {address} could not be joined ({error}). {TOKEN_REMEDY}") from None
    _Watch.current = _Watch(joined.address_info["gcs_address"])
    _Watch.current.start()


@contextmanager
def loss_as_error() -> Iterator[None]:
    """Has a cluster that goes away end the work inside with an error.

    Raises:
        ClusterError: The cluster is gone.
    """
    try:
        yield
    except (KeyboardInterrupt, ConnectionError, ray.exceptions.RayError) as error:
        watch = _Watch.current
        interrupted = isinstance(error, KeyboardInterrupt)  # by the watch, unless by the user
        if watch is None or not (watch.lost if interrupted else watch.is_gone()):
            raise
        watch.heard.set()
        raise ClusterError(watch.last_words) from None


class _Watch(threading.Thread):
    """Knocks at the cluster's door, and ends the work when nobody answers any more.

    Ray by itself waits for a minute, and then ends the process without a word. Until then the main thread often sits
    in a call of Ray's that nothing interrupts; where it does not come out of it, the process is ended from here.
    """

    current: _Watch | None = None

    def __init__(self, address: str) -> None:
        super().__init__(name="cluster-watch", daemon=True)
        self.address, self.lost, self.heard = address, False, threading.Event()
        self.last_words = (
            f"The Ray cluster at {address} is gone, it does not answer any more. What is finished stays; once the "
            "cluster is back, the same command goes on from there."
        )

    def is_gone(self) -> bool:
        """Whether nobody answers now."""
        try:
            _knock(self.address)
        except OSError:
            return True
        return False

    def run(self) -> None:
        answered_s = time.monotonic()
        while ray.is_initialized():
            if not self.is_gone():
                answered_s = time.monotonic()
            elif time.monotonic() - answered_s > _GONE_AFTER_S:
                self.lost = True
                _thread.interrupt_main()
                if not self.heard.wait(_COMES_OUT_WITHIN_S):
                    os.write(_STDERR, f"Error: {self.last_words}\n".encode())
                    os._exit(2)
                return
            time.sleep(2)


def _knock(address: str) -> None:
    """Raises OSError where nobody listens."""
    host, _, port = address.rpartition(":")
    socket.create_connection((host.strip("[]"), int(port)), timeout=_ANSWERS_WITHIN_S).close()


TOKEN_REMEDY = (
    f"This machine's token must be the cluster's: put it into {token_path()}, mode 0600, or into a file that "
    "RAY_AUTH_TOKEN_PATH names."
)


def refused(address: str) -> str:
    """What to say where a cluster does not take our token, or we have none."""
    return f"The Ray cluster at {address} refuses whoever has not its token. {TOKEN_REMEDY}"


def _refuse_silent(address: str) -> None:
    """Ray itself waits minutes for a head that is gone.

    Raises:
        ClusterError: Nobody answers at the address, or it is none.
    """
    host, _, port = address.rpartition(":")
    if not host or not port.isdigit():
        raise ClusterError(f"`resources.address`, or RAY_ADDRESS, must be HOST:PORT or auto, got {address!r}")
    try:
        _knock(address)
    except OSError as error:
        raise ClusterError(
            f"No Ray cluster answers at {address} ({error.strerror or error}). Start it, or correct the address "
            "(`resources.address` in the study file, or RAY_ADDRESS)."
        ) from None
