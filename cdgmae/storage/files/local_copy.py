"""Copies of shards on a disk of the compute node, which many random reads do not slow down."""

from __future__ import annotations

import hashlib
import logging
import shutil
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from cdgmae.storage.files.atomic import atomic_file, explain_write_errors
from cdgmae.storage.files.locks import exclusive_writer
from cdgmae.storage.image_shards import index_path, read_index

logger = logging.getLogger("cdgmae")

COPYING_THREADS = 8


def copy_to_local_disk(tars: Sequence[Path], folder: Path) -> list[Path]:
    """Copy complete shards, tar and index, below `folder` unless they are there already.

    Processes of one node may call this together: one copies, the others wait and find everything in place. A copy counts as
    right if its index has the same bytes (which hold the tar's SHA-256) and its tar the size that the index says; what differs is
    copied again.

    Args:
        tars: The shards' tars; those of one folder stay together.
        folder: Folder on the local disk; made if it does not exist.

    Returns:
        The tars' copies, in the given order.

    Raises:
        ValueError: if a shard is incomplete, the disk has too little space (nothing is copied then) or cannot be written.
    """
    copies = [folder / _folder_name(tar.parent) / tar.name for tar in tars]
    with exclusive_writer(folder / "shards"), explain_write_errors(folder), ThreadPoolExecutor(COPYING_THREADS) as pool:
        sizes = list(pool.map(_bytes_missing, tars, copies))
        needed, free = sum(sizes), shutil.disk_usage(folder).free
        if needed > free:
            raise ValueError(
                f"{folder} has {free / 1e9:.1f} GB free, the shards need {needed / 1e9:.1f} GB more; choose another "
                "runtime.local_copy, free space there, or leave it out to read the shards where they are"
            )
        missing = [(tar, copy) for tar, copy, size in zip(tars, copies, sizes, strict=True) if size]
        if missing:
            logger.info("copying %d shards (%.1f GB) to %s", len(missing), needed / 1e9, folder)
        list(pool.map(lambda pair: _copy(*pair), missing))
    return copies


def _folder_name(source: Path) -> str:
    """A name for the copies of one folder; folders of equal names do not meet."""
    return f"{source.name}-{hashlib.sha256(str(source.resolve()).encode()).hexdigest()[:8]}"


def _bytes_missing(tar: Path, copy: Path) -> int:
    """0 if the copy of a shard is right, else the bytes to copy."""
    read_index(tar, ["key"])  # refuses an incomplete source
    if copy.is_file() and index_path(copy).is_file():
        same_index = index_path(copy).read_bytes() == index_path(tar).read_bytes()
        if same_index and copy.stat().st_size == tar.stat().st_size:
            return 0
    return tar.stat().st_size + index_path(tar).stat().st_size


def _copy(tar: Path, copy: Path) -> None:
    """The tar first and the index last, as they were made."""
    index_path(copy).unlink(missing_ok=True)
    for source, target in ((tar, copy), (index_path(tar), index_path(copy))):
        with atomic_file(target) as temporary:
            shutil.copyfile(source, temporary)
        if target.stat().st_size != source.stat().st_size:
            raise ValueError(
                f"{source} changed while it was copied to {target}; let the stage that makes it finish, then start again"
            )
