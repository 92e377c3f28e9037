"""The token of Ray: made where there is none, and for its owner only."""

import os
import stat
import sys
from collections.abc import Iterator
from pathlib import Path
from unittest.mock import patch

import pytest

from embedding_jobs.ray_session import use_token


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A user without a token, whose environment ends with the test."""
    # Nothing of this test's token may reach the Ray that other tests share.
    monkeypatch.delitem(sys.modules, "ray", raising=False)
    with patch.dict(os.environ, {"HOME": str(tmp_path)}):
        for name in ("RAY_AUTH_MODE", "RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH"):
            os.environ.pop(name, None)
        yield tmp_path


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def test_a_token_is_made_for_its_owner_alone(home: Path) -> None:
    use_token(create=True)
    path = home / ".ray" / "auth_token"
    assert len(path.read_text()) >= 32
    assert (mode(path), mode(path.parent)) == (0o600, 0o700)
    assert os.environ["RAY_AUTH_MODE"] == "token"
    assert os.environ["RAY_AUTH_TOKEN_PATH"] == str(path)
    first = path.read_text()
    use_token(create=True)
    assert path.read_text() == first
    assert [entry.name for entry in path.parent.iterdir()] == ["auth_token"]


def test_a_token_that_others_can_read_is_closed(home: Path) -> None:
    path = home / ".ray" / "auth_token"
    path.parent.mkdir()
    path.write_text("secret")
    path.chmod(0o644)
    use_token()
    assert (mode(path), path.read_text()) == (0o600, "secret")


def test_an_empty_file_is_no_token(home: Path) -> None:
    path = home / ".ray" / "auth_token"
    path.parent.mkdir()
    path.touch()
    use_token(create=True)
    assert len(path.read_text()) >= 32
    assert mode(path) == 0o600


def test_for_a_cluster_no_token_is_invented(home: Path) -> None:
    use_token()
    assert not (home / ".ray").exists()


def test_who_decided_otherwise_is_obeyed(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAY_AUTH_MODE", "disabled")
    use_token(create=True)
    assert not (home / ".ray").exists()
    assert os.environ["RAY_AUTH_MODE"] == "disabled"
