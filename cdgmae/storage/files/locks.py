"""One writer per artifact: a kernel lock that dies with its process.

Some file systems have no locks (Lustre mounted without `flock`, NFS without its lock service): there the work goes on with a warning, and
only Snakemake's own lock stands against a second run.
"""

from __future__ import annotations

import errno
import fcntl
import logging
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path

from cdgmae.storage.files.atomic import explain_write_errors, remove_leftovers

logger = logging.getLogger("cdgmae")

NO_LOCKS = (errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOLCK, errno.ENOSYS)
"""Errors that say that a file system has no locks."""


def lock_path(output: Path) -> Path:
    """The lock file of an artifact, beside it."""
    return output.parent / f".{output.name}.lock"


def holder_host(output: Path) -> str | None:
    """The machine whose process wrote itself into the lock file of `output`; None if there is no such file or nothing in it yet."""
    try:
        owner = lock_path(output).read_text(encoding="utf-8", errors="replace").strip()
    except OSError:
        return None
    return owner.rpartition(" on ")[2].partition(" since ")[0] or None


def is_held(output: Path) -> bool:
    """Whether a process holds the right to write `output` now, as far as this machine's kernel knows.

    Looks without keeping anything: a writer that comes in that very moment waits for microseconds.
    """
    try:
        descriptor = os.open(lock_path(output), os.O_RDONLY)
    except OSError:
        return False
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except OSError:  # without locks nobody holds one
        return False
    finally:
        os.close(descriptor)
    return False


@contextmanager
def exclusive_writer(output: Path) -> Iterator[bool]:
    """Hold the right to write `output`; wait while another process holds it. Gives whether it was waited for.

    A job whose controller was killed may still be running when the workflow is started again: the second job waits for the
    first instead of writing the same files beside it. The lock file lies beside the output, is released by the kernel when its
    process ends however it ends, and is removed afterwards. Temporary files that killed writers of this output left are removed, but where
    the file system has no locks: there they may be those of a living one.

    Raises:
        ValueError: if the output's folder cannot be made or written.
    """
    path = lock_path(output)
    with explain_write_errors(output):
        path.parent.mkdir(parents=True, exist_ok=True)
        descriptor, alone, waited = _acquire(path)
        if alone:
            remove_leftovers(output)
    try:
        yield waited
    finally:
        path.unlink(missing_ok=True)
        os.close(descriptor)


def _acquire(path: Path) -> tuple[int, bool, bool]:
    """The open lock file, whether it is locked (not where the file system has no locks), and whether it was waited for."""
    waited = False
    while True:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            owner = os.pread(descriptor, 200, 0).decode(errors="replace").strip()
            logger.warning(
                "waiting for %s, which is writing %s",
                owner or "another process",
                path.parent / path.name[1:].removesuffix(".lock"),
            )
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            waited = True
        except OSError as error:
            if error.errno not in NO_LOCKS:
                os.close(descriptor)
                raise
            logger.warning(
                "%s is on a file system without locks (%s): nothing stops a second process from writing the same, so start the workflow "
                "only once there",
                path.parent, error.strerror,
            )  # fmt: skip
            return descriptor, False, False
        if _is_current(descriptor, path):
            try:
                os.truncate(descriptor, 0)
                since = datetime.now().astimezone().isoformat(sep=" ", timespec="seconds")
                os.pwrite(descriptor, f"process {os.getpid()} on {socket.gethostname()} since {since}".encode(), 0)
            except OSError:  # a full disk: an open descriptor would hold the lock
                os.close(descriptor)
                raise
            return descriptor, True, waited
        os.close(descriptor)  # the former owner removed the file while we waited: lock the new one


def _is_current(descriptor: int, path: Path) -> bool:
    try:
        return os.fstat(descriptor).st_ino == path.stat().st_ino
    except FileNotFoundError:
        return False
