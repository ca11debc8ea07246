from __future__ import annotations

import os
import tarfile
from collections.abc import Callable
from pathlib import Path

import pytest
from drawn_images import image_bytes, write_tar

from cdgmae.settings.shards import DatasetSettings
from cdgmae.shards.listing import list_images
from cdgmae.storage.files.paths import path_to_text, text_to_path

Make = Callable[..., Path]
Dataset = Callable[..., DatasetSettings]


def test_a_tree_is_listed_sorted_with_class_and_size(make_tree: Make, dataset: Dataset) -> None:
    root = make_tree("b/2.JPEG", "b/1.jpg", "a/deep/er/x.PNG", "top.webp", "a/y.jpeg", "a/note.txt", ".hidden/z.jpg", "a/._y.jpg")
    table = list_images(dataset(root))
    assert table["source_path"].to_pylist() == ["top.webp", "a/y.jpeg", "a/deep/er/x.PNG", "b/1.jpg", "b/2.JPEG"]
    assert table["class_name"].to_pylist() == [None, "a", "er", "b", "b"]
    assert table["byte_size"].to_pylist() == [(root / path).stat().st_size for path in table["source_path"].to_pylist()]


def test_links_are_followed_but_not_in_circles(make_tree: Make, dataset: Dataset) -> None:
    root = make_tree("a/1.jpg")
    (root / "a/up").symlink_to(root)
    (root / "a/self.jpg").symlink_to(root / "a/self.jpg")
    (root / "linked").symlink_to(root / "a")
    assert list_images(dataset(root))["source_path"].to_pylist() == ["a/1.jpg", "a/self.jpg", "linked/1.jpg", "linked/self.jpg"]


def test_names_outside_utf8_survive_a_table() -> None:
    name = os.fsdecode(b"caf\xe9.jpg")
    text = path_to_text(name)
    text.encode("utf-8")
    assert text_to_path(text) == name


def test_class_tars_give_the_tar_name_as_class_and_the_place_of_the_bytes(tmp_path: Path, dataset: Dataset) -> None:
    images = {f"n01440764_{i}.JPEG": image_bytes(i) for i in range(3)}
    tar = write_tar(tmp_path / "tars/n01440764.tar", {"readme.txt": b"x", **images})
    table = list_images(dataset(tmp_path / "tars", layout="class_tars"))
    assert table["key"].to_pylist() == ["n01440764_0", "n01440764_1", "n01440764_2"]
    assert table["source_path"].to_pylist()[0] == "n01440764.tar!n01440764_0.JPEG"
    assert set(table["class_name"].to_pylist()) == {"n01440764"}
    content = tar.read_bytes()
    for row, data in zip(table.to_pylist(), images.values(), strict=True):
        assert content[row["tar_offset"] : row["tar_offset"] + row["byte_size"]] == data


def test_webdataset_keys_and_classes_are_kept(tmp_path: Path, dataset: Dataset) -> None:
    members = {
        "x/0001.cls": b"7\n",
        "x/0001.jpg": image_bytes(1),
        "x/0002.jpg": image_bytes(2),
        "x/0002.cls": b"cat",
        "3.png": image_bytes(3),
    }
    write_tar(tmp_path / "wds/0.tar", members)
    table = list_images(dataset(tmp_path / "wds", layout="webdataset"))
    assert table["key"].to_pylist() == ["0001", "0002", "3"]
    assert table["class_name"].to_pylist() == ["7", "cat", None]


def test_members_that_are_no_regular_files_are_left_out(tmp_path: Path, dataset: Dataset) -> None:
    path = write_tar(tmp_path / "tars/a.tar", {"good.jpg": image_bytes()})
    with tarfile.open(path, "a") as tar:
        for name, kind in (("link.jpg", tarfile.SYMTYPE), ("hard.jpg", tarfile.LNKTYPE), ("device.jpg", tarfile.CHRTYPE)):
            info = tarfile.TarInfo(name)
            info.type, info.linkname = kind, "/etc/hostname"
            tar.addfile(info)
    assert list_images(dataset(tmp_path / "tars", layout="class_tars"))["key"].to_pylist() == ["good"]


@pytest.mark.parametrize("cut", [1, 300, 600, 1100, 2000, 10_000])
def test_a_cut_tar_is_refused_by_name(tmp_path: Path, dataset: Dataset, cut: int) -> None:
    whole = write_tar(tmp_path / "whole.tar", {f"{i}.jpg": image_bytes(i) for i in range(5)}).read_bytes().rstrip(b"\0")
    (tmp_path / "tars").mkdir()
    (tmp_path / "tars/cut.tar").write_bytes(whole[: max(0, len(whole) - cut)])
    with pytest.raises(ValueError, match=r"cut\.tar"):
        list_images(dataset(tmp_path / "tars", layout="class_tars"))


def test_a_tar_cut_exactly_between_two_members_is_refused(tmp_path: Path, dataset: Dataset) -> None:
    path = write_tar(tmp_path / "tars/cut.tar", {f"{i}.jpg": b"x" * 512 for i in range(3)})
    path.write_bytes(path.read_bytes()[: 2 * 1024])
    with pytest.raises(ValueError, match=r"cut\.tar is cut short"):
        list_images(dataset(tmp_path / "tars", layout="class_tars"))


def test_a_tar_damaged_in_the_middle_is_refused(tmp_path: Path, dataset: Dataset) -> None:
    path = write_tar(tmp_path / "tars/bad.tar", {f"{i}.jpg": b"x" * 512 for i in range(3)})
    content = bytearray(path.read_bytes())
    content[1024:1536] = b"\xff" * 512
    path.write_bytes(content)
    with pytest.raises(ValueError, match=r"bad\.tar is damaged at byte 1024"):
        list_images(dataset(tmp_path / "tars", layout="class_tars"))


def test_compressed_and_nested_tars_are_explained(tmp_path: Path, dataset: Dataset) -> None:
    (tmp_path / "tars").mkdir()
    with tarfile.open(tmp_path / "tars/a.tar", "w:gz"):
        pass
    with pytest.raises(ValueError, match="decompress"):
        list_images(dataset(tmp_path / "tars", layout="class_tars"))
    write_tar(tmp_path / "outer/train.tar", {"n01440764.tar": b"x" * 512})
    with pytest.raises(ValueError, match="unpack this outer tar"):
        list_images(dataset(tmp_path / "outer", layout="class_tars"))


def test_missing_and_empty_folders_are_explained(tmp_path: Path, dataset: Dataset) -> None:
    with pytest.raises(ValueError, match=r"nowhere.*does not exist.*--root"):
        list_images(dataset(tmp_path / "nowhere"))
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match="holds no images"):
        list_images(dataset(tmp_path / "empty"))
    write_tar(tmp_path / "tars/a.tar", {"1.jpg": image_bytes()})
    with pytest.raises(ValueError, match="class_tars"):
        list_images(dataset(tmp_path / "tars"))
