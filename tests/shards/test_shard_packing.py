from __future__ import annotations

import csv
import hashlib
import io
import os
import tarfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import webdataset
from drawn_images import image_bytes, plant_bad_files, write_tar
from PIL import Image

from cdgmae.settings.shards import DatasetSettings
from cdgmae.shards.manifest import write_manifest
from cdgmae.shards.packing import write_dataset, write_shard
from cdgmae.shards.reading import prepare_image
from cdgmae.shards.shard_summary import summarise_shards
from cdgmae.storage.image_shards import BAD, OK, ImageShard, index_path
from cdgmae.storage.media.images import ImageError
from cdgmae.storage.verify import verify_paths

Make = Callable[..., Path]
Dataset = Callable[..., DatasetSettings]
REAL_IMAGES = Path(__file__).parents[3] / "shared/data/imagenet-sample"
GOOD = [f"c{i % 3}/{i:02d}.{ending}" for i, ending in enumerate(["jpg", "JPEG", "png", "webp"] * 5)]


def all_rows(folder: Path) -> list:
    return [row for tar in sorted(folder.glob("*.tar")) for row in ImageShard(tar).rows()]


def test_bytes_are_kept_and_tarfile_and_webdataset_read_them(make_tree: Make, dataset: Dataset, tmp_path: Path) -> None:
    root, out = make_tree(*GOOD), tmp_path / "out"
    result = write_dataset(dataset(root), 0, out, num_shards=3)
    assert (result["ok"], result["bad"], result["shards"]) == (20, 0, 3)
    for tar in sorted(out.glob("*.tar")):
        rows = list(ImageShard(tar).rows())
        with tarfile.open(tar) as opened:
            members = {member.name: opened.extractfile(member).read() for member in opened}
        assert list(members) == [f"{row.key}.0.{row.extension}" for row in rows]
        for row, data in zip(rows, members.values(), strict=True):
            assert data == (root / row.source_path).read_bytes()
            assert hashlib.sha256(data).hexdigest() == row.sha256
        samples = list(webdataset.WebDataset(str(tar), shardshuffle=False))
        assert [sample["__key__"] for sample in samples] == [row.key for row in rows]
        assert [sample[f"0.{row.extension}"] for sample, row in zip(samples, rows, strict=True)] == list(members.values())
    assert all(finding.ok for finding in verify_paths([out]))


@pytest.mark.parametrize(("resize", "size"), [("shorter_side", (36, 24)), ("center_crop", (24, 24))])
def test_resized_images_are_jpeg_of_the_asked_size(
    make_tree: Make, dataset: Dataset, tmp_path: Path, resize: str, size: tuple[int, int]
) -> None:
    root = make_tree(*GOOD[:4])
    write_dataset(dataset(root, resize=resize, image_size=24), 0, tmp_path / "out")
    shard = ImageShard(tmp_path / "out/00000.tar")
    for row in shard.rows():
        image = Image.open(io.BytesIO(shard.read(row)))
        assert (image.format, image.mode, image.size, (row.width, row.height)) == ("JPEG", "RGB", size, size)
        original = Image.open(root / row.source_path).convert("RGB").resize((36, 24), Image.Resampling.BICUBIC)
        crop = original if resize == "shorter_side" else original.crop((6, 0, 30, 24))
        assert np.abs(np.asarray(image, float) - np.asarray(crop, float)).mean() < 3


def test_ten_bad_files_become_rows_with_reasons_and_the_rest_is_packed(make_tree: Make, dataset: Dataset, tmp_path: Path) -> None:
    root, out = make_tree(*GOOD), tmp_path / "out"
    names = plant_bad_files(root / "bad")
    result = write_dataset(dataset(root, max_bad_fraction=0.4), 0, out, num_shards=2)
    assert (result["ok"], result["bad"]) == (20, 10)
    bad = {Path(row.source_path).name: row.reason for row in all_rows(out) if row.status == BAD}
    assert sorted(bad) == sorted(names)
    assert bad["zero.jpg"] == "empty file"
    assert "too many pixels (12000x12000" in bad["bomb.png"]
    assert "truncated" in bad["cut.jpg"]
    assert "No such file" in bad["vanished.jpg"]
    listed = list(csv.DictReader((out / "bad_images.csv").open()))
    assert {row["source_path"]: row["reason"] for row in listed} == {f"bad/{name}": reason for name, reason in bad.items()}
    summary = list(csv.DictReader((out / "summary.csv").open()))
    assert [(row["shard"], int(row["ok"]) + int(row["bad"])) for row in summary] == [("00000", 15), ("00001", 15)]
    assert sum(int(row["bad"]) for row in summary) == 10
    assert all(finding.ok for finding in verify_paths([out]))


