"""What a record was made with: data, encoders, software, commit."""

from __future__ import annotations

import platform
import shutil
import subprocess
from importlib.metadata import version

from study.config.schema import StudySpec, digest
from trainables.records.description import StudyDescription


def provenance(spec: StudySpec, description: StudyDescription) -> dict[str, str]:
    """Return what makes a study's results: digests, versions and commit. Each pack adds its hardware."""
    return {
        **{f"digest_{name}": value for name, value in description.digests.items()},
        "digest_data": description.data.digest,
        "digest_spec": digest(spec.model_dump(mode="json")),
        "git_commit": _git_commit(),
        **versions(),
    }


def versions() -> dict[str, str]:
    """Return the version of this package, of Python and of the libraries whose versions a record keeps."""
    return {
        "package": version("embedding-ablation-study"),
        "python": platform.python_version(),
        **{name: version(name) for name in ("mlflow", "numpy", "optuna", "ray", "torch")},
    }


def _git_commit() -> str:
    """Return the commit of the working directory; empty where that is no repository."""
    git = shutil.which("git")
    if git is None:
        return ""
    done = subprocess.run([git, "rev-parse", "HEAD"], capture_output=True, text=True, check=False)
    return done.stdout.strip() if done.returncode == 0 else ""
