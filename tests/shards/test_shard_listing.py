from __future__ import annotations

import os
import tarfile
from collections.abc import Callable
from pathlib import Path

import pytest
from drawn_images import image_bytes, write_tar

from cdgmae.settings.shards import DatasetSettings
from cdgmae.shards.listing import list_images
from cdgmae.shards.manifest import write_left_out, write_manifest
from cdgmae.storage.files.paths import path_to_text, text_to_path
from cdgmae.storage.files.tree_listing import LeftOut

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


def test_every_file_that_is_left_out_is_listed_with_its_reason(make_tree: Make, dataset: Dataset, tmp_path: Path) -> None:
    taken = [
        f"c/{ending}.{ending}"
        for ending in ("jpg", "JPG", "png", "webp", "jpe", "jfif", "tif", "tiff", "bmp", "gif", "ppm", "avif")
    ]
    root = make_tree(
        *taken, "c/note.txt", "c/@eaDir/p.jpg/SYNOPHOTO_THUMB_M.jpg", "c/#recycle/deleted.jpg", "c/.ipynb_checkpoints/p.jpg", "c/Thumbs.db",
        "__MACOSX/c/p.jpg",
    )  # fmt: skip
    left_out: list[LeftOut] = []
    table = list_images(dataset(root), left_out)
    assert sorted(table["source_path"].to_pylist()) == sorted(taken)
    foreign = "folder of a storage server or operating system"
    assert sorted(left_out) == [
        ("__MACOSX", foreign), ("c/#recycle", foreign), ("c/.ipynb_checkpoints", "hidden"), ("c/@eaDir", foreign),
        ("c/Thumbs.db", "ending .db"), ("c/note.txt", "ending .txt"),
    ]  # fmt: skip
    result = write_manifest(dataset(root, num_shards=1), 0, tmp_path / "out/manifest.parquet")
    assert result["left_out"] == 6
    write_left_out(tmp_path / "out/manifest.parquet")
    assert (tmp_path / "out/left_out.csv").read_text().splitlines()[0] == "path,reason"
    assert "c/note.txt,ending .txt" in (tmp_path / "out/left_out.csv").read_text().splitlines()


def test_compressed_tars_beside_plain_ones_are_listed(tmp_path: Path, dataset: Dataset) -> None:
    write_tar(tmp_path / "tars/00000.tar", {"a.jpg": image_bytes()})
    for name in ("00001.tar.gz", "00002.tgz", "00003.tar.zst"):
        (tmp_path / "tars" / name).write_bytes(b"x")
    left_out: list[LeftOut] = []
    assert list_images(dataset(tmp_path / "tars", layout="webdataset"), left_out)["key"].to_pylist() == ["a"]
    endings = {"00001.tar.gz": ".gz", "00002.tgz": ".tgz", "00003.tar.zst": ".zst"}
    assert left_out == [(name, f"ending {ending}, compressed: unpack it") for name, ending in endings.items()]


SAMPLES = {
    f"{number:06d}{ending}": image_bytes(number) for number in range(3) for ending in (".seg.png", ".depth.png", ".jpg")
} | {"000000.cls": b"7"}


@pytest.mark.parametrize(
    ("extension", "taken"), [(None, ".jpg"), ("jpg", ".jpg"), (".seg.png", ".seg.png"), ("depth.png", ".depth.png")]
)
def test_a_webdataset_sample_gives_one_image_and_names_the_others(
    tmp_path: Path, dataset: Dataset, extension: str | None, taken: str
) -> None:
    write_tar(tmp_path / "wds/0.tar", dict(sorted(SAMPLES.items())))
    left_out: list[LeftOut] = []
    table = list_images(dataset(tmp_path / "wds", layout="webdataset", image_extension=extension), left_out)
    assert table["key"].to_pylist() == ["000000", "000001", "000002"]
    assert table["source_path"].to_pylist() == [f"0.tar!{number:06d}{taken}" for number in range(3)]
    assert table["class_name"].to_pylist() == ["7", None, None]
    assert len(left_out) == 6
    assert all(item.reason == f"another image of sample {item.path[6:12]} (its image is {taken})" for item in left_out)


def test_samples_without_the_asked_image_are_left_out(tmp_path: Path, dataset: Dataset) -> None:
    write_tar(tmp_path / "wds/0.tar", {"a.jpg": image_bytes(), "b.png": image_bytes()})
    left_out: list[LeftOut] = []
    table = list_images(dataset(tmp_path / "wds", layout="webdataset", image_extension="jpg"), left_out)
    assert table["key"].to_pylist() == ["a"]
    assert left_out == [("0.tar!b.png", "another image of sample b (image_extension = jpg)")]


def test_tars_put_together_with_cat_are_read_to_their_end(tmp_path: Path, dataset: Dataset) -> None:
    images = [{f"{name}{number}.jpg": image_bytes(number) for number in range(2)} for name in "abc"]
    parts = [write_tar(tmp_path / f"{place}.tar", members).read_bytes() for place, members in enumerate(images)]
    both = tmp_path / "tars/both.tar"
    both.parent.mkdir()
    both.write_bytes(b"".join(parts) + bytes(3 << 20))
    rows = list_images(dataset(both.parent, layout="webdataset")).to_pylist()
    assert [row["key"] for row in rows] == ["a0", "a1", "b0", "b1", "c0", "c1"]
    for row, data in zip(rows, [data for members in images for data in members.values()], strict=True):
        assert both.read_bytes()[row["tar_offset"] :][: row["byte_size"]] == data
    both.write_bytes(parts[0] + parts[1][:-9000])
    with pytest.raises(ValueError, match=r"both\.tar (is cut short|is damaged|cannot be read)"):
        list_images(dataset(both.parent, layout="webdataset"))


def _pax(size_field: bytes, name: bytes = b"x", kind: bytes = b"x") -> bytes:
    """A tar header, of an extended header if not said otherwise, whose size field is given."""
    header = bytearray(
        name.ljust(100, b"\0")
        + b"0000644\0"
        + b"0000000\0" * 2
        + size_field.ljust(12, b"\0")
        + b"0" * 11
        + b"\0"
        + b" " * 8
        + kind
    )
    header += bytes(512 - len(header))
    header[257:265] = b"ustar\x0000"
    header[148:156] = b"%06o\0 " % sum(header)
    return bytes(header)


HOSTILE_TARS = {
    "chained headers": _pax(b"00000000000") * 20_000,
    "a huge extended header": _pax(b"\x80" + (40 << 30).to_bytes(11, "big")) + bytes(1024),
    "a size of 10^30": b"".join(
        [
            _pax(b"%011o" % 40),
            b"35 size=1000000000000000000000000000000\n".ljust(512, b"\0"),
            _pax(b"00000000000")[:156],
            b"0",
            bytes(355),
        ]
    ),
    "a negative size": _pax((-512 & (1 << 96) - 1).to_bytes(12, "big"), b"a.jpg", b"0") * 2 + bytes(1024),
    "pax without equals": _pax(b"00000000010") + b"5 abcdef".ljust(512, b"\0") + bytes(1024),
}


@pytest.mark.parametrize("kind", HOSTILE_TARS)
def test_absurd_tar_headers_end_in_one_sentence_with_the_file(tmp_path: Path, dataset: Dataset, kind: str) -> None:
    (tmp_path / "tars").mkdir()
    (tmp_path / "tars/hostile.tar").write_bytes(HOSTILE_TARS[kind])
    with pytest.raises(ValueError, match=r"hostile\.tar|holds no \.tar file with images") as refused:
        list_images(dataset(tmp_path / "tars", layout="webdataset"))
    assert len(str(refused.value)) < 900
