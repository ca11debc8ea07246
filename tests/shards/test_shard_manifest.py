from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from cdgmae.settings.shards import DatasetSettings
from cdgmae.shards.manifest import MANIFEST_SCHEMA, image_count, shard_rows, write_manifest

Make = Callable[..., Path]
Dataset = Callable[..., DatasetSettings]
NAMES = [f"c{i % 3}/{i:02d}.jpg" for i in range(23)]


def test_every_image_goes_to_one_shard_and_sizes_differ_by_at_most_one(make_tree: Make, dataset: Dataset, tmp_path: Path) -> None:
    settings = dataset(make_tree(*NAMES), num_shards=5)
    result = write_manifest(settings, 0, tmp_path / "m.parquet")
    table = pq.read_table(tmp_path / "m.parquet")
    assert table.schema.remove_metadata() == MANIFEST_SCHEMA
    assert result["images"] == image_count(tmp_path / "m.parquet") == 23
    assert result["classes"] == 3
    counts = np.bincount(table["shard"].to_numpy(), minlength=5)
    assert counts.sum() == 23
    assert counts.max() - counts.min() <= 1
    keys = [row["key"] for shard in range(5) for row in shard_rows(tmp_path / "m.parquet", settings, shard)]
    assert sorted(keys) == sorted(table["key"].to_pylist())
    for shard in range(5):
        own = [row["key"] for row in shard_rows(tmp_path / "m.parquet", settings, shard)]
        assert own == sorted(own)


def test_the_manifest_depends_on_the_seed_and_the_images_alone(make_tree: Make, dataset: Dataset, tmp_path: Path) -> None:
    first, second = make_tree(*NAMES, root="one"), make_tree(*reversed(NAMES), root="two")
    for name in NAMES:  # same bytes although created in another order
        (second / name).write_bytes((first / name).read_bytes())
    write_manifest(dataset(first, num_shards=4), 7, tmp_path / "a.parquet")
    write_manifest(dataset(second, num_shards=4), 7, tmp_path / "b.parquet")
    write_manifest(dataset(first, num_shards=4), 8, tmp_path / "c.parquet")
    assert (tmp_path / "a.parquet").read_bytes() == (tmp_path / "b.parquet").read_bytes()
    assert pq.read_table(tmp_path / "a.parquet")["shard"] != pq.read_table(tmp_path / "c.parquet")["shard"]


def test_by_hash_images_that_come_or_go_change_their_own_shards_alone(make_tree: Make, dataset: Dataset, tmp_path: Path) -> None:
    images, manifest = [f"c/{i:03d}.jpg" for i in range(400)], tmp_path / "m.parquet"

    def shards(name: str, assignment: str, images: list[str], seed: int = 0) -> list[list[str]]:
        settings = dataset(make_tree(*images, root=name), num_shards=10).model_copy(update={"assignment": assignment})
        write_manifest(settings, seed, manifest)
        return [[row["key"] for row in shard_rows(manifest, settings, shard)] for shard in range(10)]

    before = shards("before", "hash", images)
    assert sum(map(len, before)) == 400
    assert 20 <= min(map(len, before)) <= max(map(len, before)) <= 60  # as 400 random draws from 10
    assert shards("before", "hash", images, seed=1) == before
    after = shards("after", "hash", [*images[1:], "c/new.jpg"])
    changed = {number for number in range(10) if before[number] != after[number]}
    assert changed == {number for number in range(10) if "000" in before[number] or "new" in after[number]}
    assert 1 <= len(changed) <= 2
    shuffled = shards("before", "shuffle", images)
    assert (
        sum(one != other for one, other in zip(shuffled, shards("after", "shuffle", [*images, "c/new.jpg"]), strict=True)) == 10
    )


def test_a_shard_that_the_hash_leaves_empty_is_refused(make_tree: Make, dataset: Dataset, tmp_path: Path) -> None:
    settings = dataset(make_tree(*NAMES), num_shards=20).model_copy(update={"assignment": "hash"})
    with pytest.raises(ValueError, match=r"leaves \d+ of num_shards = 20 shard\(s\) without an image.*assignment: shuffle"):
        write_manifest(settings, 0, tmp_path / "m.parquet")


def test_more_shards_than_images_is_refused_with_the_number(make_tree: Make, dataset: Dataset, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"num_shards = 9.*only 2 image.*at most 2"):
        write_manifest(dataset(make_tree("a/1.jpg", "a/2.jpg"), num_shards=9), 0, tmp_path / "m.parquet")
    assert not (tmp_path / "m.parquet").exists()


def test_settings_that_do_not_fit_the_manifest_are_refused(make_tree: Make, dataset: Dataset, tmp_path: Path) -> None:
    root = make_tree(*NAMES)
    write_manifest(dataset(root, num_shards=4), 0, tmp_path / "m.parquet")
    with pytest.raises(ValueError, match="num_shards = 4, the settings say 5"):
        shard_rows(tmp_path / "m.parquet", dataset(root, num_shards=5), 0)
    with pytest.raises(ValueError, match="there is no shard 4"):
        shard_rows(tmp_path / "m.parquet", dataset(root, num_shards=4), 4)


def test_an_output_that_cannot_be_written_is_explained(make_tree: Make, dataset: Dataset, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(ValueError, match=r"cannot be written.*choose another"):
        write_manifest(dataset(make_tree("a/1.jpg")), 0, tmp_path / "file/m.parquet")
