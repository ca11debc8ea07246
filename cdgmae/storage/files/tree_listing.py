"""Which files lie below a folder, in an order that does not depend on the file system."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from cdgmae.names import is_foreign

logger = logging.getLogger("cdgmae")

NO_EXTENSION = "(no ending)"
COMPRESSED = frozenset({".gz", ".tgz", ".bz2", ".xz", ".zst", ".zip"})


class LeftOut(NamedTuple):
    """A file or folder that a listing did not take, by its path below the root, and why."""

    path: str
    reason: str


class FoundFile(NamedTuple):
    """A file below a root folder: path relative to it with `/`, parent folder's name (None in the root itself), size in bytes."""

    path: str
    parent: str | None
    byte_size: int


def find_files(
    root: Path, extensions: frozenset[str] | None = None, left_out: list[LeftOut] | None = None
) -> Iterator[FoundFile]:
    """All files below `root`, or those with one of the endings: a folder's files by name, then its subfolders by name.

    Names are compared by code point. Hidden files and foreign folders (`is_foreign`) are skipped, links are followed, and a link back to
    a folder above itself is not entered. Links that lead nowhere are listed with size 0, so that they end as a row with a reason.

    Args:
        root: Where to look.
        extensions: Wanted endings in lower case, with the dot; None: all.
        left_out: Receives what is skipped.

    Raises:
        ValueError: if a folder cannot be listed.
    """
    pending: list[tuple[str, frozenset[tuple[int, int]]]] = [("", frozenset())]
    while pending:
        relative, above = pending.pop()
        folder = os.path.join(root, relative)
        try:
            status = os.stat(folder)
            identity = (status.st_dev, status.st_ino)
            if identity in above:
                logger.warning("%s leads back to a folder above it and is not entered", folder)
                continue
            files, subfolders, skipped = _scan(folder, extensions)
        except OSError as error:
            raise ValueError(
                f"folder {folder} cannot be listed: {error.strerror}. Give read permission on it, or point the configured folder "
                "(shards.datasets.NAME.path, --root, views.sources.NAME.root) at readable folders only."
            ) from None
        if left_out is not None:
            left_out.extend(LeftOut(os.path.join(relative, name), reason) for name, reason in skipped)
        parent = os.path.basename(relative) or None
        for name, byte_size in files:
            yield FoundFile(os.path.join(relative, name), parent, byte_size)
        pending.extend((os.path.join(relative, name), above | {identity}) for name in reversed(subfolders))


def _scan(folder: str, extensions: frozenset[str] | None) -> tuple[list[tuple[str, int]], list[str], list[tuple[str, str]]]:
    """Sorted (name, size) of the wanted files of one folder, its sorted subfolders, and sorted (name, reason) of the rest."""
    files: list[tuple[str, int]] = []
    subfolders: list[str] = []
    skipped: list[tuple[str, str]] = []
    with os.scandir(folder) as entries:
        for entry in entries:
            try:
                is_folder = entry.is_dir()
            except OSError:  # a link to itself
                is_folder = False
            extension = os.path.splitext(entry.name)[1].lower()
            if entry.name.startswith("."):
                skipped.append((entry.name, "hidden"))
            elif is_folder and is_foreign(entry.name):
                skipped.append((entry.name, "folder of a storage server or operating system"))
            elif is_folder:
                subfolders.append(entry.name)
            elif extensions is None or extension in extensions:
                files.append((entry.name, _size(entry)))
            else:
                skipped.append(
                    (
                        entry.name,
                        f"ending {extension or NO_EXTENSION}{', compressed: unpack it' if extension in COMPRESSED else ''}",
                    )
                )
    return sorted(files), sorted(subfolders), sorted(skipped)


def _size(entry: os.DirEntry[str]) -> int:
    try:
        return entry.stat().st_size
    except OSError:  # a broken link, or gone since the folder was read
        return 0
