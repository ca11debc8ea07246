"""Shards copied to a local disk: once, whole, and only if they fit."""

from __future__ import annotations

import multiprocessing
import shutil
from pathlib import Path
from typing import NamedTuple

import pytest

from cdgmae.storage.files.local_copy import copy_to_local_disk
from cdgmae.storage.image_shards import ImageRow, ImageShardWriter, index_path
from cdgmae.storage.verify import verify_file


def write(tar: Path, fill: int) -> Path:
    with ImageShardWriter(tar) as writer:
        writer.add_image(ImageRow("a", 0, extension="jpg"), bytes([fill]) * 5000)
        writer.commit(settings_digest="test")
    return tar


def shards(folder: Path) -> list[Path]:
    return [write(folder / part / "00000.tar", number) for number, part in enumerate(("shards/x", "views/x", "views/y"))]


def times(copies: list[Path]) -> list[int]:
    return [copy.stat().st_mtime_ns for copy in copies]


def test_copies_are_whole_and_are_used_again(tmp_path: Path) -> None:
    tars = shards(tmp_path)
    copies = copy_to_local_disk(tars, tmp_path / "local")
    assert [copy.read_bytes() for copy in copies] == [tar.read_bytes() for tar in tars]
    assert all(verify_file(copy).ok for copy in copies)
    first = times(copies)
    assert copy_to_local_disk(tars, tmp_path / "local") == copies
    assert times(copies) == first


def test_what_is_cut_short_stale_or_without_index_is_copied_again(tmp_path: Path) -> None:
    tars = shards(tmp_path)
    copies = copy_to_local_disk(tars, tmp_path / "local")
    copies[0].write_bytes(copies[0].read_bytes()[:100])
    index_path(copies[1]).unlink()
    write(tars[2], 9)
    copy_to_local_disk(tars, tmp_path / "local")
    assert [copy.read_bytes() for copy in copies] == [tar.read_bytes() for tar in tars]
    assert all(verify_file(copy).ok for copy in copies)


class Usage(NamedTuple):
    total: int
    used: int
    free: int


def test_a_disk_too_small_is_refused_before_anything_is_copied(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tars = shards(tmp_path)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: Usage(10**9, 10**9 - 20_000, 20_000))
    with pytest.raises(ValueError, match=r"local has 0\.0 GB free, the shards need .*; choose another runtime"):
        copy_to_local_disk(tars, tmp_path / "local")
    assert list((tmp_path / "local").iterdir()) == []
    assert len(copy_to_local_disk(tars[:1], tmp_path / "local")) == 1


def test_incomplete_shards_are_refused(tmp_path: Path) -> None:
    tars = shards(tmp_path)
    tars[1].write_bytes(tars[1].read_bytes()[:100])
    with pytest.raises(ValueError, match="truncated"):
        copy_to_local_disk(tars, tmp_path / "local")


def _stage(tars: list[Path], folder: Path) -> list[Path]:
    return copy_to_local_disk(tars, folder)


def test_ranks_of_one_node_copy_once(tmp_path: Path) -> None:
    tars = shards(tmp_path)
    with multiprocessing.get_context("fork").Pool(3) as pool:
        found = pool.starmap(_stage, [(tars, tmp_path / "local")] * 3)
    assert found[0] == found[1] == found[2]
    assert all(verify_file(copy).ok for copy in found[0])
    assert not list((tmp_path / "local").glob(".*"))
