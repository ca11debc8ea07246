"""Finished views of an unfinished shard: an append-only data file and a journal, both undeclared.

A batch is added by appending its pictures to the data file, flushing it to disk, and then appending one line to the journal.
Whatever a kill leaves behind the last whole journal line was never promised and is cut off at the next start.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import shutil
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Self

logger = logging.getLogger("cdgmae")

JOURNAL_FILE = "journal.jsonl"
DATA_FILE = "views.bin"


@dataclass(frozen=True, slots=True)
class MadeView:
    """One sampled view, or why there is none.

    Attributes:
        key: Key of the real picture.
        view_index: 1..M.
        seed: Seed of the start noise that the picture (or the last attempt) came from.
        data: JPEG bytes; empty if bad.
        side: Width and height in pixels.
        reason: Why the view is bad, or None.
    """

    key: str
    view_index: int
    seed: int
    data: bytes
    side: int
    reason: str | None = None


@dataclass(frozen=True, slots=True)
class _Entry:
    key: str
    view_index: int
    seed: int
    side: int
    reason: str | None
    offset: int
    length: int
    sha256: str


class PartStore:
    """The finished views in one work folder; use as a context manager."""

    def __init__(self, work_dir: Path, identity: str) -> None:
        """Open the folder, keep what belongs to `identity` and is whole, cut off the rest.

        Args:
            work_dir: The folder, made if needed.
            identity: What the views depend on; parts of another identity are discarded.
        """
        self._entries: dict[tuple[str, int], _Entry] = {}
        work_dir.mkdir(parents=True, exist_ok=True)
        journal, data = work_dir / JOURNAL_FILE, work_dir / DATA_FILE
        journal_bytes, data_bytes = self._recover(journal, data, identity)
        self._data, self._journal = data.open("ab"), journal.open("ab")
        self._data.truncate(data_bytes)
        self._journal.truncate(journal_bytes)
        self._end = data_bytes
        self._reader = os.open(data, os.O_RDONLY)
        if journal_bytes == 0:
            self._write_line({"identity": identity})

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._data.close()
        self._journal.close()
        os.close(self._reader)

    def __len__(self) -> int:
        return len(self._entries)

    def __contains__(self, item: object) -> bool:
        return item in self._entries

    def append(self, views: Sequence[MadeView]) -> None:
        """Add a batch: after this returns, a kill no longer loses it."""
        entries, offset = [], self._end
        for view in views:
            digest = hashlib.sha256(view.data).hexdigest()
            entries.append(_Entry(view.key, view.view_index, view.seed, view.side, view.reason, offset, len(view.data), digest))
            self._data.write(view.data)
            offset += len(view.data)
        self._data.flush()
        os.fsync(self._data.fileno())
        self._write_line({"views": [asdict(entry) for entry in entries]})
        self._end = offset
        self._entries.update({(entry.key, entry.view_index): entry for entry in entries})

    def read(self, key: str, view_index: int) -> MadeView:
        """One finished view."""
        entry = self._entries[key, view_index]
        data = os.pread(self._reader, entry.length, entry.offset)
        return MadeView(key, view_index, entry.seed, data, entry.side, entry.reason)

    def reason(self, key: str, view_index: int) -> str | None:
        """Why a finished view is bad, or None."""
        return self._entries[key, view_index].reason

    def _write_line(self, content: dict[str, object]) -> None:
        self._journal.write(json.dumps(content, sort_keys=True).encode() + b"\n")
        self._journal.flush()
        os.fsync(self._journal.fileno())

    def _recover(self, journal: Path, data: Path, identity: str) -> tuple[int, int]:
        """Read the whole batches; returns how many bytes of the journal and of the data file to keep."""
        if not (journal.is_file() and data.is_file()):
            return 0, 0
        journal_bytes = data_bytes = 0
        with journal.open("rb") as lines, data.open("rb") as pictures:
            for number, line in enumerate(lines):
                batch = _parse(line)
                if number == 0 and (batch is None or batch.get("identity") != identity):
                    logger.warning("parts in %s belong to other settings or inputs: sampling from the start", journal.parent)
                    return 0, 0
                entries = [_Entry(**entry) for entry in batch.get("views", [])] if batch is not None else []
                if batch is None or not all(_is_whole(pictures.read(entry.length), entry) for entry in entries):
                    logger.warning("%s: an unfinished batch is discarded and made again", journal)
                    break
                self._entries.update({(entry.key, entry.view_index): entry for entry in entries})
                journal_bytes += len(line)
                data_bytes += sum(entry.length for entry in entries)
        return journal_bytes, data_bytes


def remove_parts(work_dir: Path) -> None:
    """Remove the parts of a shard that is committed."""
    shutil.rmtree(work_dir, ignore_errors=True)


def _parse(line: bytes) -> dict[str, Any] | None:
    """A journal line, or None if it is torn."""
    if not line.endswith(b"\n"):
        return None
    try:
        content = json.loads(line)
    except ValueError:
        return None
    return content if isinstance(content, dict) else None


def _is_whole(data: bytes, entry: _Entry) -> bool:
    return len(data) == entry.length and hashlib.sha256(data).hexdigest() == entry.sha256
