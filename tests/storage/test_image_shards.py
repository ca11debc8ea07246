from __future__ import annotations

import hashlib
import pickle
import random
import signal
import subprocess
import sys
import tarfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from cdgmae.storage.image_shards import BAD, LATER_COLUMNS, OK, ImageRow, ImageShard, ImageShardWriter, index_path
from cdgmae.storage.tables import TableError, file_sha256, table_metadata
from cdgmae.storage.verify import verify_file

IMAGES = {f"key{i}": bytes([i]) * (100 + 300 * i) for i in range(6)}


def write(tar: Path, images: dict[str, bytes] = IMAGES, view_index: int = 0) -> Path:
    with ImageShardWriter(tar) as writer:
        for key, data in images.items():
            writer.add_image(ImageRow(key, view_index, extension="jpg", class_name="c"), data)
        writer.add_failure(ImageRow("broken", view_index, status=BAD, reason="empty file"))
        writer.commit(settings_digest="abc", inputs={"manifest": "123"})
    return tar


def test_images_come_back_by_offset_and_the_index_says_what_they_are(tmp_path: Path) -> None:
    tar = write(tmp_path / "0.tar")
    shard = ImageShard(tar)
    assert {row.key: shard.read(row) for row in shard.rows(OK)} == IMAGES
    assert [(row.key, row.reason) for row in shard.rows(BAD)] == [("broken", "empty file")]
    for row in shard.rows(OK):
        assert row.sha256 == hashlib.sha256(IMAGES[row.key]).hexdigest()
    metadata = table_metadata(index_path(tar))
    assert (metadata["settings"], metadata["inputs"], metadata["tar_bytes"]) == ("abc", {"manifest": "123"}, tar.stat().st_size)
    assert metadata["tar_sha256"] == file_sha256(tar)
    assert verify_file(tar).ok


def test_the_tar_is_an_ordinary_one_and_its_bytes_depend_on_the_images_alone(tmp_path: Path) -> None:
    first, second = write(tmp_path / "a.tar"), write(tmp_path / "b.tar")
    assert first.read_bytes() == second.read_bytes()
    listed = subprocess.run(["tar", "-tf", str(first)], capture_output=True, text=True, check=True).stdout.split()
    assert listed == [f"{key}.0.jpg" for key in IMAGES]


def test_indices_of_earlier_versions_read_and_verify(tmp_path: Path) -> None:
    tar = write(tmp_path / "0.tar")
    index = pq.read_table(index_path(tar))
    pq.write_table(index.drop_columns(list(LATER_COLUMNS)), index_path(tar))
    assert [row.precision for row in ImageShard(tar).rows(OK)] == [None] * len(IMAGES)
    assert {row.key: ImageShard(tar).read(row) for row in ImageShard(tar).rows(OK)} == IMAGES
    assert verify_file(tar).ok
    index_path(tar).rename(tmp_path / "1.parquet")
    assert "index without its tar" in verify_file(tmp_path / "1.parquet").problems[0]
    pq.write_table(index.select(["key"]), index_path(tar))
    with pytest.raises(TableError, match="is no shard index: it lacks"):
        ImageShard(tar)


def test_leaving_without_commit_leaves_nothing(tmp_path: Path) -> None:
    with ImageShardWriter(tmp_path / "0.tar") as writer:
        writer.add_image(ImageRow("a", 0, extension="jpg"), b"x")
    assert list(tmp_path.iterdir()) == []


def test_rows_that_make_no_sense_are_refused(tmp_path: Path) -> None:
    with ImageShardWriter(tmp_path / "0.tar") as writer:
        with pytest.raises(ValueError, match="no extension"):
            writer.add_image(ImageRow("a", 0), b"x")
        with pytest.raises(ValueError, match="longer than 100 bytes"):
            writer.add_image(ImageRow("a" * 99, 0, extension="jpg"), b"x")
        with pytest.raises(ValueError, match="needs status 'bad' and a reason"):
            writer.add_failure(ImageRow("a", 0, status=BAD))


def test_a_tar_without_index_is_incomplete(tmp_path: Path) -> None:
    tar = write(tmp_path / "0.tar")
    index_path(tar).unlink()  # what a kill between the two leaves
    with pytest.raises(TableError, match="is not there; check the path, or make it with"):
        ImageShard(tar)
    assert "incomplete" in verify_file(tar).problems[0]


def test_a_truncated_or_missing_tar_is_named(tmp_path: Path) -> None:
    tar = write(tmp_path / "0.tar")
    tar.write_bytes(tar.read_bytes()[:2000])
    with pytest.raises(ValueError, match=r"0\.tar has 2000 bytes.*truncated"):
        ImageShard(tar)
    tar.unlink()
    with pytest.raises(ValueError, match="missing although its index is there"):
        ImageShard(tar)


def test_a_tar_cut_while_it_is_open_is_noticed(tmp_path: Path) -> None:
    tar = write(tmp_path / "0.tar")
    shard = ImageShard(tar)
    tar.write_bytes(tar.read_bytes()[:2000])
    with pytest.raises(ValueError, match="ends before byte"):
        shard.read(list(shard.rows(OK))[-1])
    with pytest.raises(ValueError, match=r"has no image \(empty file\)"):
        shard.read(next(shard.rows(BAD)))


def test_many_threads_and_copies_in_other_processes_read_the_same(tmp_path: Path) -> None:
    shard = ImageShard(write(tmp_path / "0.tar"))
    rows = list(shard.rows(OK)) * 50
    with ThreadPoolExecutor(8) as pool:
        assert list(pool.map(shard.read, rows)) == [IMAGES[row.key] for row in rows]
    copy = pickle.loads(pickle.dumps(shard))
    assert copy.read(rows[0]) == IMAGES[rows[0].key]


WRITER = """
import sys
from pathlib import Path
from cdgmae.storage.image_shards import ImageRow, ImageShardWriter
print("ready", flush=True)
for attempt in range(10_000):
    with ImageShardWriter(Path(sys.argv[1])) as writer:
        for i in range(20):
            writer.add_image(ImageRow(f"k{i}", 0, extension="jpg"), bytes([attempt % 251]) * (1000 + attempt))
        writer.commit(settings_digest=str(attempt))
"""


def test_a_writer_killed_at_any_moment_leaves_a_whole_shard_or_none(tmp_path: Path) -> None:
    tar = tmp_path / "0.tar"
    delays = random.Random(0)
    for _ in range(4):
        process = subprocess.Popen([sys.executable, "-c", WRITER, str(tar)], stdout=subprocess.PIPE)
        assert process.stdout is not None
        process.stdout.readline()
        time.sleep(delays.uniform(0.02, 0.3))
        process.send_signal(signal.SIGKILL)
        process.wait()
        process.stdout.close()
        if index_path(tar).exists():
            assert verify_file(tar).problems == ()
        else:
            with pytest.raises(TableError):
                ImageShard(tar)
    write(tar)
    assert verify_file(tar).ok
    assert {path.name for path in tmp_path.glob("[!.]*")} == {"0.tar", "0.parquet"}


def test_tar_members_and_rows_agree_for_tarfile(tmp_path: Path) -> None:
    tar = write(tmp_path / "0.tar")
    rows = list(ImageShard(tar).rows(OK))
    with tarfile.open(tar) as opened:
        assert [(m.offset_data, m.size) for m in opened] == [(row.offset, row.length) for row in rows]
