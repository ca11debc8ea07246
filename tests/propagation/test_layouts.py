"""Clip sets in their official layouts: what is read, and how faults are named."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import scipy.io
from drawn_clips import save_ids, save_picture, write_davis, write_jhmdb, write_vip
from PIL import Image

from cdgmae.propagation.clips import LayoutError
from cdgmae.propagation.layouts import read_clips

GREY = np.zeros((64, 96), dtype=np.uint8)


def test_davis_follows_the_list_and_pairs_frames_with_annotations(tmp_path: Path) -> None:
    clips = read_clips("davis", write_davis(tmp_path, ("zebra", "ant")))
    assert [clip.name for clip in clips] == ["zebra", "ant"]
    assert clips[0].picture == (64, 96)
    assert [path.stem for path in clips[0].frames] == [path.stem for path in clips[0].labels] == [f"{t:05d}" for t in range(5)]


def test_vip_without_a_list_reads_every_folder_in_natural_order_and_skips_blends(tmp_path: Path) -> None:
    root = write_vip(tmp_path)
    save_picture(root / "Images/videos2/000000000001_blend.jpg", np.zeros((64, 96, 3), dtype=np.uint8))
    clips = read_clips("vip", root)
    assert [clip.name for clip in clips] == ["videos2", "videos10"]
    assert len(clips[0].frames) == 4


def test_vip_with_a_list_reads_only_what_it_names(tmp_path: Path) -> None:
    root = write_vip(tmp_path)
    (root / "lists").mkdir()
    (root / "lists/val_videos.txt").write_text("videos10\n\n")
    assert [clip.name for clip in read_clips("vip", root)] == ["videos10"]


def test_jhmdb_reads_the_test_videos_of_the_splits(tmp_path: Path) -> None:
    root = write_jhmdb(tmp_path, ("a_1", "b_2", "c_3"))
    (root / "splits").mkdir()
    (root / "splits/run_test_split1.txt").write_text("a_1.avi 2\nb_2.avi 1\nc_3.avi 2")
    assert [clip.name for clip in read_clips("jhmdb", root)] == ["a_1", "c_3"]


def test_jhmdb_without_splits_reads_videos_that_have_joints_and_frames(tmp_path: Path) -> None:
    root = write_jhmdb(tmp_path, ("a_1", "b_2"))
    shutil.rmtree(root / "Rename_Images/run/b_2")
    assert [clip.name for clip in read_clips("jhmdb", root)] == ["a_1"]


def test_jhmdb_frames_may_be_jpeg(tmp_path: Path) -> None:
    root = write_jhmdb(tmp_path)
    for path in sorted((root / "Rename_Images").rglob("*.png")):
        Image.open(path).save(path.with_suffix(".jpg"))
        path.unlink()
    assert {path.suffix for clip in read_clips("jhmdb", root) for path in clip.frames} == {".jpg"}


def rgb_annotation(path: Path) -> None:
    Image.open(path).convert("RGB").save(path)


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
        lambda root: save_picture(root / "JPEGImages/480p/one/00001.jpg", np.zeros((32, 48, 3), dtype=np.uint8)),
        r"one/00001\.jpg: 48x32 pixels",
    ),
    "annotation in colours": (lambda root: rgb_annotation(root / "Annotations/480p/one/00001.png"), r"one/00001\.png: holds RGB"),
    "palette lost": (
        lambda root: save_ids(root / "Annotations/480p/one/00000.png", np.full_like(GREY, 38), palette=False),
        r"one/00000\.png: wrong palette",
    ),
    "no object": (lambda root: save_ids(root / "Annotations/480p/one/00000.png", GREY), r"one/00000\.png: no object"),
    "not a picture": (lambda root: (root / "JPEGImages/480p/one/00001.jpg").write_bytes(b"text"), r"00001\.jpg: cannot be read"),
    "odd name": (
        lambda root: (root / "JPEGImages/480p/one/00001.jpg").rename(root / "JPEGImages/480p/one/first.jpg"),
        r"first\.jpg: frames are named by number",
    ),
}


@pytest.mark.parametrize("fault", DAVIS_FAULTS)
def test_davis_faults_are_named(tmp_path: Path, fault: str) -> None:
    root = write_davis(tmp_path)
    plant, words = DAVIS_FAULTS[fault]
    plant(root)
    with pytest.raises(LayoutError, match=words) as caught:
        read_clips("davis", root)
    assert "Expected layout" in str(caught.value)


VIP_FAULTS: dict[str, tuple[Callable[[Path], object], str]] = {
    "no images": (lambda root: shutil.rmtree(root / "Images"), "Images: no folders of frames"),
    "unequal counts": (
        lambda root: (root / "Annotations/Category_ids/videos2/000000000026.png").unlink(),
        r"Category_ids/videos2/000000000026\.png: missing",
    ),
    "annotation of another shape": (
        lambda root: [
            save_ids(path, np.zeros((96, 64), dtype=np.uint8), palette=False)
            for path in (root / "Annotations/Category_ids/videos2").iterdir()
        ],
        "has another shape than its frame",
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
        read_clips("vip", root)


def joints_of(root: Path, positions: np.ndarray) -> None:
    scipy.io.savemat(root / "joint_positions/run/run_1/joint_positions.mat", {"pos_img": positions})


def bad_split(root: Path, line: str) -> None:
    (root / "splits").mkdir()
    (root / "splits/run_test_split1.txt").write_text(line)


JHMDB_FAULTS: dict[str, tuple[Callable[[Path], object], str]] = {
    "frame missing": (lambda root: (root / "Rename_Images/run/run_1/00002.png").unlink(), r"run_1/00002\.png: missing"),
    "unequal counts": (lambda root: joints_of(root, np.full((2, 15, 9), 20.0)), "4 frames, but .* has joints for 9"),
    "joints outside": (lambda root: joints_of(root, np.full((2, 15, 4), -20.0)), "no joint of the first frame lies inside"),
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
        read_clips("jhmdb", root)


def test_a_missing_root_names_the_key_and_flag(tmp_path: Path) -> None:
    with pytest.raises(LayoutError, match=r"propagation\.datasets\.davis\.root \(--root\)"):
        read_clips("davis", tmp_path / "nowhere")


def test_an_unknown_set_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="allowed: davis, vip, jhmdb"):
        read_clips("ytvos", tmp_path)


def test_many_faults_are_cut_short(tmp_path: Path) -> None:
    root = write_davis(tmp_path, frames=40, step=0)
    for path in sorted((root / "JPEGImages/480p/one").iterdir())[5:35]:
        path.unlink()
    with pytest.raises(LayoutError, match="and 15 more"):
        read_clips("davis", root)
