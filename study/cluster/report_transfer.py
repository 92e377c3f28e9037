"""A study's report on its way from the cluster: what the cluster prints, and what is made of it here.

A job's log is the one channel that every cluster has. What comes through it is text from another machine: nothing in
it is believed before it is checked, and nothing is ever executed or unpickled.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import io
import re
import sys
import zipfile
from pathlib import Path, PurePosixPath

from embedding_jobs.files import write_whole
from study.errors import TransferError

_BEGIN, _END = "-----BEGIN STUDY REPORT-----", "-----END STUDY REPORT-----"

_FOLDER = re.compile(rf"{_BEGIN}\n([0-9a-f]{{64}})\n([A-Za-z0-9+/=\n]*){_END}")

_MOST_BYTES = 1 << 30


def pack(folder: Path) -> str:
    """The files of a folder as text.

    Args:
        folder: With all its subfolders; links are left out.
    """
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w", zipfile.ZIP_DEFLATED) as archive:
        for path in sorted(folder.rglob("*")):
            if path.is_file() and not path.is_symlink():
                archive.write(path, str(path.relative_to(folder)))
    data = content.getvalue()
    return f"{_BEGIN}\n{hashlib.sha256(data).hexdigest()}\n{base64.encodebytes(data).decode()}{_END}\n"


def unpack(text: str, folder: Path) -> list[Path]:
    """Writes the files of `pack` into a folder.

    Args:
        text: What was received, which may have other text around it.
        folder: Nothing is written outside it.

    Returns:
        The files.

    Raises:
        TransferError: It is incomplete, damaged, too large, or names a file outside the folder.
    """
    found = _FOLDER.search(text)
    if found is None:
        raise TransferError("the report must come whole, its beginning or end is missing")
    try:
        data = base64.b64decode(found[2])
        if hashlib.sha256(data).hexdigest() != found[1]:
            raise TransferError("the report must come undamaged, its checksum differs")
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            members = [member for member in archive.infolist() if not member.is_dir()]
            n_bytes = sum(member.file_size for member in members)
            if n_bytes > _MOST_BYTES:
                raise TransferError(f"the report must be smaller than {_MOST_BYTES:,} bytes, got {n_bytes:,}")
            targets = [folder / _inside(member.filename) for member in members]  # all before the first is written
            for member, target in zip(members, targets, strict=True):
                write_whole(target, archive.read(member))
    except (binascii.Error, zipfile.BadZipFile) as error:
        raise TransferError(f"the report must be readable: {error}") from None
    return targets


def _inside(name: str) -> PurePosixPath:
    path = PurePosixPath(name)
    if path.is_absolute() or ".." in path.parts or "\\" in name or not path.parts:
        raise TransferError(f"a file of the report must lie in its folder, got {name!r}")
    return path


if __name__ == "__main__":
    sys.stdout.write(pack(Path(sys.argv[1])))