def test_too_many_bad_files_fail_with_counts_and_leave_no_shard(make_tree: Make, dataset: Dataset, tmp_path: Path) -> None:
    root, out = make_tree(*GOOD), tmp_path / "out"
    plant_bad_files(root / "bad")
    with pytest.raises(ValueError, match=r"10 bad images.*allows 3 of the data set's 30.*x empty file.*max_bad_fraction"):
        write_dataset(dataset(root, max_bad_fraction=0.1), 0, out)
    assert not list(out.glob("*.tar"))


def test_the_summary_fails_when_only_all_shards_together_exceed_the_limit(
    make_tree: Make, dataset: Dataset, tmp_path: Path
) -> None:
    root, out = make_tree(*GOOD), tmp_path / "out"
    plant_bad_files(root / "bad")
    with pytest.raises(ValueError, match=r"the data set has 10 bad images.*too_many_bad_images\.csv"):
        write_dataset(dataset(root, max_bad_fraction=0.3), 0, out, num_shards=4)
    assert len(list(out.glob("*.tar"))) == 4
    listed = (out / "too_many_bad_images.csv").read_text()
    assert len(listed.splitlines()) == 11
    assert not (out / "summary.parquet").exists()
    result = write_dataset(dataset(root, max_bad_fraction=0.4), 0, out, num_shards=4)
    assert (out / "bad_images.csv").read_text() == listed
    assert not (out / "too_many_bad_images.csv").exists()
    assert result["shards_kept"] == 4


def test_a_folder_of_only_bad_files_fails_early(dataset: Dataset, tmp_path: Path) -> None:
    folder = tmp_path / "bad"
    folder.mkdir()
    for number in range(200):
        (folder / f"{number}.jpg").write_bytes(b"nothing")
    with pytest.raises(ValueError, match="20 x not an image of a known format"):
        write_dataset(dataset(folder), 0, tmp_path / "out")


def test_a_second_run_keeps_whole_shards_and_mends_the_others(make_tree: Make, dataset: Dataset, tmp_path: Path) -> None:
    root, out = make_tree(*GOOD), tmp_path / "out"
    write_dataset(dataset(root), 0, out, num_shards=4)
    before = {path.name: path.read_bytes() for path in out.glob("[!.]*")}  # records tell when it was made
    index_path(out / "00001.tar").unlink()  # killed between tar and index
    (out / "00002.tar").write_bytes(before["00002.tar"][:1000])
    result = write_dataset(dataset(root), 0, out, num_shards=4)
    assert result["shards_kept"] == 2
    assert {path.name: path.read_bytes() for path in out.glob("[!.]*")} == before
    assert all(found.ok and found.recorded for found in verify_paths(sorted(out.glob("*.tar"))))


def test_the_check_of_the_shards_reads_one_that_was_changed_after_its_index(
    make_tree: Make, dataset: Dataset, tmp_path: Path
) -> None:
    root, out = make_tree(*GOOD), tmp_path / "out"
    write_dataset(dataset(root), 0, out, num_shards=4)
    tars = sorted(out.glob("*.tar"))
    content = bytearray(tars[1].read_bytes())
    tars[1].write_bytes(content)
    os.utime(tars[1], (time.time() + 10,) * 2)
    assert summarise_shards(dataset(root), tars, out / "summary.parquet")["ok"] == len(GOOD)
    content[700] ^= 1
    tars[1].write_bytes(content)
    os.utime(tars[1], (time.time() + 20,) * 2)
    with pytest.raises(ValueError, match=r"00001\.tar was changed after its index was written"):
        summarise_shards(dataset(root), tars, out / "summary.parquet")


def test_changed_settings_or_images_rewrite_the_shards(make_tree: Make, dataset: Dataset, tmp_path: Path) -> None:
    root, out = make_tree(*GOOD), tmp_path / "out"
    write_dataset(dataset(root), 0, out, num_shards=2)
    assert write_dataset(dataset(root, image_size=99), 0, out, num_shards=2)["shards_kept"] == 2  # unused without resizing
    assert write_dataset(dataset(root, resize="center_crop", image_size=16), 0, out, num_shards=2)["shards_kept"] == 0
    make_tree("new/one.jpg")
    assert write_dataset(dataset(root, resize="center_crop", image_size=16), 0, out, num_shards=2)["shards_kept"] == 0


