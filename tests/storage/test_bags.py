"""Bags joined from shards, their weights, and random reads from many tars."""

from __future__ import annotations

import os
import pickle
import threading
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from PIL import Image

from cdgmae.storage import bags as bags_module
from cdgmae.storage import tar_reads
from cdgmae.storage.bags import Bags
from cdgmae.storage.image_shards import BAD, ImageRow, ImageShard, ImageShardWriter
from cdgmae.storage.media.images import ImageError, encode_jpeg
from cdgmae.storage.tables import write_table
from cdgmae.storage.tar_reads import TarReader
from cdgmae.storage.view_weights import ViewWeights

SCORES = pa.schema(
    {
        "key": pa.string(),
        "view_a": pa.int32(),
        "view_b": pa.int32(),
        **dict.fromkeys(("gs", "ls", "nps", "nps_reverse"), pa.float32()),
    }
)


def write(
    tar: Path, images: Sequence[tuple[str, int, bytes]], bad: Sequence[tuple[str, int]] = (), width: int | None = 7
) -> Path:
    with ImageShardWriter(tar) as writer:
        for key, view_index, data in images:
            writer.add_image(ImageRow(key, view_index, extension="jpg", width=width, height=5), data)
        for key, view_index in bad:
            writer.add_failure(ImageRow(key, view_index, status=BAD, reason="empty file"))
        writer.commit(settings_digest="test")
    return tar


def views_of(store: Bags) -> dict[str, list[int]]:
    bags = [store.bag(position) for position in range(len(store))]
    return {bag.key: bag.view_indices for bag in bags}


def three_bags(folder: Path) -> tuple[list[Path], list[Path]]:
    reals = [write(folder / "r0.tar", [("b", 0, b"B"), ("a", 0, b"A")], [("z", 0)]), write(folder / "r1.tar", [("c", 0, b"CC")])]
    views = [
        write(folder / "v1.tar", [("c", 1, b"C1"), ("a", 3, b"A3"), ("a", 1, b"A1")]),
        write(folder / "v2.tar", [("a", 2, b"A2")], [("b", 1)]),
    ]
    return reals, views


def test_bags_join_real_images_and_views_by_key(tmp_path: Path) -> None:
    reals, views = three_bags(tmp_path)
    store = Bags(reals, views).usable()
    assert views_of(store) == {"a": [0, 1, 2, 3], "b": [0], "c": [0, 1]}
    assert list(views_of(store)) == ["a", "b", "c"]
    assert [store.read(row) for row in store.bag(0).rows] == [b"A", b"A1", b"A2", b"A3"]
    assert store.bag(2).sizes == [(7, 5), (7, 5)]
    assert store.decoded_bytes == 7 * 7 * 5 * 3
    few = Bags(reals, views).usable(min_views=1)
    assert (list(views_of(few)), few.bags_left_out) == (["a", "c"], 1)
    assert [few.read(row) for row in few.bag(1).rows] == [b"CC", b"C1"]


def test_views_of_other_images_and_empty_stores_are_refused(tmp_path: Path) -> None:
    reals, stray = [write(tmp_path / "r.tar", [("a", 0, b"A")])], [write(tmp_path / "v.tar", [("z", 1, b"Z"), ("y", 1, b"Y")])]
    with pytest.raises(ValueError, match=r"views without a real image: \{'.*v.tar': 2\}, e.g. 'z'"):
        Bags(reals, stray)
    with pytest.raises(ValueError, match="no bag has 1 generated"):
        Bags(reals).usable(min_views=1)
    with pytest.raises(ValueError, match=r"'a' is there twice: .*r.tar, view 0"):
        Bags([*reals, *reals])
    with pytest.raises(ValueError, match=r"w.parquet: a row with status ok has no width"):
        Bags([write(tmp_path / "w.tar", [("a", 0, b"A")], width=None)])


def write_scores(path: Path, rows: Sequence[tuple[str, int, float | None, float | None]]) -> Path:
    pairs = [
        {"key": key, "view_a": 0, "view_b": view, "gs": gs, "ls": 0.5, "nps": nps, "nps_reverse": nps}
        for key, view, gs, nps in rows
    ]
    write_table(path, pairs, SCORES)
    return path


def test_views_are_filtered_and_weighted_by_their_scores(tmp_path: Path) -> None:
    reals, views = three_bags(tmp_path)
    tables = [
        write_scores(tmp_path / "0.parquet", [("a", 1, 0.95, 0.7), ("a", 2, 0.95, 0.5), ("unknown", 1, 0.95, 0.9)]),
        write_scores(tmp_path / "1.parquet", [("a", 3, 0.99, -0.2), ("c", 1, None, None)]),
    ]
    passing = Bags(reals, views).usable(weights=ViewWeights(tables, "nps >= 0.6 and gs >= 0.9"))
    assert views_of(passing) == {"a": [0, 1], "b": [0], "c": [0]}
    assert passing.bag(0).weights is None
    weighted = Bags(reals, views).usable(min_views=1, weights=ViewWeights(tables, None, "nps"))
    assert views_of(weighted) == {"a": [0, 1, 2]}
    assert weighted.bags_left_out == 2
    weights = weighted.bag(0).weights
    assert weights is not None
    np.testing.assert_allclose(weights, [1.0, 0.7, 0.5], rtol=1e-6)
    with pytest.raises(ValueError, match="may be drawn by view_filter and view_weight"):
        Bags(reals, views).usable(min_views=1, weights=ViewWeights(tables, "gs > 2"))


