"""The state of a user's folder as a few characters, so that the plan notices files that were added, removed or replaced.

It is a parameter of the rules that list images and read clips, and is computed whenever the workflow is planned: one `stat` per file, some 4 s
for a million files on a local disk.
"""

from __future__ import annotations

import hashlib
import os
import stat
from functools import cache
from pathlib import Path
from typing import Literal

from cdgmae.names import is_foreign

Notice = Literal["mtime", "hash", "nothing"]


@cache
def source_state(root: str, notice: Notice) -> str:
    """Digest over the files below a folder; hidden and foreign ones are left out, as they are in the listing.

    Args:
        root: The folder, or a single tar; links below it are followed, each folder once.
        notice: What tells a file from the one that lay there before: size and time of change, or its SHA-256. `nothing`: the folder is not
            looked at.

    Returns:
        16 hex digits, or nothing for `nothing`. A folder that is not there or cannot be listed has a state too; that it is wrong, the job says.
    """
    if notice == "nothing":
        return ""
    digest = hashlib.sha256()
    pending, entered = [""], set()
    while pending:
        relative = pending.pop()
        folder = f"{root}/{relative}" if relative else root
        try:
            status = os.stat(folder)
            if (status.st_dev, status.st_ino) in entered:
                continue
            entered.add((status.st_dev, status.st_ino))
            with os.scandir(folder) as scanned:
                entries = sorted((entry for entry in scanned if not entry.name.startswith(".")), key=lambda entry: entry.name)
        except NotADirectoryError:
            digest.update(_state_of(Path(root), notice).encode())
            continue
        except OSError as error:
            digest.update(f"{relative} {error.errno}".encode(errors="surrogateescape"))
            continue
        states = []
        for entry in entries:
            if not entry.is_dir():
                states.append(f"{entry.name}\0{_state_of(entry, notice)}")
            elif not is_foreign(entry.name):
                pending.append(f"{relative}{entry.name}/")
        digest.update("\n".join([relative, *states, ""]).encode(errors="surrogateescape"))
    return digest.hexdigest()[:16]


def _state_of(entry: os.DirEntry[str] | Path, notice: Notice) -> str:
    try:
        if notice == "hash":
            with open(entry, "rb") as file:
                return hashlib.file_digest(file, "sha256").hexdigest()
        status = entry.stat()
    except OSError as error:
        return str(error.errno)
    private = "" if status.st_mode & stat.S_IROTH else f" {status.st_mode:o}"  # made readable, a file is another one
    return f"{status.st_size} {status.st_mtime_ns}{private}"
