"""Re-checks files of any stage from their bytes: image shards, tables, safetensors and JSON."""

from __future__ import annotations

import hashlib
import json
import math
import os
import shlex
import tarfile
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import pyarrow as pa
import pyarrow.parquet as pq
from safetensors import SafetensorError, safe_open

from cdgmae.names import output_with
from cdgmae.storage.image_shards import BAD, INDEX_SCHEMA, LATER_COLUMNS, OK, ImageRow, ImageShard, index_path
from cdgmae.storage.tables import table_facts

READ_BYTES = 1 << 20


@dataclass(frozen=True)
class Finding:
    """What the check of one file gave; no problems means the file is whole."""

    path: str
    kind: str
    detail: str
    problems: tuple[str, ...] = ()

    @property
    def ok(self) -> bool:
        """Whether the file is whole."""
        return not self.problems

    @property
    def repair(self) -> str | None:
        """The command after which the next run of the workflow makes the file again; None for whole files and those not below `results/`."""
        output = None if self.ok else output_with(Path(self.path))
        return None if output is None else shlex.join(["rm", "-r", str(output)])


def verify_paths(paths: Iterable[Path]) -> list[Finding]:
    """Check files and folders (walked, hidden names left out); files of other kinds are passed over.

    Args:
        paths: Files or folders. A shard's tar and index are one finding, whichever of them is named.
    """
    return [verify_file(path) for path in files_to_verify(paths)]


def files_to_verify(paths: Iterable[Path]) -> list[Path]:
    """The files that `verify_file` would check, each shard by its tar alone, sorted within a folder, each once.

    Named paths that do not exist are kept: they are problems.
    """
    chosen: dict[Path, None] = {}
    for path in paths:
        candidates = sorted(_walk(path)) if path.is_dir() else [path]
        for file in candidates:
            if file.suffix == ".parquet" and file.with_suffix(".tar").exists():
                file = file.with_suffix(".tar")
            if file == path or file.suffix in _CHECKS:
                chosen[file] = None
    return list(chosen)


def _walk(folder: Path) -> Iterator[Path]:
    for parent, folders, files in os.walk(folder):
        folders[:] = [name for name in folders if not name.startswith(".")]
        yield from (Path(parent, name) for name in files if not name.startswith("."))


def verify_file(path: Path) -> Finding:
    """Check one file by its ending."""
    check = _CHECKS.get(path.suffix)
    if not path.is_file():
        return Finding(str(path), "missing", "", ("there is no such file or folder",))
    if check is None:
        known = ", ".join(sorted(_CHECKS))
        return Finding(str(path), "unknown", "", (f"files of this kind cannot be checked; known endings: {known}",))
    try:
        return check(path)
    except (ValueError, OSError, KeyError, TypeError, pa.ArrowException, tarfile.TarError) as error:
        return Finding(str(path), path.suffix[1:], "", (f"{type(error).__name__}: {error}",))


def _verify_shard(path: Path) -> Finding:
    """Index there and consistent; tar size and SHA-256; every member's name, place and SHA-256; no member without a row."""
    if not index_path(path).is_file():
        return Finding(str(path), "shard", "", ("no index beside it: the shard is incomplete, rerun the job that writes it",))
    shard = ImageShard(path)
    problems: list[str] = []
    if shard.index.schema.remove_metadata() != INDEX_SCHEMA:
        problems.append(f"index columns differ from {INDEX_SCHEMA.names}")
        return Finding(str(path), "shard", "", tuple(problems))
    rows = list(shard.rows())
    good = [row for row in rows if row.status == OK]
    problems.extend(_row_problems(rows))
    problems.extend(_byte_problems(path, good))
    problems.extend(_member_problems(path, good))
    bad = len(rows) - len(good)
    return Finding(str(path), "shard", f"{len(good)} images, {bad} bad rows, {path.stat().st_size:,} bytes", tuple(problems))


