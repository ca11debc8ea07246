from __future__ import annotations

import io
import json
import re
import tarfile
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from safetensors.numpy import save_file

from cdgmae.storage.files.records import record_path, write_record
from cdgmae.storage.image_shards import ImageRow, ImageShardWriter, index_path
from cdgmae.storage.tables import write_table
from cdgmae.storage.verify import Finding, files_to_verify, verify_file, verify_paths


@pytest.fixture
def shard(tmp_path: Path) -> Path:
    with ImageShardWriter(tmp_path / "0.tar") as writer:
        for i in range(4):
            writer.add_image(ImageRow(f"k{i}", 0, extension="jpg"), bytes([65 + i]) * 700)
        writer.commit(settings_digest="x")
    return tmp_path / "0.tar"


def change_index(shard: Path, column: str, value: object, row: int = 1) -> None:
    table = pq.read_table(index_path(shard))
    values = table[column].to_pylist()
    values[row] = value
    position = table.schema.get_field_index(column)
    pq.write_table(
        table.set_column(position, table.schema.field(column), pa.array(values, table.schema.field(column).type)),
        index_path(shard),
    )


def test_one_changed_byte_in_a_image_is_found_and_named(shard: Path) -> None:
    content = bytearray(shard.read_bytes())
    content[content.index(b"CCCC") + 5] ^= 1
    shard.write_bytes(content)
    problems = verify_file(shard).problems
    assert problems[0].startswith("image k2.0: its bytes do not have the sha256")
    assert "the tar does not have the sha256" in problems[1]


def test_one_changed_byte_in_a_tar_header_is_found(shard: Path) -> None:
    content = bytearray(shard.read_bytes())
    content[content.index(b"k3.0.jpg")] = ord("z")
    shard.write_bytes(content)
    assert not verify_file(shard).ok


def test_a_member_without_a_row_is_found(shard: Path) -> None:
    with tarfile.open(shard, "a") as tar:
        info = tarfile.TarInfo("extra.0.jpg")
        info.size = 3
        tar.addfile(info, io.BytesIO(b"abc"))
    assert not verify_file(shard).ok


@pytest.mark.parametrize(
    ("column", "value", "problem"),
    [
        ("key", "k0", "occurs twice"),
        ("status", "fine", "unknown status"),
        ("status", "bad", "bad without a reason"),
        ("sha256", None, "is empty"),
        ("offset", 512, "do not have the sha256|overlaps"),
        ("length", 5, "do not have the sha256"),
        ("extension", "png", "no row in the index"),
    ],
)
def test_an_index_that_does_not_fit_its_tar_is_found(shard: Path, column: str, value: object, problem: str) -> None:
    change_index(shard, column, value)
    assert any(re.search(problem, found) for found in verify_file(shard).problems), verify_file(shard).problems


def test_half_a_shard_is_found_from_either_side(shard: Path) -> None:
    index = index_path(shard)
    assert files_to_verify([index]) == [shard]
    kept = index.read_bytes()
    index.unlink()
    assert "incomplete" in verify_file(shard).problems[0]
    index.write_bytes(kept)
    shard.unlink()
    assert "without its tar" in verify_file(index).problems[0]


@pytest.mark.parametrize(
    ("damaged", "recorded"), [("tar", True), ("parquet", True), ("tar parquet", True), ("tar", False), ("parquet", False)]
)
def test_of_a_shard_exactly_what_is_damaged_is_deleted(shard: Path, damaged: str, recorded: bool) -> None:
    place = shard.parent / "results/shards/a"
    place.mkdir(parents=True)
    tar = place / "00000.tar"
    shard.replace(tar)
    index_path(shard).replace(index_path(tar))
    if recorded:
        write_record(record_path(tar), [tar, index_path(tar)], {})
    assert verify_file(tar).ok
    if "tar" in damaged:
        content = bytearray(tar.read_bytes())
        content[content.index(b"CCCC") + 5] ^= 1
        tar.write_bytes(content)
    if "parquet" in damaged:
        if recorded:
            index_path(tar).write_bytes(index_path(tar).read_bytes()[:-20])
        else:
            change_index(tar, "length", 5)
    finding = verify_file(tar)
    assert [path.suffix[1:] for path in finding.deletes] == damaged.split(), finding


def test_folders_are_walked_and_each_shard_counts_once(shard: Path) -> None:
    folder = shard.parent
    (folder / "deep").mkdir()
    write_table(folder / "deep/t.parquet", [{"a": 1}], pa.schema([("a", pa.int64())]), settings_digest="dig")
    (folder / "deep/notes.json").write_text(json.dumps({"a": 1}))
    (folder / "deep/.0.tar.tmp").write_text("left over")
    (folder / "notes.txt").write_text("passed over")
    save_file({"w": np.ones((2, 3), np.float32)}, folder / "deep/encoder.safetensors")
    findings = verify_paths([folder])
    assert [(Path(f.path).name, f.kind) for f in findings] == [
        ("0.tar", "shard"), ("encoder.safetensors", "safetensors"), ("notes.json", "json"), ("t.parquet", "table"),
    ]  # fmt: skip
    assert all(finding.ok for finding in findings)
    assert "6 values" in findings[1].detail
    assert "settings dig" in findings[3].detail


def test_cut_empty_and_foreign_files_are_problems(tmp_path: Path) -> None:
    save_file({"w": np.ones(100, np.float32)}, tmp_path / "whole.safetensors")
    whole = (tmp_path / "whole.safetensors").read_bytes()
    contents = {
        "cut.safetensors": whole[:-4],
        "longer.safetensors": whole + b"x",
        "stub.safetensors": whole[:5],
        "bad.json": b"{",
        "zero.parquet": b"",
        "plain.tar": b"x",
    }
    for name, data in contents.items():
        (tmp_path / name).write_bytes(data)
    write_table(tmp_path / "empty.parquet", [], pa.schema([("a", pa.int64())]))
    for finding in verify_paths([tmp_path]):
        assert finding.ok == finding.path.endswith("whole.safetensors"), finding
    assert verify_file(tmp_path / "nowhere").problems == ("there is no such file or folder",)
    (tmp_path / "x.txt").write_text("")
    assert "known endings" in verify_paths([tmp_path / "x.txt"])[0].problems[0]


@pytest.mark.parametrize(
    ("file", "deleted"),
    [
        ("results/views/a source/00001.tar", "'results/views/a source/00001.tar'"),
        ("/data/run/results/pretrain/cdg/seed0/model.safetensors", "/data/run/results/pretrain/cdg/seed0/model.safetensors"),
        ("results/generators/s_ldm/unet/model.safetensors", "results/generators/s_ldm"),
        ("results/generators/s_ldm/losses.parquet", "results/generators/s_ldm"),
        ("results/pretrain/cdg/seed0/panels/panels.json", "results/pretrain/cdg/seed0/panels"),
        ("results/propagation/cdg/strips/davis/strips.json", "results/propagation/cdg/strips/davis"),
        ("results/propagation/cdg/davis.parquet", "results/propagation/cdg/davis.parquet"),
        ("results/report/data/scores.json", "results/report"),
        ("/mnt/results/mine/results/report/index.json", "/mnt/results/mine/results/report"),
        ("elsewhere/00001.tar", None),
    ],
)
def test_a_damaged_file_is_named_with_what_to_delete(file: str, deleted: str | None) -> None:
    assert Finding(file, "kind", "", ("damaged",)).repair == (None if deleted is None else f"rm -r {deleted}")
    assert Finding(file, "kind", "").repair is None
