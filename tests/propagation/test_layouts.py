"""Clip sets in their official layouts: what is read, and how faults are named."""

from __future__ import annotations

import shutil
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import scipy.io
from drawn_clips import save_ids, save_image, write_davis, write_jhmdb, write_vip
from PIL import Image

from cdgmae.propagation.benchmarks.benchmark_kinds import benchmark_of
from cdgmae.propagation.layouts.davis_layout import read_davis
from cdgmae.propagation.layouts.jhmdb_layout import read_jhmdb
from cdgmae.propagation.layouts.labelled_clip import LayoutError
from cdgmae.propagation.layouts.vip_layout import read_vip

GREY = np.zeros((64, 96), dtype=np.uint8)


def test_davis_follows_the_list_and_pairs_frames_with_annotations(tmp_path: Path) -> None:
    clips = read_davis(write_davis(tmp_path, ("zebra", "ant")))
    assert [clip.name for clip in clips] == ["zebra", "ant"]
    assert clips[0].frame_size == (64, 96)
    assert [path.stem for path in clips[0].frames] == [path.stem for path in clips[0].labels] == [f"{t:05d}" for t in range(5)]


def test_vip_without_a_list_reads_every_folder_in_natural_order_and_skips_blends(tmp_path: Path) -> None:
    root = write_vip(tmp_path)
    save_image(root / "Images/videos2/000000000001_blend.jpg", np.zeros((64, 96, 3), dtype=np.uint8))
    clips = read_vip(root)
    assert [clip.name for clip in clips] == ["videos2", "videos10"]
    assert len(clips[0].frames) == 4


def test_vip_with_a_list_reads_only_what_it_names(tmp_path: Path) -> None:
    root = write_vip(tmp_path)
    (root / "lists").mkdir()
    (root / "lists/val_videos.txt").write_text("videos10\n\n")
    assert [clip.name for clip in read_vip(root)] == ["videos10"]


def test_jhmdb_reads_the_test_videos_of_the_splits(tmp_path: Path) -> None:
    root = write_jhmdb(tmp_path, ("a_1", "b_2", "c_3"))
    (root / "splits").mkdir()
    (root / "splits/run_test_split1.txt").write_text("a_1.avi 2\nb_2.avi 1\nc_3.avi 2")
    assert [clip.name for clip in read_jhmdb(root)] == ["a_1", "c_3"]


def test_jhmdb_without_splits_reads_videos_that_have_joints_and_frames(tmp_path: Path) -> None:
    root = write_jhmdb(tmp_path, ("a_1", "b_2"))
    shutil.rmtree(root / "Rename_Images/run/b_2")
    assert [clip.name for clip in read_jhmdb(root)] == ["a_1"]


def test_jhmdb_frames_may_be_jpeg(tmp_path: Path) -> None:
    root = write_jhmdb(tmp_path)
    for path in sorted((root / "Rename_Images").rglob("*.png")):
        Image.open(path).save(path.with_suffix(".jpg"))
        path.unlink()
    assert {path.suffix for clip in read_jhmdb(root) for path in clip.frames} == {".jpg"}


def rgb_annotation(path: Path) -> None:
    Image.open(path).convert("RGB").save(path)


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-12])


def recoloured(path: Path) -> None:
    image = Image.open(path)
    image.putpalette(bytes(range(256)) * 3)
    image.save(path)


def claim(path: Path, side: int) -> None:
    """Write another width and height into a PNG's header."""
    data = path.read_bytes()
    header = data[12:16] + side.to_bytes(4, "big") * 2 + data[24:29]
    path.write_bytes(data[:12] + header + zlib.crc32(header).to_bytes(4, "big") + data[33:])


