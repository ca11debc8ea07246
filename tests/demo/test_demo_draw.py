from __future__ import annotations

import hashlib
import json
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import scipy.io
from PIL import Image

from cdgmae.demo.draw import draw_demo
from cdgmae.demo.figures import JOINTS
from cdgmae.demo.layouts import davis_palette
from cdgmae.settings.demo import DemoSettings

FRAMES, CLIPS, TILES = 6, 2, 24


def settings(folder: Path) -> DemoSettings:
    return DemoSettings(directory=str(folder), num_tiles=TILES, tile_size=64, clips_per_set=CLIPS, frames_per_clip=FRAMES)


def few(folder: Path) -> DemoSettings:
    """As little as shows what is drawn and when."""
    return settings(folder).model_copy(update={"num_tiles": 11, "clips_per_set": 1, "frames_per_clip": 2})


def digests(folder: Path) -> dict[str, str]:
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return {str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


@pytest.fixture(scope="module")
def demo(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("demo")
    draw_demo(settings(folder), seed=0)
    return folder


def labels(path: Path) -> np.ndarray:
    return np.asarray(Image.open(path))


def test_equal_seeds_draw_equal_bytes_and_other_seeds_do_not(tmp_path: Path) -> None:
    for name, seed in (("first", 0), ("again", 0), ("other", 1)):
        draw_demo(few(tmp_path / name), seed=seed)
    first, other = digests(tmp_path / "first"), digests(tmp_path / "other")
    assert digests(tmp_path / "again") == first
    changed = [name for name, digest in other.items() if digest != first.get(name)]
    assert sum(name.endswith((".JPEG", ".jpg", ".png", ".mat")) for name in changed) > 20


def test_drawing_twice_does_nothing_and_a_lost_file_is_drawn_again(tmp_path: Path) -> None:
    assert draw_demo(few(tmp_path), seed=0)["drawn"] is True
    before = digests(tmp_path)
    assert draw_demo(few(tmp_path), seed=0)["drawn"] is False
    next((tmp_path / "VIP").rglob("*.jpg")).unlink()
    assert draw_demo(few(tmp_path), seed=0)["drawn"] is True
    next((tmp_path / "DAVIS").rglob("*.png")).write_bytes(b"cut")
    assert draw_demo(few(tmp_path), seed=0)["drawn"] is True
    (tmp_path / "demo.json").unlink()  # stopped before the marker
    assert draw_demo(few(tmp_path), seed=0)["drawn"] is True
    assert digests(tmp_path) == before


def test_folders_of_other_people_are_never_replaced(tmp_path: Path) -> None:
    (tmp_path / "images").mkdir()
    (tmp_path / "images/mine.jpg").write_bytes(b"precious")
    with pytest.raises(ValueError, match=r"images exists and was not drawn"):
        draw_demo(settings(tmp_path), seed=0)
    assert (tmp_path / "images/mine.jpg").read_bytes() == b"precious"


def test_the_marker_lists_what_was_drawn(demo: Path) -> None:
    result = json.loads((demo / "demo.json").read_text())
    assert (result["tiles"], result["clips"], result["seed"]) == (TILES, 3 * CLIPS, 0)
    assert result["versions"].keys() >= {"cdgmae", "scikit-image", "pillow"}


def test_tiles_are_an_imagenet_like_tree_of_structured_images(demo: Path) -> None:
    tiles = sorted((demo / "images").glob("*/*.JPEG"))
    assert len(tiles) == TILES
    assert len(set(digests(demo / "images").values())) == TILES + 1
    per_class = Counter(path.parent.name for path in tiles)
    assert len(per_class) == 11
    assert max(per_class.values()) - min(per_class.values()) <= 1
    for path in tiles:
        assert path.name.startswith(f"{path.parent.name}_")
        image = Image.open(path)
        assert (image.mode, image.size) == ("RGB", (64, 64))
        assert np.asarray(image.convert("L")).std() > 5


def test_davis_clips_follow_the_official_layout(demo: Path) -> None:
    root = demo / "DAVIS"
    names = (root / "ImageSets/2017/val.txt").read_text().split()
    assert len(names) == CLIPS
    for number, name in enumerate(names):
        frames = sorted(path.name for path in (root / "JPEGImages/480p" / name).iterdir())
        assert frames == [f"{t:05d}.jpg" for t in range(FRAMES)]
        for t in range(FRAMES):
            mask = Image.open(root / f"Annotations/480p/{name}/{t:05d}.png")
            assert mask.mode == "P"
            assert bytes(mask.getpalette()) == davis_palette()
            assert mask.size == Image.open(root / f"JPEGImages/480p/{name}/{t:05d}.jpg").size
            counts = np.bincount(np.asarray(mask).ravel(), minlength=3)
            assert np.flatnonzero(counts).tolist() == list(range(2 + number % 2))
            assert counts[1 : 2 + number % 2].min() > 300  # objects stay in sight


def test_davis_palette_starts_as_published() -> None:
    colours = np.frombuffer(davis_palette(), np.uint8).reshape(256, 3)
    published = [
        [0, 0, 0],
        [128, 0, 0],
        [0, 128, 0],
        [128, 128, 0],
        [0, 0, 128],
        [128, 0, 128],
        [0, 128, 128],
        [128, 128, 128],
        [64, 0, 0],
    ]
    assert colours[:9].tolist() == published


def test_objects_move_far_turn_and_change_size(demo: Path) -> None:
    for folder in sorted((demo / "DAVIS/Annotations/480p").iterdir()):
        masks = [labels(path) for path in sorted(folder.iterdir())]
        for label in range(1, masks[0].max() + 1):
            first, last = masks[0] == label, masks[-1] == label
            centres = [np.argwhere(mask).mean(axis=0) for mask in (first, last)]
            assert np.linalg.norm(centres[1] - centres[0]) > 50
            assert (first & last).sum() / (first | last).sum() < 0.2  # copying the first mask is no solution
            assert max(first.sum(), last.sum()) > 1.3 * min(first.sum(), last.sum())


def test_masks_follow_the_pixels_of_the_object(demo: Path) -> None:
    """Cutting an object out by its mask and comparing mean colours: the same object between frames, not the background."""
    folder = demo / "DAVIS/JPEGImages/480p"
    for clip in sorted(folder.iterdir()):
        images = [np.asarray(Image.open(path), float) for path in sorted(clip.iterdir())]
        masks = [labels(path) for path in sorted((demo / "DAVIS/Annotations/480p" / clip.name).iterdir())]
        for label in range(1, masks[0].max() + 1):
            shades = [image[mask == label].mean(axis=0) / image.mean() for image, mask in zip(images, masks, strict=True)]
            assert np.ptp(shades, axis=0).max() < 0.35


def test_vip_clips_follow_the_official_layout(demo: Path) -> None:
    root = demo / "VIP"
    names = (root / "lists/val_videos.txt").read_text().split()
    assert names == [f"videos{n}" for n in range(CLIPS)]
    for name in names:
        stems = sorted(path.stem for path in (root / "Images" / name).iterdir())
        assert stems == [f"{1 + 25 * t:012d}" for t in range(FRAMES)]
        for stem in stems:
            mask = Image.open(root / f"Annotations/Category_ids/{name}/{stem}.png")
            assert mask.mode == "L"
            assert np.unique(np.asarray(mask)).tolist() == [0, 5, 9, 13, 14, 15]


def test_jhmdb_clips_follow_the_official_layout_and_joints_lie_on_the_figure(demo: Path) -> None:
    root = demo / "JHMDB"
    lines = [(path.stem, line) for path in (root / "splits").iterdir() for line in path.read_text().splitlines()]
    assert len(lines) == CLIPS
    for stem, line in lines:
        action, (clip, part) = stem.removesuffix("_test_split1"), line.split(".avi ")
        assert part == "2"
        joints = scipy.io.loadmat(root / f"joint_positions/{action}/{clip}/joint_positions.mat")["pos_img"]
        assert joints.shape == (2, len(JOINTS), FRAMES)
        frames = sorted((root / f"Rename_Images/{action}/{clip}").iterdir())
        assert [path.name for path in frames] == [f"{t:05d}.png" for t in range(1, FRAMES + 1)]
        width, height = Image.open(frames[0]).size
        assert joints.min() >= 1
        assert joints[0].max() <= width
        assert joints[1].max() <= height
        assert np.ptp(joints, axis=2).max() > 20
