"""Shared by all tests: one Ray for the session, and where the development data lies."""

import os
import pickle
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TypeVar

import pytest
from filelock import FileLock

Made = TypeVar("Made")

os.environ["HF_HUB_OFFLINE"] = "1"  # no test asks the real hub, whatever the environment says

os.environ.setdefault("RAY_BACKEND_LOG_LEVEL", "fatal")


# Else each MLflow server starts seven more processes, for evaluations that nobody here asks for.
os.environ.setdefault("MLFLOW_SERVER_ENABLE_JOB_EXECUTION", "false")


# A shell that starts the tests in the background has them ignore Ctrl-C, and every process that they start.
signal.signal(signal.SIGINT, signal.default_int_handler)

FASHION = Path(__file__).resolve().parents[1].parent / "shared" / "data" / "fashion"


def made_once(name: str, make: Callable[[Path], Made], tmp_path_factory: pytest.TempPathFactory) -> Made:
    """Make something, such as a finished study, once for all processes that run tests.

    Args:
        name: Its name, and that of the folder that it is made in.
        make: Makes it in that folder, which does not exist yet; what it returns is kept.
        tmp_path_factory: Knows where the tests' folders are.

    Returns:
        What `make` returned, in this process or in another one.
    """
    base = tmp_path_factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:
        base = base.parent
    kept = base / f"{name}.pickle"
    with FileLock(f"{kept}.lock"):
        if not kept.exists():
            kept.write_bytes(pickle.dumps(make(base / name)))
        made: Made = pickle.loads(kept.read_bytes())  # noqa: S301 -- written above
    return made


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--full", action="store_true", help="cluster tests: the fashion titles in place of made-up ones")


@pytest.fixture(scope="session")
def ray_session() -> Iterator[None]:
    """A local Ray of two CPUs, started by the first test that asks and stopped at the end."""
    import ray

    from embedding_jobs.ray_session import use_token

    use_token(create=True)
    ray.init("local", num_cpus=2, include_dashboard=False, log_to_driver=False)
    yield
    ray.shutdown()


@pytest.fixture(scope="session")
def fashion() -> Path:
    """The fashion catalogue's folder; tests that need it skip where it is missing."""
    if not (FASHION / "products.parquet").exists():
        pytest.skip(f"the fashion catalogue is not at {FASHION}")
    return FASHION
