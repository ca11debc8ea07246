"""The record of a result: the SHA-256 of every file of it, and where it comes from; one format, written by `publishing` alone.

A file's record lies beside it as `.STEM.record.json` (one for files that differ in their ending: tar and index, Parquet and CSV), a folder's
inside it as `.record.json`. So it moves and goes with what it describes, and `cdgmae verify` and `cdgmae provenance` find it without being told.
"""

from __future__ import annotations

import hashlib
import json
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple

from cdgmae.names import RECORD_SUFFIX, how_to_remake
from cdgmae.storage.files.atomic import write_text
from cdgmae.storage.files.tree_listing import find_files
from cdgmae.storage.tables import TableError, file_sha256, table_metadata


class FileSum(NamedTuple):
    """Size in bytes and SHA-256 of a file."""

    size: int
    sha256: str


@dataclass(frozen=True, slots=True)
class Record:
    """What is known of a result.

    Attributes:
        path: The record itself.
        metadata: Command, settings, inputs, seed, versions, machine; see `publishing.process_metadata`.
        files: The result's files, by their path below the record's folder.
    """

    path: Path
    metadata: Mapping[str, Any]
    files: Mapping[str, FileSum]

    def sum_of(self, file: Path) -> FileSum | None:
        """Size and SHA-256 of one of its files; None if the record does not know it."""
        return self.files.get(Path(file).relative_to(self.path.parent).as_posix())


def record_path(output: Path) -> Path:
    """Where the record of a result lies: inside a folder, beside a file."""
    return output / RECORD_SUFFIX if output.is_dir() else output.parent / f".{output.stem}{RECORD_SUFFIX}"


def write_record(path: Path, outputs: Sequence[Path], metadata: Mapping[str, Any]) -> None:
    """Write the record of files that are whole.

    Args:
        path: Where; see `record_path`.
        outputs: Files, and folders of which every file counts that is not hidden.
        metadata: Where they come from.
    """
    files = {file.relative_to(path.parent).as_posix(): _sum_of(file) for output in outputs for file in files_of(output)}
    content: dict[str, Any] = {"metadata": dict(metadata), "files": files}
    write_text(path, json.dumps({**content, "checksum": _checksum(content)}, indent=1, sort_keys=True) + "\n")


def read_record(path: Path) -> Record:
    """A record as it was written.

    Raises:
        ValueError: if it cannot be read or was changed.
    """
    try:
        state = path.stat()
        return _read_record(path, (state.st_ino, state.st_mtime_ns, state.st_size))
    except (OSError, ValueError, KeyError, AttributeError, TypeError) as error:
        raise ValueError(
            f"{path} is a damaged record ({error}); `cdgmae verify --repair {shlex.quote(str(path.parent))}` checks its files by their form and "
            "writes it anew"
        ) from None


@lru_cache(maxsize=16)
def _read_record(path: Path, _state: tuple[int, ...]) -> Record:
    """A record, read and checked once for the thousands of files that it may know."""
    content = json.loads(path.read_text(encoding="utf-8"))
    checksum = content.pop("checksum")
    if checksum != _checksum(content):
        raise ValueError("changed since it was written")
    files = {name: FileSum(*file_sum) for name, file_sum in content["files"].items()}
    return Record(path, content["metadata"], files)


def describes(path: Path, outputs: Sequence[Path]) -> bool:
    """Whether a record is whole and has all files of some results as they are."""
    try:
        record = read_record(path)
    except ValueError:
        return False
    return record.files == {
        file.relative_to(path.parent).as_posix(): _sum_of(file) for output in outputs for file in files_of(output)
    }


def find_record(file: Path) -> Record | None:
    """The record that knows a file: that beside it, or that of the nearest folder around it; None if there is none.

    Raises:
        ValueError: if a record on the way is damaged.
    """
    beside = file.parent / f".{file.stem}{RECORD_SUFFIX}"
    for path in (beside, *(folder / RECORD_SUFFIX for folder in file.parents)):
        if path.is_file():
            record = read_record(path)
            if record.sum_of(file) is not None:
                return record
    return None


def drop_cut_files(folder: Path) -> None:
    """Remove the files of a folder that do not have the size in its record, for a job that keeps the files which are there."""
    try:
        files = read_record(folder / RECORD_SUFFIX).files
    except ValueError:
        return
    for name, known in files.items():
        if (folder / name).is_file() and (folder / name).stat().st_size != known.size:
            (folder / name).unlink()


def refuse_changed(file: Path) -> None:
    """Refuse a file whose bytes are not those of its record; what has no record passes.

    Raises:
        ValueError: with the command that has it made again.
    """
    record = find_record(file)
    known = record.sum_of(file) if record is not None else None
    if known is not None and known.sha256 != file_sha256(file):
        raise ValueError(f"{file} does not have the bytes with which it was written; {how_to_remake(file)}")


def files_of(output: Path) -> list[Path]:
    """A file itself, or all files of a folder, links followed and hidden ones left out."""
    return [output / file.path for file in find_files(output)] if output.is_dir() else [output]


def known_sha256(file: Path) -> str:
    """SHA-256 of a file, from its record where the size is still that; the bytes of results are not read again for every job."""
    try:
        record = find_record(file)
    except ValueError:
        record = None
    known = record.sum_of(file) if record is not None else None
    return known.sha256 if known is not None and known.size == file.stat().st_size else file_sha256(file)


def _sum_of(file: Path) -> FileSum:
    """Of a shard's tar as its index has it, from when it was written."""
    size = file.stat().st_size
    if file.suffix == ".tar" and file.with_suffix(".parquet").is_file():
        try:
            metadata = table_metadata(file.with_suffix(".parquet"))
        except TableError:
            metadata = {}
        if metadata.get("tar_bytes") == size and "tar_sha256" in metadata:
            return FileSum(size, metadata["tar_sha256"])
    return FileSum(size, file_sha256(file))


def _checksum(content: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()