DAVIS_FAULTS: dict[str, tuple[Callable[[Path], object], str]] = {
    "list missing": (lambda root: (root / "ImageSets/2017/val.txt").unlink(), r"val\.txt: missing"),
    "list empty": (lambda root: (root / "ImageSets/2017/val.txt").write_text("\n"), "lists no sequence"),
    "sequence listed twice": (lambda root: (root / "ImageSets/2017/val.txt").write_text("one\none\ntwo"), "lists 'one' 2 times"),
    "sequence missing": (lambda root: shutil.rmtree(root / "JPEGImages/480p/two"), "480p/two: no such folder"),
    "annotations missing": (lambda root: shutil.rmtree(root / "Annotations/480p/two"), "Annotations/480p/two: no such folder"),
    "frame missing": (lambda root: (root / "JPEGImages/480p/two/00002.jpg").unlink(), r"JPEGImages/480p/two/00002\.jpg: missing"),
    "annotation missing": (
        lambda root: (root / "Annotations/480p/two/00004.png").unlink(),
        r"Annotations/480p/two/00004\.png: missing",
    ),
    "gap in both": (
        lambda root: [(root / name).unlink() for name in ("JPEGImages/480p/one/00003.jpg", "Annotations/480p/one/00003.png")],
        r"one/00003\.jpg: missing",
    ),
    "frame of another size": (
        lambda root: save_image(root / "JPEGImages/480p/one/00001.jpg", np.zeros((32, 48, 3), dtype=np.uint8)),
        r"one/00001\.jpg: 48x32 pixels",
    ),
    "annotation in colours": (lambda root: rgb_annotation(root / "Annotations/480p/one/00001.png"), r"one/00001\.png: holds RGB"),
    "palette lost": (
        lambda root: save_ids(root / "Annotations/480p/one/00000.png", np.full_like(GREY, 38), palette=False),
        r"one/00000\.png: wrong palette",
    ),
    "no object": (lambda root: save_ids(root / "Annotations/480p/one/00000.png", GREY), r"one/00000\.png: no object"),
    "not an image": (lambda root: (root / "JPEGImages/480p/one/00001.jpg").write_bytes(b"text"), r"00001\.jpg: cannot be read"),
    "annotation that another program would draw": (
        lambda root: (root / "Annotations/480p/one/00001.png").write_bytes(
            b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 96 64\n"
        ),
        r"00001\.png: cannot be read as an image \(not an image of a known format",
    ),
    "annotation of four billion pixels": (
        lambda root: claim(root / "Annotations/480p/one/00001.png", 65_000),
        r"00001\.png: cannot be read as an image \(too many pixels",
    ),
    "odd name": (
        lambda root: (root / "JPEGImages/480p/one/00001.jpg").rename(root / "JPEGImages/480p/one/first.jpg"),
        r"first\.jpg: frames are named by five digits",
    ),
    "annotations of another size": (
        lambda root: [save_ids(path, np.ones((32, 48), dtype=np.uint8)) for path in (root / "Annotations/480p/one").iterdir()],
        r"Annotations/480p/one: annotations of 48x32 pixels have another size than their frames, 96x64",
    ),
    "frame cut off": (lambda root: cut(root / "JPEGImages/480p/two/00003.jpg"), r"two/00003\.jpg: ends too early"),
    "annotation cut off": (lambda root: cut(root / "Annotations/480p/two/00003.png"), r"two/00003\.png: ends too early"),
    "other colours later": (
        lambda root: recoloured(root / "Annotations/480p/one/00002.png"),
        r"one/00002\.png: wrong palette: objects \[1, 2\] have other colours than in 00000\.png",
    ),
    "masks of DAVIS-2016": (
        lambda root: save_ids(root / "Annotations/480p/one/00000.png", np.where(np.arange(96) < 9, 255, GREY).astype(np.uint8)),
        r"one/00000\.png: holds only 0 and 255, as DAVIS-2016 does",
    ),
    "resolution missing": (
        lambda root: [(root / part / "480p").rename(root / part / "Full-Resolution") for part in ("JPEGImages", "Annotations")],
        r"JPEGImages/480p: no such folder; .*/Full-Resolution is there: use it with resolution: Full-Resolution",
    ),
    "too short": (
        lambda root: [path.unlink() for path in root.rglob("*") if path.stem in ("00002", "00003", "00004")],
        r"2 frame\(s\), at least 3 are needed",
    ),
}


@pytest.mark.parametrize("fault", DAVIS_FAULTS)
def test_davis_faults_are_named(tmp_path: Path, fault: str) -> None:
    root = write_davis(tmp_path)
    plant, words = DAVIS_FAULTS[fault]
    plant(root)
    with pytest.raises(LayoutError, match=words) as caught:
        read_davis(root)
    assert "expected layout" in str(caught.value)