def _row_problems(rows: list[ImageRow]) -> Iterator[str]:
    seen: set[tuple[str, int]] = set()
    for row in rows:
        name = f"row {row.key}.{row.view_index}"
        if (row.key, row.view_index) in seen:
            yield f"{name} occurs twice"
        seen.add((row.key, row.view_index))
        if row.status not in (OK, BAD):
            yield f"{name}: unknown status {row.status!r}"
        if row.status == OK and None in (row.offset, row.length, row.sha256, row.extension):
            yield f"{name}: ok, but offset, length, sha256 or extension is empty"
        if row.status == BAD and not row.reason:
            yield f"{name}: bad without a reason"


def _byte_problems(path: Path, rows: list[ImageRow]) -> Iterator[str]:
    """One pass over the tar: SHA-256 of every image and of the whole file."""
    whole = hashlib.sha256()
    with path.open("rb") as file:
        for row in sorted(rows, key=lambda row: row.offset or 0):
            gap = (row.offset or 0) - file.tell()
            if gap < 0:
                yield f"row {row.key}.{row.view_index} overlaps the one before it"
                return
            _hash_bytes(file, gap, whole)
            member = hashlib.sha256()
            _hash_bytes(file, row.length or 0, whole, member)
            if member.hexdigest() != row.sha256:
                yield f"image {row.key}.{row.view_index}: its bytes do not have the sha256 of the index"
        _hash_bytes(file, path.stat().st_size, whole)
    expected = table_facts(index_path(path)).get("tar_sha256")
    if expected is not None and whole.hexdigest() != expected:
        yield "the tar does not have the sha256 that its index gives"


def _hash_bytes(file: IO[bytes], length: int, *hashes: Any) -> None:
    while length > 0 and (piece := file.read(min(length, READ_BYTES))):
        length -= len(piece)
        for one in hashes:
            one.update(piece)


def _member_problems(path: Path, rows: list[ImageRow]) -> Iterator[str]:
    """The tar read as a tar holds exactly the images of the index."""
    expected = {f"{row.key}.{row.view_index}.{row.extension}": (row.offset, row.length) for row in rows}
    with tarfile.open(path, mode="r:") as tar:
        for member in tar:
            place = expected.pop(member.name, None)
            if place is None:
                yield f"tar member {member.name} has no row in the index"
            elif place != (member.offset_data, member.size):
                yield f"tar member {member.name} lies at {member.offset_data}+{member.size}, the index says {place[0]}+{place[1]}"
    yield from (f"row {name} has no tar member" for name in expected)


def _verify_table(path: Path) -> Finding:
    """Every column of every row group can be read, and there is at least one row."""
    if set(INDEX_SCHEMA.names) - set(LATER_COLUMNS) <= set(pq.read_schema(path).names):
        return Finding(
            str(path), "shard", "", (f"index without its tar {path.with_suffix('.tar').name}; rerun the job that writes it",)
        )
    with pq.ParquetFile(path) as file:
        for group in range(file.num_row_groups):
            file.read_row_group(group).validate(full=True)
        num_rows, num_columns = file.metadata.num_rows, file.metadata.num_columns
    facts = table_facts(path)
    origin = f", written by cdgmae {facts['version']}, settings {facts.get('settings') or '-'}" if "version" in facts else ""
    problems = () if num_rows else ("the table has no rows",)
    return Finding(str(path), "table", f"{num_rows:,} rows, {num_columns} columns{origin}", problems)


def _verify_safetensors(path: Path) -> Finding:
    """The library's own check when a file is opened: header, places and sizes of all tensors, and not a byte more."""
    try:
        with safe_open(path, framework="np") as file:
            shapes = [file.get_slice(name).get_shape() for name in file.keys()]  # noqa: SIM118 - it is no mapping
    except SafetensorError as error:
        return Finding(
            str(path), "safetensors", "", (f"cut short or no safetensors file ({error}); rerun the job that writes it",)
        )
    return Finding(str(path), "safetensors", f"{len(shapes)} tensors, {sum(map(math.prod, shapes)):,} values")


def _verify_json(path: Path) -> Finding:
    content = json.loads(path.read_text(encoding="utf-8"))
    return Finding(str(path), "json", f"{type(content).__name__} of {len(content) if isinstance(content, (dict, list)) else 1}")


_CHECKS: dict[str, Callable[[Path], Finding]] = {
    ".tar": _verify_shard,
    ".parquet": _verify_table,
    ".safetensors": _verify_safetensors,
    ".json": _verify_json,
}