def test_many_tars_are_read_through_few_descriptors_from_threads_forks_and_pickles(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tar_reads, "MAX_OPEN", 5)
    paths = [tmp_path / f"{number}.tar" for number in range(40)]
    for number, path in enumerate(paths):
        path.write_bytes(bytes([number]) * 1000)
    reader, before = TarReader(paths), len(os.listdir("/proc/self/fd"))
    wrong: list[int] = []

    def read_all(offset: int) -> None:
        for step in range(400):
            number = (step * 7 + offset) % 40
            if reader.read(number, offset, 3) != bytes([number]) * 3:
                wrong.append(number)

    threads = [threading.Thread(target=read_all, args=(offset,)) for offset in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []
    assert len(os.listdir("/proc/self/fd")) - before <= 5
    assert pickle.loads(pickle.dumps(reader)).read(3, 0, 2) == b"\x03\x03"
    child = os.fork()
    if child == 0:
        os._exit(0 if reader.read(9, 0, 1) == b"\x09" and len(reader._open) == 1 else 1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    with pytest.raises(ValueError, match="truncated"):
        reader.read(0, 999, 2)
    with pytest.raises(ValueError, match="cannot be opened"):
        TarReader([tmp_path / "gone.tar"]).read(0, 0, 1)


def test_failures_stay_in_the_bags_with_their_reason_until_usable_ones_are_asked_for(tmp_path: Path) -> None:
    reals, views = three_bags(tmp_path)
    bags = Bags(reals, views)
    assert views_of(bags) == {"a": [0, 1, 2, 3], "b": [0, 1], "c": [0, 1], "z": [0]}
    assert (list(bags), bags.keys, "b" in bags, "bb" in bags) == (["a", "b", "c", "z"], ["a", "b", "c", "z"], True, False)
    real, view = bags.bag(bags.position("b")).rows
    assert (bags.is_good(real), bags.is_good(view), bags.row(view).reason) == (True, False, "empty file")
    for read in (bags.read_checked, bags.image):
        with pytest.raises(ImageError, match="empty file"):
            read(view)
    with pytest.raises(KeyError):
        bags.position("bb")
    assert Bags(reals).usable().keys == ["a", "b", "c"]
    with pytest.raises(ValueError, match=r"no usable image in .*n.tar; see status and reason"):
        Bags([write(tmp_path / "n.tar", [], [("z", 0)])]).usable()


def test_single_images_are_read_by_key_and_held_against_their_checksum(tmp_path: Path) -> None:
    reals, views = three_bags(tmp_path)
    images = {("c", 2): Image.new("RGB", (9, 5), (200, 30, 60))}
    views.append(write(tmp_path / "v3.tar", [("c", 2, encode_jpeg(images["c", 2], 95))], width=9))
    bags = pickle.loads(pickle.dumps(Bags(reals, views)))
    bag = bags.bag(bags.position("c"))
    assert bag.sizes == [(7, 5), (7, 5), (9, 5)]
    assert [bags.read_checked(row) for row in bag.rows[:2]] == [b"CC", b"C1"]
    assert np.abs(np.asarray(bags.image(bag.rows[2]), int) - np.asarray(images["c", 2], int)).max() <= 2
    with pytest.raises(ImageError, match="not an image of a known format"):
        bags.image(bag.rows[1])
    tar = views[0].read_bytes()
    views[0].write_bytes(tar.replace(b"C1", b"C9"))
    with pytest.raises(ValueError, match=r"changed after its index was written.*make it again"):
        Bags(reals, views)
    os.utime(views[0], (1, 1))  # damage that nobody wrote
    for opened in (bags, Bags(reals, views).usable(), pickle.loads(pickle.dumps(bags))):
        with pytest.raises(ImageError, match="bytes differ from the SHA-256"):
            opened.read(opened.bag(opened.position("c")).rows[1])


def test_no_flipped_bit_of_an_image_is_read(tmp_path: Path) -> None:
    keys = [f"k{number}" for number in range(8)]
    jpeg = encode_jpeg(Image.radial_gradient("L").convert("RGB"), 90)
    tar = write(tmp_path / "r.tar", [(key, 0, jpeg) for key in keys], width=256)
    whole = tar.read_bytes()
    rng = np.random.default_rng(0)
    for trial in range(40):
        bags, shard = Bags([tar]), ImageShard(tar)
        bag = bags.bag(trial % len(keys))
        row = bags.row(bag.rows[0])
        damaged = bytearray(whole)
        damaged[row.offset + int(rng.integers(row.length))] ^= 1 << int(rng.integers(8))
        tar.write_bytes(damaged)
        for read, place in ((bags.read, bag.rows[0]), (bags.image, bag.rows[0]), (shard.read, row)):
            with pytest.raises(ImageError, match="bytes differ from the SHA-256"):
                read(place)
        tar.write_bytes(whole)


def test_indices_of_many_shards_are_not_all_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bags_module, "MAX_INDICES", 2)
    tars = [write(tmp_path / f"{number}.tar", [(f"k{number}", 0, bytes([number]) * 9)]) for number in range(6)]
    bags = Bags(tars)
    assert [bags.row(row).key for row in (*range(6), *range(6))] == 2 * bags.keys
    assert [bags.read_checked(row) for row in range(6)] == [bytes([number]) * 9 for number in range(6)]
    assert len(bags._indices) == 2