def listing(root: Path, text: str) -> None:
    (root / "lists").mkdir()
    (root / "lists/val_videos.txt").write_text(text)


VIP_FAULTS: dict[str, tuple[Callable[[Path], object], str]] = {
    "no videos": (lambda root: [shutil.rmtree(path) for path in (root / "Images").iterdir()], "Images: no folders of frames"),
    "no category ids": (
        lambda root: (root / "Annotations/Category_ids").rename(root / "Annotations/Human_ids"),
        "Annotations/Category_ids: no such folder",
    ),
    "video listed twice": (lambda root: listing(root, "videos2\nvideos2"), r"val_videos\.txt: lists 'videos2' 2 times"),
    "annotation without frame": (
        lambda root: (root / "Images/videos2/000000000026.jpg").unlink(),
        r"Images/videos2/000000000026\.jpg: missing, .*Category_ids/videos2 has the annotation",
    ),
    "no images": (lambda root: shutil.rmtree(root / "Images"), "Images: no such folder"),
    "unequal counts": (
        lambda root: (root / "Annotations/Category_ids/videos2/000000000026.png").unlink(),
        r"Category_ids/videos2/000000000026\.png: missing",
    ),
    "annotation of another shape": (
        lambda root: [
            save_ids(path, np.zeros((96, 64), dtype=np.uint8), palette=False)
            for path in (root / "Annotations/Category_ids/videos2").iterdir()
        ],
        "annotations of 64x96 pixels have another shape than their frames, 96x64",
    ),
    "instance ids": (
        lambda root: save_ids(root / "Annotations/Category_ids/videos2/000000000001.png", GREY + 60, palette=False),
        r"ids \[60\] are no VIP parts",
    ),
}


@pytest.mark.parametrize("fault", VIP_FAULTS)
def test_vip_faults_are_named(tmp_path: Path, fault: str) -> None:
    root = write_vip(tmp_path)
    plant, words = VIP_FAULTS[fault]
    plant(root)
    with pytest.raises(LayoutError, match=words):
        read_vip(root)


def joints_of(root: Path, positions: np.ndarray) -> None:
    scipy.io.savemat(root / "joint_positions/run/run_1/joint_positions.mat", {"pos_img": positions})


def bad_split(root: Path, line: str) -> None:
    (root / "splits").mkdir()
    (root / "splits/run_test_split1.txt").write_text(line)


JHMDB_FAULTS: dict[str, tuple[Callable[[Path], object], str]] = {
    "frame missing": (lambda root: (root / "Rename_Images/run/run_1/00002.png").unlink(), r"run_1/00002\.png: missing"),
    "unequal counts": (lambda root: joints_of(root, np.full((2, 15, 9), 20.0)), "4 frames, but .* has joints for 9"),
    "joints outside": (lambda root: joints_of(root, np.full((2, 15, 4), -20.0)), "no joint of the first frame lies inside"),
    "joints far outside": (
        lambda root: joints_of(root, np.where(np.arange(120).reshape(2, 15, 4) == 6, 9000.0, 20.0)),
        r"joint_positions\.mat: 1 joint\(s\) far out of the 96x64 image, first belly of frame 00003 at x 9000, y 20",
    ),
    "joints leave the image": (
        lambda root: joints_of(root, np.broadcast_to([20.0, -5.0, -5.0, -5.0], (2, 15, 4))),
        "in 3 of 4 frames no joint lies inside",
    ),
    "joints missing": (
        lambda root: [bad_split(root, "run_1.avi 2"), (root / "joint_positions/run/run_1/joint_positions.mat").unlink()],
        r"run_1/joint_positions\.mat: no such file",
    ),
    "frames count from 0": (
        lambda root: (root / "Rename_Images/run/run_1/00001.png").rename(root / "Rename_Images/run/run_1/00000.png"),
        r"00000\.png: frames count from 00001\.png",
    ),
    "one frame": (
        lambda root: [
            joints_of(root, np.full((2, 15, 1), 20.0)),
            *(path.unlink() for path in sorted((root / "Rename_Images/run/run_1").iterdir())[1:]),
        ],
        "run_1: 1 frame, at least 2 are needed",
    ),
    "split file missing": (
        lambda root: [bad_split(root, "run_1.avi 2"), (root / "joint_positions/walk").mkdir()],
        r"splits/walk_test_split1\.txt: missing, .*joint_positions/walk is there",
    ),
    "no test video": (lambda root: bad_split(root, "run_1.avi 1"), "no video is marked 2"),
    "joints broken": (
        lambda root: (root / "joint_positions/run/run_1/joint_positions.mat").write_bytes(b"MATLAB"),
        r"joint_positions\.mat cannot be read",
    ),
    "split line": (lambda root: bad_split(root, "run_1"), "line 'run_1' is not VIDEO.avi followed by"),
    "split names a missing video": (lambda root: bad_split(root, "run_9.avi 2"), "run/run_9: no such folder"),
    "nothing in common": (lambda root: shutil.rmtree(root / "joint_positions"), "no video has both"),
}


