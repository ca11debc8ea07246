"""Where a result comes from, followed through the records of its inputs back to what nothing here made: images, checkpoints, clips."""

from __future__ import annotations

import shlex
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cdgmae.names import RECORD_SUFFIX, RECORDED_FOLDERS, RESULTS, folder_with
from cdgmae.storage.files.records import Record, find_record, read_record

SHOWN_RESULTS = 3


@dataclass(frozen=True, slots=True)
class Origin:
    """One step of the way back.

    Attributes:
        path: File or folder.
        depth: Steps from the file that was asked for.
        metadata: What its record says; None if there is none: nothing here made it.
        digest: What the result that was made from it knew of it: SHA-256 of a file, a digest of a folder; empty for the file asked for.
        changed: Whether it is another one now, as far as its record tells.
        others: Files of a folder that were made in the same way as the one that is followed.
    """

    path: Path
    depth: int
    metadata: Mapping[str, Any] | None
    digest: str
    changed: bool = False
    others: int = 0


def ancestry(file: Path) -> Iterator[Origin]:
    """The steps from a file or folder back to what nothing here made, each input below what was made from it; what was shown is not followed again.

    Raises:
        ValueError: if there is no such file, it is a folder of several results, or a record on the way is damaged.
    """
    if not file.exists():
        raise ValueError(
            f"{file}: there is no such file or folder; give a result, e.g. results/pretrain/NAME/seed0/encoder.safetensors"
        )
    if file.is_dir() and _record_and_others(file)[0] is None and (records := sorted(file.rglob(f".*{RECORD_SUFFIX}"))):
        results = dict.fromkeys(
            path.parent if path.name == RECORD_SUFFIX else path.parent / next(iter(read_record(path).files)) for path in records
        )
        named = ", ".join(f"`{shlex.join(['cdgmae', 'provenance', str(path)])}`" for path in list(results)[:SHOWN_RESULTS])
        raise ValueError(f"{file} is a folder of {len(results)} results, each with its own way back; ask for one: {named}")
    yield from _follow(file, 0, "", _root_of(file), set())


def _follow(path: Path, depth: int, digest: str, root: Path, seen: set[Path]) -> Iterator[Origin]:
    record, others = _record_and_others(path)
    known = record.sum_of(path) if record is not None and path.is_file() else None
    changed = bool(digest and known is not None and known.sha256 != digest)
    yield Origin(path, depth, record.metadata if record is not None else None, digest, changed, others)
    if record is None or record.path in seen:
        return
    seen.add(record.path)
    for name, wanted in record.metadata.get("inputs", {}).items():
        given = Path(name)
        yield from _follow(given if given.exists() else root / given, depth + 1, wanted, root, seen)


def _record_and_others(path: Path) -> tuple[Record | None, int]:
    """The record of a file or folder; of a folder of shards, which has none itself, that of the first, and how many more there are."""
    if not path.is_dir():
        return (find_record(path) if path.exists() else None), 0
    around = folder_with(path / "any", RECORDED_FOLDERS) or path
    if (around / RECORD_SUFFIX).is_file():
        return read_record(around / RECORD_SUFFIX), 0
    records = sorted(path.glob(f".[0-9]*{RECORD_SUFFIX}"))
    return (read_record(records[0]), len(records) - 1) if records else (None, 0)


def _root_of(file: Path) -> Path:
    """The working folder of the workflow that a result belongs to: what lies above its folder `results`."""
    parts = file.parts
    return Path(*parts[: len(parts) - 1 - parts[::-1].index(RESULTS)]) if RESULTS in parts else Path()
