"""The three clip sets in their official layouts, checked before a job starts. Nothing is ever written into them."""

from __future__ import annotations

import logging
import re
from pathlib import Path

import numpy as np

from cdgmae.propagation.clips import (
    FRAME_ENDINGS,
    Clip,
    LayoutError,
    common_size,
    mask_clip,
    missing_numbers,
    pictures_in,
    raise_problems,
    read_names,
    repeated_names,
)
from cdgmae.propagation.joints import read_joints
from cdgmae.propagation.masks import davis_palette, read_annotation
from cdgmae.propagation.part_measures import NUM_PARTS

logger = logging.getLogger("cdgmae")

DAVIS_RESOLUTION = "480p"
VOID = 255
MIN_DAVIS_FRAMES = 3
DAVIS_LAYOUT = "ImageSets/2017/val.txt (one sequence per line), JPEGImages/480p/SEQUENCE/00000.jpg ..., Annotations/480p/SEQUENCE/00000.png ..."
VIP_LAYOUT = "lists/val_videos.txt (optional), Images/VIDEO/FRAME.jpg, Annotations/Category_ids/VIDEO/FRAME.png with ids 0..19"
JHMDB_LAYOUT = "splits/CLASS_test_split1.txt (optional), joint_positions/CLASS/VIDEO/joint_positions.mat, Rename_Images/CLASS/VIDEO/00001.png ..."


def read_clips(clip_set: str, root: Path) -> list[Clip]:
    """All clips of a set, in the order of its list file.

    Args:
        clip_set: davis, vip or jhmdb.
        root: Folder of the set in its official layout.

    Raises:
        LayoutError: if anything is missing or inconsistent.
        ValueError: if the set is unknown.
    """
    readers = {"davis": read_davis, "vip": read_vip, "jhmdb": read_jhmdb}
    if clip_set not in readers:
        raise ValueError(f"clip set {clip_set!r} is unknown; allowed: {', '.join(readers)}")
    if not root.is_dir():
        raise LayoutError(
            f"{root}: no such folder; set propagation.datasets.{clip_set}.root (--root) to where {clip_set} was unpacked"
        )
    return readers[clip_set](root)


def read_davis(root: Path) -> list[Clip]:
    """DAVIS-2017 val at 480p: every sequence of ImageSets/2017/val.txt.

    Raises:
        LayoutError: missing list, folder, frame or annotation, gaps, sizes that differ, annotations that are no ids, no object
            in frame 0, or fewer than 3 frames.
    """
    problems: list[str] = []
    names = _listed(root / "ImageSets/2017/val.txt", problems)
    clips = []
    for name in names:
        folder = root / "JPEGImages" / DAVIS_RESOLUTION / name
        frames = pictures_in(folder, FRAME_ENDINGS, problems)
        labels = pictures_in(root / "Annotations" / DAVIS_RESOLUTION / name, (".png",), problems)
        known = len(problems)
        problems += missing_numbers({*frames, *labels}, 0, folder, ".jpg")
        clip = mask_clip(name, frames, labels, problems)
        if clip is not None and len(problems) == known:
            problems += _davis_objects(clip)
            clips.append(clip)
    raise_problems(problems, root, "DAVIS-2017", DAVIS_LAYOUT)
    return clips


def _davis_objects(clip: Clip) -> list[str]:
    """What is wrong with the objects of frame 0."""
    if len(clip.frames) < MIN_DAVIS_FRAMES:
        return [
            f"{clip.frames[0].parent}: {len(clip.frames)} frame(s), at least {MIN_DAVIS_FRAMES} are needed (first and last are not scored)"
        ]
    try:
        annotation = read_annotation(clip.labels[0])
    except ValueError as error:
        return [str(error)]
    ids = [int(value) for value in np.unique(annotation.ids_HW) if value not in (0, VOID)]
    if not ids:
        return [f"{clip.labels[0]}: no object in the first frame"]
    official = bool((annotation.palette[ids] == davis_palette()[ids]).all())
    if not official and ids != list(range(1, len(ids) + 1)):
        return [
            f"{clip.labels[0]}: wrong palette: ids {ids} are not 1..{len(ids)} and their colours are not DAVIS's; ids were lost on saving"
        ]
    return []


def read_vip(root: Path) -> list[Clip]:
    """VIP: the videos of lists/val_videos.txt, or without that list every folder of Images; files named *blend* are passed over.

    Raises:
        LayoutError: missing folder, frame or annotation, sizes that differ, annotations that are no ids.
    """
    problems: list[str] = []
    listing = root / "lists/val_videos.txt"
    if listing.is_file():
        names = _listed(listing, problems)
    else:
        images = root / "Images"
        names = sorted((path.name for path in images.iterdir() if path.is_dir()), key=_natural) if images.is_dir() else []
        if not names:
            problems.append(f"{images}: no folders of frames")
    clips = []
    for name in names:
        frames = pictures_in(root / "Images" / name, FRAME_ENDINGS, problems, skip="blend")
        labels = pictures_in(root / "Annotations/Category_ids" / name, (".png",), problems, skip="blend")
        clip = mask_clip(name, frames, labels, problems)
        if clip is not None:
            problems += _vip_parts(clip)
            clips.append(clip)
    raise_problems(problems, root, "VIP", VIP_LAYOUT)
    return clips


