"""Files and folders that appear under their final name only when whole.

Every write goes to a temporary name beside the target, which no other process or thread uses, is flushed to disk and then renamed. A killed
job leaves at most a temporary file, which the next one that may write there removes (`locks`); never half a file under a final name.
"""

from __future__ import annotations

import errno
import os
import secrets
import shutil
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

TEMPORARY_SUFFIX = ".tmp"
SIBLINGS = (".tar", ".parquet", ".csv")
"""Endings of files that are written together."""


def temporary_name(path: Path) -> Path:
    """A new temporary name beside `path`, with host and process in it."""
    return path.with_name(f".{path.name}~{socket.gethostname()}-{os.getpid()}-{secrets.token_hex(4)}{TEMPORARY_SUFFIX}")


def remove_leftovers(output: Path) -> None:
    """Remove what killed writers of `output` left: beside it, of its tar, index and CSV too, and in it if it is a folder.

    For whoever alone may write there.
    """
    siblings = {output.name, f".{output.stem}.record.json", *(output.stem + ending for ending in SIBLINGS)}
    for folder in (output.parent, output):
        if not folder.is_dir():
            continue
        for name in os.listdir(folder):
            target, mark, _ = name[1:].rpartition("~")
            if name[:1] == "." and mark and name.endswith(TEMPORARY_SUFFIX) and (folder == output or target in siblings):
                remove(folder / name)


def remove(path: Path) -> None:
    """Remove a file, a folder as far as that is possible, or a link, whatever it leads to; nothing may be there."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)


def sync_folder(folder: Path) -> None:
    """Flush a folder's entries to disk, so that a rename survives a power cut."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.ENOTSUP):  # some network file systems cannot flush a folder
            raise
    finally:
        os.close(descriptor)


def sync_file(path: Path) -> None:
    """Flush a file's bytes to disk."""
    with path.open("rb") as file:
        os.fsync(file.fileno())


@contextmanager
def explain_write_errors(path: Path) -> Iterator[None]:
    """Turn failures to write `path` (no permission, no space, a file in the way) into a message with the next step.

    Raises:
        ValueError: instead of any OSError inside the block.
    """
    try:
        yield
    except OSError as error:
        raise ValueError(
            f"{path} cannot be written: {error.strerror or error}. Free space there, mend its permissions or choose another "
            "output folder, and run the same command again; whatever is already whole is kept."
        ) from error


@contextmanager
def atomic_file(path: Path) -> Iterator[Path]:
    """Yield a temporary path to write to; on success it is flushed and renamed to `path`, on failure removed.

    Raises:
        OSError: if the folder cannot be made or written (unwritable results, full disk).
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = temporary_name(path)
    try:
        yield temporary
        sync_file(temporary)
        os.replace(temporary, path)
        sync_folder(path.parent)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


@contextmanager
def atomic_folder(path: Path) -> Iterator[Path]:
    """Yield an empty temporary folder; on success its files are flushed and it replaces `path` as a whole.

    An existing `path` is moved aside first and removed after the rename, so readers see the old or the new folder.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = temporary_name(path)
    temporary.mkdir()
    try:
        yield temporary
        for file in sorted(temporary.rglob("*")):
            if file.is_file():
                sync_file(file)
        old = temporary_name(path)
        if path.exists() or path.is_symlink():
            os.replace(path, old)
        os.replace(temporary, path)
        sync_folder(path.parent)
        remove(old)
    except BaseException:
        shutil.rmtree(temporary, ignore_errors=True)
        raise


def write_bytes(path: Path, data: bytes) -> None:
    """Write a whole file atomically."""
    with atomic_file(path) as temporary:
        temporary.write_bytes(data)


def write_text(path: Path, text: str) -> None:
    """Write a whole UTF-8 text file atomically."""
    write_bytes(path, text.encode("utf-8"))