@pytest.mark.parametrize("fault", JHMDB_FAULTS)
def test_jhmdb_faults_are_named(tmp_path: Path, fault: str) -> None:
    root = write_jhmdb(tmp_path)
    plant, words = JHMDB_FAULTS[fault]
    plant(root)
    with pytest.raises(LayoutError, match=words):
        read_jhmdb(root)


def test_a_missing_root_names_the_key_and_flag(tmp_path: Path) -> None:
    with pytest.raises(LayoutError, match=r"propagation\.datasets\.NAME\.root \(--root\)"):
        read_davis(tmp_path / "nowhere")


def test_an_unknown_kind_is_refused() -> None:
    with pytest.raises(ValueError, match="allowed: davis, vip, jhmdb"):
        benchmark_of("ytvos")


def test_all_problems_are_listed_and_neighbouring_files_share_a_line(tmp_path: Path) -> None:
    root = write_davis(tmp_path, ("one", "two", "three"), frames=12, step=0)
    for number in (*range(5, 9), 10):
        (root / f"JPEGImages/480p/one/{number:05d}.jpg").unlink()
    (root / "Annotations/480p/two/00002.png").unlink()
    rgb_annotation(root / "Annotations/480p/three/00004.png")
    with pytest.raises(LayoutError, match=r"cannot be used \(expected layout: .*\), 4 problems:") as caught:
        read_davis(root)
    frames, annotations = root / "JPEGImages/480p", root / "Annotations/480p"
    assert list(caught.value.problems) == [
        f"{frames}/one/00005.jpg to 00008.jpg (4 files): missing, {annotations}/one has the annotation",
        f"{frames}/one/00010.jpg: missing, {annotations}/one has the annotation",
        f"{annotations}/two/00002.png: missing, {frames}/two has the frame",
        f"{annotations}/three/00004.png: holds RGB pixels; annotations are indexed (palette) or grey 8-bit PNGs of ids",
    ]


def test_davis_full_resolution_is_read_on_request(tmp_path: Path) -> None:
    root = write_davis(tmp_path)
    for part in ("JPEGImages", "Annotations"):
        (root / part / "480p").rename(root / part / "Full-Resolution")
    clips = read_davis(root, "Full-Resolution")
    assert {path.parent.parent.name for clip in clips for path in (*clip.frames, *clip.labels)} == {"Full-Resolution"}


@pytest.mark.parametrize("given", ["", "DAVIS/JPEGImages"])
def test_a_root_one_level_off_is_put_right(tmp_path: Path, given: str) -> None:
    root = write_davis(tmp_path / "DAVIS")
    with pytest.raises(LayoutError, match=f"holds no JPEGImages, but {root} does; give --root {root}"):
        read_davis(tmp_path / given)


def test_joints_beside_the_image_are_usual(tmp_path: Path) -> None:
    root = write_jhmdb(tmp_path)
    joints_of(root, np.broadcast_to(np.where(np.arange(15) < 6, 150.0, 20.0)[None, :, None], (2, 15, 4)))
    assert len(read_jhmdb(root)) == 2
