"""Source kind random: other images, drawn by (seed, key, index) whatever the shards, copied byte for byte."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from cdgmae.storage.image_shards import ImageRow, ImageShard, ImageShardWriter
from cdgmae.views.gathering.copying import DataSetImages
from cdgmae.views.gathering.random_views import gather_random
from cdgmae.views.sources.random import RandomViews
from tests.generators.conftest import KEYS, image, write_shard


def gather(tars: list[Path], output: Path, num_views: int = 3, seed: int = 0) -> dict[tuple[str, int], ImageRow]:
    rows = {}
    for number, tar in enumerate(tars):
        target = output / f"{number}.tar"
        result = gather_random(RandomViews(num_views=num_views), seed, tar, DataSetImages(tars), target)
        shard = ImageShard(target)
        rows.update({(row.key, row.view_index): row for row in shard.rows()})
        assert all(shard.read(row) == image(row.source_path or "") for row in shard.rows())
        assert result["views"] == result["images"] * num_views
    return rows


def test_views_are_other_images_whatever_the_shards(tmp_path: Path) -> None:
    whole = write_shard(tmp_path / "whole" / "00000.tar", KEYS, bad=["gnu"])
    halves = [write_shard(tmp_path / "halves" / f"0000{n}.tar", KEYS[n::2]) for n in (0, 1)]
    one = gather([whole], tmp_path / "one")
    assert list(one) == [(key, k) for key in KEYS for k in (1, 2, 3)]
    for key in KEYS:
        assert len({key, *(one[key, k].source_path for k in (1, 2, 3))}) == 4
    two = gather(halves, tmp_path / "two")
    assert {view: row.source_path for view, row in two.items()} == {view: row.source_path for view, row in one.items()}
    more = gather([whole], tmp_path / "more", num_views=4)
    assert all(more[view].source_path == row.source_path and more[view].seed == row.seed for view, row in one.items())
    other = gather([whole], tmp_path / "other", seed=1)
    assert any(other[view].source_path != row.source_path for view, row in one.items())
    row = one["bee", 2]
    assert (row.sampler, row.class_name, row.width, row.height) == ("random", "animal", 32, 24)


def test_equal_files_are_one_image(tmp_path: Path) -> None:
    tar = tmp_path / "00000.tar"
    with ImageShardWriter(tar) as writer:
        for key in ("a", "b", "c", "d"):
            writer.add_image(ImageRow(key, 0, extension="jpg", width=32, height=24), image("same" if key != "d" else "d"))
        writer.commit(settings_digest="test")
    gather_random(RandomViews(num_views=1), 0, tar, DataSetImages([tar]), tmp_path / "views.tar")
    assert [row.source_path == "d" for row in ImageShard(tmp_path / "views.tar").rows()] == [True, True, True, False]
    with pytest.raises(ValueError, match=r"num_views = 2, but the data set has only 2 different image"):
        gather_random(RandomViews(num_views=2), 0, tar, DataSetImages([tar]), tmp_path / "views.tar")


def test_bytes_that_changed_since_they_were_packed_are_not_copied(tmp_path: Path) -> None:
    tar = write_shard(tmp_path / "00000.tar", KEYS)
    data = bytearray(tar.read_bytes())
    for row in ImageShard(tar).rows():
        data[(row.offset or 0) + 30] ^= 1
    tar.write_bytes(bytes(data))
    os.utime(tar, (1, 1))  # damage that nobody wrote
    with pytest.raises(ValueError, match="bytes differ from the SHA-256 in the index; delete it"):
        gather_random(RandomViews(num_views=2), 0, tar, DataSetImages([tar]), tmp_path / "views.tar")
    assert not (tmp_path / "views.tar").exists()
