"""Transfer a study's report from the cluster: `python -m study.cluster.report_transfer FOLDER` prints it there.

A job's log is the one channel that every cluster has. Its text comes from another machine: everything in it is checked
before use, and nothing is executed or unpickled.
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


def pack_report(folder: Path) -> str:
    """Return the files of a folder and its subfolders as text; links are left out."""
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w", zipfile.ZIP_DEFLATED) as archive:
        for path in sorted(folder.rglob("*")):
            if path.is_file() and not path.is_symlink():
                archive.write(path, str(path.relative_to(folder)))
    data = content.getvalue()
    return f"{_BEGIN}\n{hashlib.sha256(data).hexdigest()}\n{base64.encodebytes(data).decode()}{_END}\n"


def unpack_report(text: str, folder: Path) -> list[Path]:
    """Write the files of `pack_report` into a folder, and return their paths. Text before and after it is ignored.

    Raises:
        TransferError: The text is incomplete, damaged, too large, or names a file outside the folder.
    """
    found = _FOLDER.search(text)
    if found is None:
        raise TransferError("the received report is incomplete: its beginning or end is missing")
    try:
        data = base64.b64decode(found[2])
        if hashlib.sha256(data).hexdigest() != found[1]:
            raise TransferError("the received report is damaged: its checksum differs")
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            members = [member for member in archive.infolist() if not member.is_dir()]
            n_bytes = sum(member.file_size for member in members)
            if n_bytes > _MOST_BYTES:
                raise TransferError(f"the report must be at most {_MOST_BYTES:,} bytes, got {n_bytes:,}")
            # All names are checked before the first file is written.
            targets = [folder / _inside(member.filename) for member in members]
            for member, target in zip(members, targets, strict=True):
                write_whole(target, archive.read(member))
    except (binascii.Error, zipfile.BadZipFile) as error:
        raise TransferError(f"the received report is not readable: {error}") from None
    return targets


def _inside(name: str) -> PurePosixPath:
    path = PurePosixPath(name)
    if path.is_absolute() or ".." in path.parts or "\\" in name or not path.parts:
        raise TransferError(f"a file of the report must lie in its folder, got {name!r}")
    return path


if __name__ == "__main__":
    sys.stdout.write(pack_report(Path(sys.argv[1])))
