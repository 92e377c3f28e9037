"""Ray on this machine, as this project starts it: quiet, and never open to whoever reaches the machine's ports.

Ray listens on all interfaces, and whoever may talk to it may run any code. Its token authentication is the only lock,
and by default it leaves the token readable to every user of the machine.
"""

from __future__ import annotations

import logging
import os
import secrets
import sys
from pathlib import Path

MODE, TOKEN, TOKEN_PATH = "RAY_AUTH_MODE", "RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH"


def use_token(*, create: bool = False) -> None:
    """Has every Ray that this process starts or joins authenticate by a token that only its owner can read.

    The token is that of RAY_AUTH_TOKEN, or of the file that RAY_AUTH_TOKEN_PATH names, or of `~/.ray/auth_token`.
    Whoever has set RAY_AUTH_MODE to something else has decided otherwise, and is obeyed.

    Args:
        create: Make the file where there is none: for a Ray that is about to be started. A cluster has its own token.
    """
    if os.environ.setdefault(MODE, "token") != "token":
        return
    if not os.environ.get(TOKEN):
        path = token_path()
        if create and not _has_content(path):
            _write_token(path)
        if path.exists() and path.stat().st_mode & 0o077:
            path.chmod(0o600)
        os.environ[TOKEN_PATH] = str(path)
    if "ray" in sys.modules:
        # Ray read the environment when it was imported.
        from ray._raylet import AuthenticationTokenLoader, Config  # type: ignore[attr-defined]

        Config.initialize("")
        AuthenticationTokenLoader.instance().reset_cache()


def token_path() -> Path:
    """The file that holds, or would hold, this user's token."""
    return Path(os.environ.get(TOKEN_PATH) or "~/.ray/auth_token").expanduser()


def start_ray() -> None:
    """Starts a Ray of this process's own; it ends with the process."""
    os.environ.setdefault("RAY_BACKEND_LOG_LEVEL", "fatal")
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    use_token(create=True)
    import ray

    ray.init("local", include_dashboard=False, log_to_driver=False, logging_level=logging.ERROR)


def _has_content(path: Path) -> bool:
    return path.exists() and bool(path.read_text().strip())


def _write_token(path: Path) -> None:
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    aside = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    with open(os.open(aside, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600), "w") as file:
        file.write(secrets.token_hex(32))
    try:
        path.hardlink_to(aside)  # of two processes at once, both use the token of the first
    except FileExistsError:
        if not _has_content(path):
            aside.replace(path)
    finally:
        aside.unlink(missing_ok=True)
