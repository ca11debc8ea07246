from __future__ import annotations

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from cdgmae import __version__
from cdgmae.storage.tables import TableError, file_sha256, read_table, table_metadata, write_csv, write_table

SCHEMA = pa.schema([pa.field("key", pa.string(), nullable=False), pa.field("score", pa.float64())])


def test_rows_and_provenance_come_back(tmp_path: Path) -> None:
    path = tmp_path / "t.parquet"
    write_table(path, [{"key": "a", "score": 0.5}, {"key": "b"}], SCHEMA, settings_digest="d", inputs={"x": "1"}, extra={"n": 2})
    assert read_table(path).to_pylist() == [{"key": "a", "score": 0.5}, {"key": "b", "score": None}]
    assert read_table(path, ["score"]).column_names == ["score"]
    assert table_metadata(path) == {"version": __version__, "settings": "d", "inputs": {"x": "1"}, "n": 2}


def test_equal_tables_are_equal_files(tmp_path: Path) -> None:
    for name in ("a", "b"):
        write_table(tmp_path / name, [{"key": "a"}], SCHEMA)
    assert file_sha256(tmp_path / "a") == file_sha256(tmp_path / "b")


@pytest.mark.parametrize("row", [{"key": "a", "extra": 1}, {"key": "a", "score": "high"}])
def test_rows_outside_the_schema_are_refused_and_nothing_is_written(tmp_path: Path, row: dict) -> None:
    with pytest.raises(TableError, match=r"t\.parquet"):
        write_table(tmp_path / "t.parquet", [row], SCHEMA)
    assert list(tmp_path.iterdir()) == []


def test_a_table_without_a_schema_column_is_refused(tmp_path: Path) -> None:
    with pytest.raises(TableError, match="schema"):
        write_table(tmp_path / "t.parquet", pa.table({"key": ["a"]}), SCHEMA)


def test_missing_truncated_and_foreign_files_are_named(tmp_path: Path) -> None:
    path = tmp_path / "t.parquet"
    with pytest.raises(TableError, match=r"t\.parquet is not there; check the path, or make it with"):
        read_table(path)
    write_table(path, [{"key": "a"}], SCHEMA)
    with pytest.raises(TableError, match=r"t\.parquet"):
        read_table(path, ["missing"])
    path.write_bytes(path.read_bytes()[:-10])
    for action in (read_table, table_metadata):
        with pytest.raises(TableError, match=r"t\.parquet"):
            action(path)


def test_a_small_file_that_claims_a_billion_rows_is_not_read(tmp_path: Path) -> None:
    path, schema = tmp_path / "t.parquet", pa.schema([("key", pa.string())])
    rows = pa.table({"key": pa.repeat("a", 1 << 20)}, schema=schema)
    with pq.ParquetWriter(path, schema) as writer:
        for _ in range(2):
            writer.write_table(rows)
    with pytest.raises(TableError, match=r"t\.parquet cannot be read as a table: 2097152 rows in \d+ bytes"):
        read_table(path)


def test_csv_is_for_people(tmp_path: Path) -> None:
    write_csv(tmp_path / "t.csv", pa.table({"name": ["a"], "score": [1 / 3]}))
    assert (tmp_path / "t.csv").read_text() == "name,score\na,0.333333\n"
