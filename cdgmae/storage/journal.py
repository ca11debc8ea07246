"""The one journal of unfinished work: records that a kill no longer loses, found again by content.

Every writer has a slot of its own: `SLOT.jsonl` with one line per record, and `SLOT.bin` with the bytes that belong to it. Both are only
ever appended to, first the bytes, flushed to disk, then the line. A record carries the identity of what it was made from and
checksums of line and bytes; what is damaged, half-written or foreign is passed over alone, said in the log, and made again. Two
line breaks lie between records, so that no single flipped byte can join them.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, BinaryIO, Literal, NamedTuple

from cdgmae.storage.files.atomic import explain_write_errors, sync_folder
from cdgmae.storage.files.locks import exclusive_writer

logger = logging.getLogger("cdgmae")

LINE_SUFFIX, DATA_SUFFIX = ".jsonl", ".bin"


class NewRecord(NamedTuple):
    """What is appended: a name that is unique within the work, metadata that JSON can hold, bytes, and how much work it is."""

    name: str
    metadata: Mapping[str, Any]
    data: bytes = b""
    amount: int = 1


@dataclass(frozen=True, slots=True)
class Record:
    """A finished record: its metadata, and where its bytes lie."""

    metadata: dict[str, Any]
    amount: int
    path: Path
    offset: int
    length: int
    sha256: str

    @property
    def data_path(self) -> Path:
        """The file that has its bytes."""
        return self.path.with_suffix(DATA_SUFFIX)

    def data(self) -> bytes:
        """Its bytes; ValueError if they are not those that were written."""
        with self.data_path.open("rb") as file:
            return self.data_of(file)

    def data_of(self, file: BinaryIO) -> bytes:
        """As `data`, from the open `data_path`."""
        data = os.pread(file.fileno(), self.length, self.offset)
        if hashlib.sha256(data).hexdigest() != self.sha256:
            raise ValueError(f"{self.data_path}: the bytes of a record are damaged or missing: it is passed over and made again")
        return data


@dataclass(frozen=True, slots=True)
class Journal:
    """The finished records of one piece of work, whoever made them.

    Attributes:
        folder: Where they lie; need not exist.
        identity: Everything that a record depends on; records of another identity do not count.
        unit: What amounts count, e.g. views.
    """

    folder: Path
    identity: str
    unit: str

    def records(self, slot: str | None = None) -> dict[str, Record]:
        """Name -> record, of all slots or of one; never waits."""
        paths = sorted(self.folder.glob(f"*{LINE_SUFFIX}")) if slot is None else [self._path(slot)]
        return {name: record for path in paths for name, record in self._read(path)}

    def wait(self) -> None:
        """Until no process of an earlier run writes here any more.

        Raises:
            ValueError: if the folder cannot be written.
        """
        for path in sorted(self.folder.glob(f"*{LINE_SUFFIX}")):
            with exclusive_writer(path):
                pass

    @contextmanager
    def claim(self, slot: str) -> Iterator[JournalWriter]:
        """Hold a slot for writing; waits while another process holds it. What it has of another identity is removed.

        Raises:
            ValueError: if the folder cannot be written.
        """
        path = self._path(slot)
        with exclusive_writer(path):
            mode: Literal["wb", "ab"] = "wb" if next(self._read(path), None) is None else "ab"
            with explain_write_errors(path):
                files = (path.with_suffix(DATA_SUFFIX).open(mode), path.open(mode))
                sync_folder(self.folder)
            try:
                yield JournalWriter(self, path, *files)
            finally:
                for file in files:
                    try:
                        file.close()
                    except OSError:  # a full disk: what is in the buffers was never promised
                        logger.warning("%s: unfinished records could not be written", path)

    def remove(self, slot: str | None = None) -> None:
        """Remove one slot, or everything: the result is committed."""
        if slot is None:
            shutil.rmtree(self.folder, ignore_errors=True)
            return
        for suffix in (LINE_SUFFIX, DATA_SUFFIX):
            (self.folder / f"{slot}{suffix}").unlink(missing_ok=True)

    def line(self, record: NewRecord, offset: int) -> bytes:
        """A record as a line, its bytes at `offset`."""
        content = {
            "name": record.name, "metadata": record.metadata, "amount": record.amount, "unit": self.unit, "offset": offset,
            "length": len(record.data), "sha256": hashlib.sha256(record.data).hexdigest(), "identity": _digest(self.identity),
        }  # fmt: skip
        return json.dumps({**content, "checksum": _checksum(content)}, sort_keys=True).encode()

    def _path(self, slot: str) -> Path:
        return self.folder / f"{slot}{LINE_SUFFIX}"

    def _read(self, path: Path) -> Iterator[tuple[str, Record]]:
        if not path.is_file():
            return
        identity, data_path = _digest(self.identity), path.with_suffix(DATA_SUFFIX)
        *lines, unfinished = path.read_bytes().split(b"\n")
        if not data_path.is_file():
            _say_once(f"{data_path} is missing: its records are made again")
            return
        with data_path.open("rb") as data:
            for line in [*filter(None, lines), *([unfinished] if unfinished else [])]:
                content = _parse(line) if line is not unfinished else None
                if content is None:
                    _say_once(f"{path}: a damaged or half-written record is passed over and made again")
                    continue
                if content["identity"] != identity:
                    _say_once(f"{path}: records of other settings or inputs: this work is done again")
                    continue
                record = Record(
                    path=path, **{name: content[name] for name in ("metadata", "amount", "offset", "length", "sha256")}
                )
                try:
                    record.data_of(data)
                except ValueError as error:
                    _say_once(str(error))
                    continue
                yield content["name"], record


class JournalWriter:
    """Appends to one slot; made by `Journal.claim`."""

    def __init__(self, journal: Journal, path: Path, data: BinaryIO, lines: BinaryIO) -> None:
        self._journal, self._path, self._data, self._lines = journal, path, data, lines

    def append(self, records: Sequence[NewRecord]) -> None:
        """Add records: after this returns, a kill no longer loses them.

        Raises:
            ValueError: if they cannot be written (full disk).
        """
        with explain_write_errors(self._path):
            lines = []
            for record in records:
                lines.append(b"\n" + self._journal.line(record, self._data.tell()) + b"\n")
                self._data.write(record.data)
            for file, content in ((self._data, b""), (self._lines, b"".join(lines))):
                file.write(content)
                file.flush()
                os.fsync(file.fileno())


def _digest(identity: str) -> str:
    return hashlib.sha256(identity.encode()).hexdigest()[:16]


def _checksum(content: Mapping[str, Any]) -> str:
    return _digest(json.dumps(content, sort_keys=True))


def _parse(line: bytes) -> dict[str, Any] | None:
    """A journal line, or None if it is not as it was written."""
    try:
        content = json.loads(line)
        return content if content.pop("checksum") == _checksum(content) else None
    except (ValueError, AttributeError, KeyError, TypeError, RecursionError):
        return None


@cache
def _say_once(message: str) -> None:
    logger.warning(message)
