"""Parquet tables with a fixed schema, written atomically, with their provenance in the file metadata."""

from __future__ import annotations

import hashlib
import json
import stat
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from cdgmae import __version__
from cdgmae.names import how_to_make, how_to_remake
from cdgmae.storage.files.atomic import atomic_file, write_bytes

METADATA_KEY = b"cdgmae"
UNCHECKED_ROWS = 1_000_000
"""A longer table has at least a byte for every row; one that claims more would unfold into all of the memory."""


class TableError(ValueError):
    """A table cannot be read or does not follow its schema."""


def file_sha256(path: Path) -> str:
    """SHA-256 of a file's bytes as hex."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def stats_digest(paths: Iterable[Path]) -> str:
    """Digest of sizes and times of change, which stands for the content of users' files; a folder's time is that of its entries.

    The mode counts where not everyone may read: a file that was unreadable, and no longer is, is another one.
    """
    digest = hashlib.sha256()
    for path in paths:
        try:
            status = path.stat()
        except OSError as error:  # what cannot be read has a reason in the result
            state: object = error.errno
        else:
            private = () if status.st_mode & stat.S_IROTH else (status.st_mode,)
            state = (status.st_size, status.st_mtime_ns, *private)
        digest.update(f"{path.name} {state}\n".encode(errors="surrogateescape"))
    return digest.hexdigest()


def write_table(
    path: Path,
    rows: Sequence[Mapping[str, Any]] | pa.Table,
    schema: pa.Schema,
    *,
    settings_digest: str = "",
    inputs: Mapping[str, str] | None = None,
    extra: Mapping[str, Any] | None = None,
) -> None:
    """Write rows as one Parquet file that appears whole or not at all.

    Args:
        path: Final file name.
        rows: Rows as mappings (missing columns become null) or a ready table.
        schema: Columns, order and types.
        settings_digest: Digest of the settings that made the table.
        inputs: Name -> SHA-256 (or digest) of what the table was made from.
        extra: More JSON-able metadata for the metadata.

    Raises:
        TableError: if a value does not fit its column or a column is unknown.
    """
    try:
        if not isinstance(rows, pa.Table):
            unknown = {name for row in rows for name in row} - set(schema.names)
            if unknown:
                raise TableError(f"{path}: column(s) {sorted(unknown)} are not in the schema {schema.names}")
            rows = pa.Table.from_pylist([dict(row) for row in rows], schema=schema)
        table = rows.select(schema.names).cast(schema)
    except (pa.ArrowInvalid, pa.ArrowTypeError, KeyError) as error:
        raise TableError(f"{path}: rows do not follow the schema: {error}") from None
    metadata = {"version": __version__, "settings": settings_digest, "inputs": dict(inputs or {}), **(extra or {})}
    table = table.replace_schema_metadata({METADATA_KEY: json.dumps(metadata, sort_keys=True).encode()})
    with atomic_file(path) as temporary:
        pq.write_table(table, temporary, compression="zstd", write_page_checksum=True)


def read_table(path: Path, columns: Sequence[str] | None = None) -> pa.Table:
    """Read a Parquet file, all or some columns.

    Raises:
        TableError: if the file is missing, truncated or lacks a column.
    """
    try:
        # `pq.read_table` builds a data set around the file, which takes longer than reading it
        with pq.ParquetFile(path, page_checksum_verification=True) as file:
            if file.metadata.num_rows > max(UNCHECKED_ROWS, path.stat().st_size):
                raise pa.ArrowInvalid(f"{file.metadata.num_rows} rows in {path.stat().st_size} bytes")
            if columns is None:
                return file.read()
            missing = set(columns) - set(file.schema_arrow.names)
            if missing:
                raise KeyError(f"no column {', '.join(sorted(missing))}")
            return file.read(columns=list(columns)).select(list(columns))
    except (OSError, pa.ArrowException, KeyError) as error:
        raise _unreadable(path, error) from None


def table_metadata(path: Path) -> dict[str, Any]:
    """The provenance written by `write_table`: version, settings, inputs and extras; empty for foreign files."""
    try:
        schema = pq.read_schema(path)
    except (OSError, pa.ArrowException) as error:
        raise _unreadable(path, error) from None
    return metadata_of(schema, path)


def _unreadable(path: Path, error: Exception) -> TableError:
    if not path.exists():
        return TableError(f"{path} is not there; {how_to_make(path)}")
    return TableError(f"{path} cannot be read as a table: {error}; {how_to_remake(path)}")


def metadata_of(schema: pa.Schema, path: Path) -> dict[str, Any]:
    """The provenance in the schema of a table that was read from `path`, as `table_metadata`; it has no checksum of its own.

    Raises:
        TableError: if it is damaged.
    """
    try:
        metadata: dict[str, Any] = json.loads((schema.metadata or {}).get(METADATA_KEY, b"{}"))
    except ValueError as error:
        raise _unreadable(path, error) from None
    return metadata


def write_csv(path: Path, table: pa.Table) -> None:
    """Write a small table as CSV for people, numbers with six significant digits."""
    frame = table.to_pandas()
    write_bytes(path, frame.to_csv(index=False, float_format="%.6g").encode())


def folder_digest(folder: Path) -> str:
    """First 12 hex digits of the SHA-256 over names and contents of a folder's files, hidden ones left out."""
    digest = hashlib.sha256()
    for file in sorted(folder.rglob("*")):
        inside = file.relative_to(folder)
        if file.is_file() and not any(part.startswith(".") for part in inside.parts):
            digest.update(f"{inside.as_posix()} {file_sha256(file)}\n".encode())
    return digest.hexdigest()[:12]
