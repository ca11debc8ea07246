"""Re-checks files of any stage from their bytes: all against the SHA-256 in their records, shards, tables, safetensors and JSON by form too."""

from __future__ import annotations

import hashlib
import json
import math
import shlex
import tarfile
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import IO, Any

import pyarrow as pa
import pyarrow.parquet as pq
from safetensors import SafetensorError, safe_open

from cdgmae.names import RECORD_SUFFIX, output_with
from cdgmae.storage.files.records import FileSum, find_record, read_record
from cdgmae.storage.files.tree_listing import find_files
from cdgmae.storage.image_shards import BAD, INDEX_SCHEMA, LATER_COLUMNS, OK, ImageRow, index_path, with_all_columns
from cdgmae.storage.tables import file_sha256, read_table, table_metadata

READ_BYTES = 1 << 20
_DAMAGES = (ValueError, OSError, KeyError, TypeError, pa.ArrowException, tarfile.TarError)
"""What reading a damaged file may raise."""


@dataclass(frozen=True)
class Finding:
    """What the check of one file gave; no problems means the file is whole."""

    path: str
    kind: str
    detail: str
    problems: tuple[str, ...] = ()
    recorded: bool = False
    """Whether a record has the SHA-256 of its bytes."""
    damaged: tuple[str, ...] = ()
    """Which of the files that were checked are damaged; of a shard its tar, its index or both. Empty: `path`."""

    @property
    def ok(self) -> bool:
        """Whether the file is whole."""
        return not self.problems

    @property
    def repair(self) -> str | None:
        """The command after which the next run of the workflow makes the file again; None for whole files and those not below `results/`."""
        if self.kind == "record" and not self.ok:
            return shlex.join(["cdgmae", "verify", "--repair", self.path])
        return shlex.join(["rm", "-r", *map(str, self.deletes)]) if self.deletes else None

    @property
    def deletes(self) -> tuple[Path, ...]:
        """What must be deleted: the declared outputs that the damaged files are or lie in. A record is written anew instead."""
        if self.ok or self.kind == "record":
            return ()
        outputs = (output_with(Path(file)) for file in self.damaged or (self.path,))
        return tuple(dict.fromkeys(output for output in outputs if output is not None))


def verify_paths(paths: Iterable[Path]) -> list[Finding]:
    """Check files and folders (walked, links followed, hidden names left out); files that no record knows and of other kinds are passed over.

    Args:
        paths: Files or folders. A shard's tar and index are one finding, whichever of them is named.
    """
    return [verify_file(path) for path in files_to_verify(paths)]


def files_to_verify(paths: Iterable[Path]) -> list[Path]:
    """The files that `verify_file` would check, each shard by its tar alone, each once, and the records that are damaged or miss a file.

    Named paths that do not exist are kept: they are problems.
    """
    chosen: dict[Path, None] = {}
    for path in paths:
        files = [path / file.path for file in find_files(path)] if path.is_dir() else [path]
        for record in _records_below(path, files) if path.is_dir() else []:
            chosen.update(dict.fromkeys(_missing(record)))
        for file in files:
            if file.suffix == ".parquet" and file.with_suffix(".tar").exists():
                file = file.with_suffix(".tar")
            if file == path or file.suffix in _CHECKS or _known_sum(file) is not None:
                chosen[file] = None
    return list(chosen)


def _records_below(root: Path, files: list[Path]) -> Iterator[Path]:
    """The records in a folder and all folders below it, those behind links, too, as far as they hold a file."""
    folders = {folder for file in files for folder in file.parents if folder.is_relative_to(root)} | {root}
    pattern = f".*{RECORD_SUFFIX.removeprefix('.')}"
    yield from dict.fromkeys(
        [*(path for folder in sorted(folders) for path in sorted(folder.glob(pattern))), *root.rglob(pattern)]
    )


def _missing(path: Path) -> list[Path]:
    """The record itself if it is damaged; files that it names and that are lost where Snakemake does not look: inside of folders."""
    try:
        record = read_record(path)
    except ValueError:
        return [path]
    lost = [file for file in (path.parent / name for name in record.files) if not file.exists()]
    outputs = {file: output_with(file) for file in lost}
    return [file for file, output in outputs.items() if output is not None and output != file and output.exists()]


def _known_sum(file: Path) -> FileSum | None:
    try:
        record = find_record(file)
    except ValueError:  # is a finding of its own
        return None
    return record.sum_of(file) if record is not None else None