def _vip_parts(clip: Clip) -> list[str]:
    """What is wrong with the ids of frame 0."""
    try:
        ids = np.unique(read_annotation(clip.labels[0]).ids_HW)
    except ValueError as error:
        return [str(error)]
    odd = [int(value) for value in ids if NUM_PARTS <= value < VOID]
    return (
        [f"{clip.labels[0]}: ids {odd} are no VIP parts (0..{NUM_PARTS - 1}, 255 unlabelled); use Category_ids as unpacked"]
        if odd
        else []
    )


def read_jhmdb(root: Path) -> list[Clip]:
    """JHMDB: the test videos of splits/*_test_split1.txt, or without split files every video with joints and frames.

    Raises:
        LayoutError: missing folder or frame, a broken joint file, a number of frames other than the joints', no joint inside frame 0.
    """
    problems: list[str] = []
    videos = _jhmdb_videos(root, problems)
    by_name: dict[str, str] = {}
    for class_name, video in videos:
        if by_name.setdefault(video, class_name) != class_name:
            problems.append(f"{root}: video {video!r} is in class {by_name[video]} and in class {class_name}")
    clips = [clip for class_name, video in videos if (clip := _jhmdb_clip(root, class_name, video, problems)) is not None]
    raise_problems(problems, root, "JHMDB", JHMDB_LAYOUT)
    return clips


def _jhmdb_videos(root: Path, problems: list[str]) -> list[tuple[str, str]]:
    """(class, video) of every clip to evaluate."""
    suffix = "_test_split1.txt"
    splits = sorted((root / "splits").glob(f"*{suffix}"))
    videos: list[tuple[str, str]] = []
    for split in splits:
        for line in read_names(split):
            name, _, role = line.rpartition(" ")
            if role not in ("0", "1", "2") or not name.strip():
                problems.append(f"{split}: line {line!r} is not VIDEO.avi followed by 1 (training) or 2 (test)")
            elif role == "2":
                videos.append((split.name.removesuffix(suffix), name.strip().removesuffix(".avi")))
    if splits:
        if not videos and not problems:
            problems.append(f"{root / 'splits'}: no video is marked 2 (test)")
        return videos
    labelled = {
        path.parent.relative_to(root / "joint_positions") for path in (root / "joint_positions").glob("*/*/joint_positions.mat")
    }
    framed = {path.relative_to(root / "Rename_Images") for path in (root / "Rename_Images").glob("*/*") if path.is_dir()}
    for path in sorted(labelled ^ framed):
        logger.warning("%s: video %s has only %s and is left out", root, path, "joints" if path in labelled else "frames")
    if not labelled & framed:
        problems.append(
            f"{root}: no video has both joint_positions/CLASS/VIDEO/joint_positions.mat and Rename_Images/CLASS/VIDEO"
        )
    return [(path.parts[0], path.parts[1]) for path in sorted(labelled & framed)]


def _jhmdb_clip(root: Path, class_name: str, video: str, problems: list[str]) -> Clip | None:
    before = len(problems)
    labels = root / "joint_positions" / class_name / video / "joint_positions.mat"
    folder = root / "Rename_Images" / class_name / video
    frames = pictures_in(folder, FRAME_ENDINGS, problems)
    problems += missing_numbers(frames, 1, folder, next(iter(frames.values())).suffix if frames else ".png")
    picture = common_size(frames.values(), problems)
    try:
        joints_2JT = read_joints(labels)
    except ValueError as error:
        problems.append(str(error))
        return None
    if frames and joints_2JT.shape[2] != len(frames):
        problems.append(f"{folder}: {len(frames)} frames, but {labels} has joints for {joints_2JT.shape[2]}")
    if picture is not None:
        x_J, y_J = joints_2JT[:, :, 0]
        if not ((x_J >= 0) & (x_J < picture[1]) & (y_J >= 0) & (y_J < picture[0])).any():
            problems.append(f"{labels}: no joint of the first frame lies inside the {picture[1]}x{picture[0]} picture")
    if len(problems) > before or picture is None:
        return None
    return Clip(video, tuple(frames.values()), (labels,), picture)


def _listed(path: Path, problems: list[str]) -> list[str]:
    """Names of a list file, each once."""
    if not path.is_file():
        problems.append(f"{path}: missing")
        return []
    names = read_names(path)
    if not names:
        problems.append(f"{path}: lists no sequence")
    problems += repeated_names(names, path)
    return list(dict.fromkeys(names))


def _natural(name: str) -> list[int | str]:
    """Sort key that puts videos2 before videos10."""
    return [int(part) if part.isdecimal() else part for part in re.split(r"(\d+)", name)]
