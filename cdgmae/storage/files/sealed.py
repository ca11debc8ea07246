"""Private files of unfinished work with their SHA-256 beside them: what is damaged is dropped, said, and made again."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from cdgmae.storage.files.atomic import atomic_file, explain_write_errors, write_text
from cdgmae.storage.tables import file_sha256

logger = logging.getLogger("cdgmae")

SEAL_SUFFIX = ".sha256"


def seal_path(path: Path) -> Path:
    """The file with the SHA-256 of `path`, as `sha256sum -c` reads it."""
    return path.with_name(path.name + SEAL_SUFFIX)


@contextmanager
def sealed_file(path: Path) -> Iterator[Path]:
    """As `atomic_file`; its SHA-256 is written before it appears.

    Raises:
        ValueError: if it cannot be written.
    """
    with explain_write_errors(path), atomic_file(path) as temporary:
        yield temporary
        write_text(seal_path(path), f"{file_sha256(temporary)}  {path.name}\n")


def is_intact(path: Path) -> bool:
    """Whether a sealed file is there as it was written."""
    try:
        sealed = seal_path(path).read_text(encoding="utf-8").split()[0]
        return file_sha256(path) == sealed
    except (OSError, ValueError, IndexError):
        return False


def drop_if_damaged(path: Path) -> bool:
    """Remove a file that is not as it was written, and say so in the log; whether there is a good one."""
    if is_intact(path):
        return True
    if path.is_file():
        logger.warning("%s is damaged (its SHA-256 is not that in %s): it is removed and made again", path, seal_path(path).name)
        remove_sealed(path)
    return False


def remove_sealed(path: Path) -> None:
    """Remove a sealed file and its sum."""
    for file in (path, seal_path(path)):
        file.unlink(missing_ok=True)
