"""Tables of any length written row group by row group, for other programs: CSV, JSON or Parquet."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import BinaryIO

import pyarrow as pa
import pyarrow.csv as pa_csv
import pyarrow.parquet as pq

from cdgmae.storage.files.atomic import atomic_file


def write_csv_rows(parts: Iterable[pa.Table], schema: pa.Schema, file: BinaryIO) -> int:
    """Write rows as CSV with a header, text quoted, a missing value empty; the number of rows."""
    count = 0
    with pa_csv.CSVWriter(file, schema) as writer:
        for part in parts:
            writer.write_table(part.cast(schema))
            count += part.num_rows
    return count


def write_json_rows(parts: Iterable[pa.Table], schema: pa.Schema, file: BinaryIO) -> int:
    """Write rows as one JSON array of objects; the number of rows."""
    count = 0
    file.write(b"[")
    for part in parts:
        rows = json.dumps(part.select(schema.names).to_pylist())[1:-1]
        file.write(f"{', ' if rows and count else ''}{rows}".encode())
        count += part.num_rows
    file.write(b"]")
    return count


def write_parquet_rows(parts: Iterable[pa.Table], schema: pa.Schema, file: BinaryIO) -> int:
    """Write rows as Parquet; the number of rows."""
    count = 0
    with pq.ParquetWriter(file, schema, compression="zstd") as writer:
        for part in parts:
            writer.write_table(part.cast(schema))
            count += part.num_rows
    return count


RowWriter = Callable[[Iterable[pa.Table], pa.Schema, BinaryIO], int]
ENDINGS: dict[str, RowWriter] = {".csv": write_csv_rows, ".json": write_json_rows, ".parquet": write_parquet_rows}


def write_rows(path: Path, parts: Iterable[pa.Table], schema: pa.Schema) -> int:
    """Write rows in the format that the file's ending names; the file appears whole or not at all.

    Args:
        path: Ends in one of `ENDINGS`.
        parts: Tables with the columns of `schema`.
        schema: Columns.

    Returns:
        The number of rows.

    Raises:
        ValueError: for another ending.
    """
    if path.suffix not in ENDINGS:
        raise ValueError(f"--output {path}: the ending must be one of {', '.join(ENDINGS)}")
    with atomic_file(path) as temporary, temporary.open("wb") as file:
        return ENDINGS[path.suffix](parts, schema, file)
