"""Finished views of an unfinished shard: per process an append-only data file and a journal, both undeclared.

A batch is added by appending its images to the data file, flushing it to disk, and then appending one line to the journal.
Whatever a kill leaves behind the last whole journal line was never promised and is cut off at the next start. What is finished is
found by content: it makes no difference how many processes wrote it, in which batches, or which of them died.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import logging
import os
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple, Self

from cdgmae.storage.files.atomic import explain_write_errors, sync_folder

logger = logging.getLogger("cdgmae")

JOURNAL_SUFFIX = ".jsonl"
DATA_SUFFIX = ".bin"


@dataclass(frozen=True, slots=True)
class MadeView:
    """One sampled view, or why there is none.

    Attributes:
        key: Key of the real image.
        view_index: 1..M.
        seed: Seed that the image (or the last attempt) came from.
        data: JPEG bytes; empty if bad.
        width: Width in pixels; 0 if nothing was drawn.
        height: Height in pixels; 0 if nothing was drawn.
        precision: fp32, bf16 or fp16: a machine setting, so it may differ between views of one shard.
        reason: Why the view is bad, or None.
    """

    key: str
    view_index: int
    seed: int
    data: bytes
    width: int
    height: int
    precision: str
    reason: str | None = None


@dataclass(frozen=True, slots=True)
class _Entry:
    key: str
    view_index: int
    seed: int
    width: int
    height: int
    precision: str
    reason: str | None
    offset: int
    length: int
    sha256: str


class _Place(NamedTuple):
    entry: _Entry
    data: Path


def journal_path(work_dir: Path, slot: int) -> Path:
    """The journal of one process."""
    return work_dir / f"{slot:03d}{JOURNAL_SUFFIX}"


class FinishedViews:
    """All finished views in a work folder, whoever made them."""

    def __init__(self, work_dir: Path, identity: str) -> None:
        """Keep what belongs to `identity` and is whole, cut off the rest.

        Waits for a process of an earlier run that still writes here.

        Args:
            work_dir: The folder; need not exist.
            identity: What the views depend on; parts of another identity are removed.

        Raises:
            ValueError: if the folder cannot be written.
        """
        self._places: dict[tuple[str, int], _Place] = {}
        for journal in sorted(work_dir.glob(f"*{JOURNAL_SUFFIX}")):
            data = journal.with_suffix(DATA_SUFFIX)
            with explain_write_errors(journal), _locked(journal) as file:
                for entry in _recover(file, data, identity):
                    self._places.setdefault((entry.key, entry.view_index), _Place(entry, data))

    def __len__(self) -> int:
        return len(self._places)

    def __contains__(self, item: object) -> bool:
        return item in self._places

    def read(self, key: str, view_index: int) -> MadeView:
        """One finished view."""
        entry, data = self._places[key, view_index]
        with data.open("rb") as file:
            image = os.pread(file.fileno(), entry.length, entry.offset)
        return MadeView(
            key, view_index, entry.seed, image, entry.width, entry.height, entry.precision, entry.reason
        )  # fmt: skip

    def views(self) -> Iterator[MadeView]:
        """All finished views."""
        return (self.read(*place) for place in self._places)

    def reason(self, key: str, view_index: int) -> str | None:
        """Why a finished view is bad, or None."""
        return self._places[key, view_index].entry.reason


class PartWriter:
    """Adds finished views to the files of one process; use as a context manager, after `FinishedViews` has tidied the folder."""

    def __init__(self, work_dir: Path, slot: int, identity: str) -> None:
        """Open the files of process number `slot` for appending.

        Raises:
            ValueError: if the folder cannot be written, or another process writes these files.
        """
        journal = journal_path(work_dir, slot)
        self._path = journal
        with explain_write_errors(journal):
            work_dir.mkdir(parents=True, exist_ok=True)
            self._journal, self._data = journal.open("ab"), journal.with_suffix(DATA_SUFFIX).open("ab")
            try:
                fcntl.flock(self._journal, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise ValueError(f"{journal} is being written by another process; wait for it to end and run again") from None
            self._end = self._data.seek(0, os.SEEK_END)
            if self._journal.seek(0, os.SEEK_END) == 0:
                self._write_line({"identity": identity})
                sync_folder(work_dir)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        for file in (self._data, self._journal):
            try:
                file.close()
            except OSError:  # a full disk: what is in the buffers was never promised
                logger.warning("%s: unfinished views could not be written", self._path)

    def append(self, views: Sequence[MadeView]) -> None:
        """Add a batch: after this returns, a kill no longer loses it.

        Raises:
            ValueError: if it cannot be written (full disk).
        """
        entries, offset = [], self._end
        with explain_write_errors(self._path):
            for view in views:
                facts = {name: value for name, value in asdict(view).items() if name != "data"}
                digest = hashlib.sha256(view.data).hexdigest()
                entries.append(_Entry(**facts, offset=offset, length=len(view.data), sha256=digest))
                self._data.write(view.data)
                offset += len(view.data)
            self._data.flush()
            os.fsync(self._data.fileno())
            self._write_line({"views": [asdict(entry) for entry in entries]})
        self._end = offset

    def _write_line(self, content: dict[str, object]) -> None:
        self._journal.write(json.dumps(content, sort_keys=True).encode() + b"\n")
        self._journal.flush()
        os.fsync(self._journal.fileno())


def remove_parts(work_dir: Path) -> None:
    """Remove the parts of a shard that is committed."""
    shutil.rmtree(work_dir, ignore_errors=True)


@contextmanager
def _locked(journal: Path) -> Iterator[BinaryIO]:
    with journal.open("r+b") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            logger.warning("waiting for a process of an earlier run that still writes %s", journal)
            fcntl.flock(file, fcntl.LOCK_EX)
        yield file


def _recover(journal: BinaryIO, data: Path, identity: str) -> list[_Entry]:
    """The whole batches of one process; journal and data are cut to what they need."""
    kept, journal_bytes, data_bytes = [], 0, 0
    data.touch()
    with data.open("r+b") as images:
        for number, line in enumerate(journal):
            batch = _parse(line)
            if number == 0 and (batch is None or batch.get("identity") != identity):
                logger.warning("parts in %s belong to other settings or inputs: these views are made again", journal.name)
                break
            entries = _entries(batch)
            if entries is None or not all(_is_whole(images.read(entry.length), entry) for entry in entries):
                logger.warning("%s: an unfinished batch is discarded and made again", journal.name)
                break
            kept += entries
            journal_bytes += len(line)
            data_bytes += sum(entry.length for entry in entries)
        images.truncate(data_bytes)
        os.fsync(images.fileno())
    journal.truncate(journal_bytes)
    os.fsync(journal.fileno())
    return kept


def _parse(line: bytes) -> dict[str, Any] | None:
    """A journal line, or None if it is torn."""
    if not line.endswith(b"\n"):
        return None
    try:
        content = json.loads(line)
    except ValueError:
        return None
    return content if isinstance(content, dict) else None


def _entries(batch: dict[str, Any] | None) -> list[_Entry] | None:
    """The views of a journal line, or None if it cannot be used."""
    try:
        return None if batch is None else [_Entry(**entry) for entry in batch.get("views", [])]
    except TypeError:
        return None


def _is_whole(data: bytes, entry: _Entry) -> bool:
    return len(data) == entry.length and hashlib.sha256(data).hexdigest() == entry.sha256
