"""Start Ray on this machine with little output, token authentication and a private folder.

Ray listens on all network interfaces, and everybody who can connect to it can run any code. Only its token
authentication prevents this, and by default every user of the machine can read the token, and write to Ray's folder.
"""

from __future__ import annotations

import atexit
import logging
import os
import secrets
import sys
from pathlib import Path

from embedding_jobs.ray_folder import end_folder, end_leftovers, make_ray_folder

MODE, TOKEN, TOKEN_PATH = "RAY_AUTH_MODE", "RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH"


def use_token(*, create: bool = False) -> None:
    """Make every Ray that this process starts or joins authenticate by a token that only its owner can read.

    The token comes from RAY_AUTH_TOKEN, else from the file that RAY_AUTH_TOKEN_PATH names, else from
    `~/.ray/auth_token`. If RAY_AUTH_MODE is set to something other than "token", nothing is changed.

    Args:
        create: Create the file if it is missing, for a Ray that is about to start. A cluster has its own token.
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
    """Return the path of this user's token; the file may be missing."""
    return Path(os.environ.get(TOKEN_PATH) or "~/.ray/auth_token").expanduser()


def start_ray() -> None:
    """Start a Ray that only this process uses and that ends with it.

    What killed runs of this user have left of theirs is ended first.

    Raises:
        StudyError: No folder is fit for Ray's sockets.
    """
    os.environ.setdefault("RAY_BACKEND_LOG_LEVEL", "fatal")
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    use_token(create=True)
    import ray

    end_leftovers()
    folder = make_ray_folder()
    _folders.append(folder)
    atexit.register(stop_ray)
    ray.init(
        "local",
        include_dashboard=False,
        log_to_driver=False,
        logging_level=logging.ERROR,
        _temp_dir=str(folder / "ray"),  # Ray opens this one to everybody, but not the one around it
    )


def stop_ray() -> None:
    """Stop the Ray that `start_ray` has started, and remove its folder; without such a Ray, do nothing."""
    if _folders:
        import ray

        ray.shutdown()
        end_folder(_folders.pop())


_folders: list[Path] = []


def _has_content(path: Path) -> bool:
    return path.exists() and bool(path.read_text().strip())


def _write_token(path: Path) -> None:
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    # Not `whole_file`: the file is private from the start, and an existing token is not replaced.
    aside = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    with open(os.open(aside, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600), "w") as file:
        file.write(secrets.token_hex(32))
    try:
        path.hardlink_to(aside)  # two processes that start at once both use the first token
    except FileExistsError:
        if not _has_content(path):
            aside.replace(path)
    finally:
        aside.unlink(missing_ok=True)