def test_a_folder_with_shards_of_another_division_is_left_alone(make_tree: Make, dataset: Dataset, tmp_path: Path) -> None:
    root, out = make_tree(*GOOD), tmp_path / "out"
    write_dataset(dataset(root), 0, out, num_shards=4)
    with pytest.raises(ValueError, match=r"00002\.tar.*another number of shards"):
        write_dataset(dataset(root), 0, out, num_shards=2)


def test_the_shard_does_not_depend_on_the_number_of_threads(make_tree: Make, dataset: Dataset, tmp_path: Path) -> None:
    settings = dataset(make_tree(*GOOD))
    write_manifest(settings, 0, tmp_path / "m.parquet")
    write_shard(settings, tmp_path / "m.parquet", 0, tmp_path / "a/00000.tar", threads=1)
    write_shard(settings, tmp_path / "m.parquet", 0, tmp_path / "b/00000.tar", threads=7)
    assert (tmp_path / "a/00000.tar").read_bytes() == (tmp_path / "b/00000.tar").read_bytes()


@pytest.mark.parametrize("layout", ["class_tars", "webdataset"])
def test_images_from_tars_are_packed_by_offset(tmp_path: Path, dataset: Dataset, layout: str) -> None:
    for name in ("n01", "n02"):
        members = {f"{name}_{i}.JPEG": image_bytes(i) for i in range(4)}
        members |= {f"{name}_{i}.cls": name.encode() for i in range(4)}
        write_tar(tmp_path / f"in/{name}.tar", members | {f"{name}_bad.jpg": b""})
    write_dataset(dataset(tmp_path / "in", layout=layout, max_bad_fraction=0.5), 0, tmp_path / "out", num_shards=2)
    rows = all_rows(tmp_path / "out")
    assert sorted(row.key for row in rows if row.status == OK) == [f"n0{c}_{i}" for c in (1, 2) for i in range(4)]
    assert all(row.class_name == row.key[:3] for row in rows if row.status == OK)
    assert [row.reason for row in rows if row.status == BAD] == ["empty file", "empty file"]
    shard = ImageShard(tmp_path / "out/00000.tar")
    for row in shard.rows(OK):
        assert shard.read(row) == image_bytes(int(row.key[-1]))


def test_output_inside_the_input_tars_is_refused(tmp_path: Path, dataset: Dataset) -> None:
    write_tar(tmp_path / "in/a.tar", {"1.jpg": image_bytes()})
    with pytest.raises(ValueError, match="lies inside the input"):
        write_dataset(dataset(tmp_path / "in", layout="webdataset"), 0, tmp_path / "in/out")


def test_a_named_pipe_and_an_oversized_file_are_reasons_not_hangs(tmp_path: Path, dataset: Dataset) -> None:
    import os

    os.mkfifo(tmp_path / "pipe.jpg")
    with (tmp_path / "huge.jpg").open("wb") as file:
        file.truncate(3_000_000_000)  # sparse: takes no space
    settings = dataset(tmp_path)
    for name, reason in (("pipe.jpg", "not a regular file"), ("huge.jpg", "too many bytes")):
        with pytest.raises(ImageError, match=reason):
            prepare_image({"source_path": name, "tar_path": None, "tar_offset": None, "byte_size": 0}, settings)


@pytest.mark.skipif(not REAL_IMAGES.is_dir(), reason="real ImageNet images are not at ../shared/data/imagenet-sample")
def test_real_images_with_ten_bad_ones_among_them(tmp_path: Path, dataset: Dataset) -> None:
    root = tmp_path / "root"
    root.mkdir()
    (root / "train").symlink_to(REAL_IMAGES / "train")
    plant_bad_files(root / "bad")
    with pytest.raises(ValueError, match="10 bad images"):
        write_dataset(dataset(root), 0, tmp_path / "out")
    result = write_dataset(dataset(root, max_bad_fraction=0.1), 0, tmp_path / "out", num_shards=2)
    assert (result["ok"], result["bad"]) == (149, 10)
    assert {row.key for row in all_rows(tmp_path / "out") if row.status == OK} == {
        path.stem for path in REAL_IMAGES.glob("train/*/*")
    }