def verify_file(path: Path) -> Finding:
    """Check one file: its bytes against its record, if there is one, and what its ending says of its form."""
    if path.name.endswith(RECORD_SUFFIX):
        return _verify_record(path)
    if not path.is_file():
        return Finding(str(path), "missing", "", ("there is no such file or folder",))
    check, known = _CHECKS.get(path.suffix), _known_sum(path)
    if check is None and known is None:
        endings = ", ".join(sorted(_CHECKS))
        return Finding(
            str(path), "unknown", "", (f"no record knows it, and its kind cannot be checked otherwise; known endings: {endings}",)
        )
    try:
        finding = check(path) if check is not None else Finding(str(path), path.suffix[1:], f"{path.stat().st_size:,} bytes")
        changes = () if check is _verify_shard else tuple(_changes(path, known))
        return replace(finding, problems=(*finding.problems, *changes), recorded=known is not None)
    except _DAMAGES as error:
        return Finding(str(path), path.suffix[1:], "", (f"{type(error).__name__}: {error}",), recorded=known is not None)


def _changes(path: Path, known: FileSum | None) -> Iterator[str]:
    """How a file differs from its record."""
    if known is None:
        return
    if path.stat().st_size != known.size:
        yield f"{path.stat().st_size:,} bytes instead of {known.size:,}"
    elif file_sha256(path) != known.sha256:
        yield "its bytes do not have the sha256 of its record"


def _verify_record(path: Path) -> Finding:
    try:
        record = read_record(path)
    except ValueError as error:
        return Finding(str(path), "record", "", (str(error),))
    return Finding(str(path), "record", f"{len(record.files)} files")


def _verify_shard(path: Path) -> Finding:
    """Index there and consistent; tar size and SHA-256; every member's name, place and SHA-256; no member without a row."""
    index = index_path(path)
    if not index.is_file():
        return Finding(str(path), "shard", "", ("no index beside it: the shard is incomplete",))
    known = _known_sum(path)
    of_index = [f"{index.name}: {change}" for change in _changes(index, _known_sum(index))]
    rows: list[ImageRow] = []
    wanted = known.sha256 if known is not None else None
    try:
        rows, metadata = _index_rows(index)
        of_index += _row_problems(rows)
        wanted = wanted or metadata.get("tar_sha256")
    except _DAMAGES as error:
        of_index.append(f"{index.name}: {error}")
    good = [row for row in rows if row.status == OK]
    detail = f"{len(good)} images, {len(rows) - len(good)} bad rows, {path.stat().st_size:,} bytes"
    problems = [*of_index, *(() if of_index else _image_problems(path, good))]
    tar_changed = bool(problems) and wanted is not None and file_sha256(path) != wanted
    if of_index and tar_changed:
        problems.append("the tar does not have the sha256 with which it was written")
    # What does not fit is the index's fault if the tar is as it was written.
    damaged = [str(path)] * tar_changed + [str(index)] * bool(of_index or (problems and not tar_changed))
    return Finding(str(path), "shard", detail, tuple(problems), damaged=tuple(damaged))


def _index_rows(index: Path) -> tuple[list[ImageRow], dict[str, Any]]:
    table = with_all_columns(read_table(index), index)
    if table.schema.remove_metadata() != INDEX_SCHEMA:
        raise ValueError(f"index columns differ from {INDEX_SCHEMA.names}")
    return [ImageRow(**row) for row in table.to_pylist()], table_metadata(index)


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


def _image_problems(path: Path, rows: list[ImageRow]) -> Iterator[str]:
    try:
        yield from _byte_problems(path, rows)
        yield from _member_problems(path, rows)
    except _DAMAGES as error:
        yield f"{type(error).__name__}: {error}"


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
    expected = table_metadata(index_path(path)).get("tar_sha256")
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
        return Finding(str(path), "shard", "", (f"index without its tar {path.with_suffix('.tar').name}",))
    with pq.ParquetFile(path) as file:
        for group in range(file.num_row_groups):
            file.read_row_group(group).validate(full=True)
        num_rows, num_columns = file.metadata.num_rows, file.metadata.num_columns
    metadata = table_metadata(path)
    origin = (
        f", written by cdgmae {metadata['version']}, settings {metadata.get('settings') or '-'}" if "version" in metadata else ""
    )
    problems = () if num_rows else ("the table has no rows",)
    return Finding(str(path), "table", f"{num_rows:,} rows, {num_columns} columns{origin}", problems)


def _verify_safetensors(path: Path) -> Finding:
    """The library's own check when a file is opened: header, places and sizes of all tensors, and not a byte more."""
    try:
        with safe_open(path, framework="np") as file:
            shapes = [file.get_slice(name).get_shape() for name in file.keys()]  # noqa: SIM118 - it is no mapping
    except SafetensorError as error:
        return Finding(str(path), "safetensors", "", (f"cut short or no safetensors file ({error})",))
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
