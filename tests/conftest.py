"""Shared by all tests: one Ray for the session, and where the development data lies."""

import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

os.environ.setdefault("HF_HUB_OFFLINE", "1")

os.environ.setdefault("RAY_BACKEND_LOG_LEVEL", "fatal")


# Else each MLflow server starts seven more processes, for evaluations that nobody here asks for.
os.environ.setdefault("MLFLOW_SERVER_ENABLE_JOB_EXECUTION", "false")


# A shell that starts the tests in the background has them ignore Ctrl-C, and every process that they start.
signal.signal(signal.SIGINT, signal.default_int_handler)

FASHION = Path(__file__).resolve().parents[1].parent / "shared" / "data" / "fashion"


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
