"""JHMDB in its official layout: split files, frames and joint files, checked before a job starts.

Shapes: T frames, 15 joints.
"""

from __future__ import annotations

import logging
from pathlib import Path

import numpy as np

from cdgmae.propagation.layouts.image_files import (
    FRAME_ENDINGS,
    common_ending,
    common_size,
    list_images,
    missing_numbers,
    read_headers,
    show_size,
)
from cdgmae.propagation.layouts.labelled_clip import LabelledClip, check_root, raise_problems, read_names
from cdgmae.propagation.measures.joints import JOINT_NAMES, Coordinates, read_joints

logger = logging.getLogger("cdgmae")

SPLIT_ENDING = "_test_split1.txt"
FAR_OUTSIDE = 3
"""Joints that lie farther outside than this many image sides are faults; people cut off by the border reach about one side."""
LAYOUT = (
    f"splits/CLASS{SPLIT_ENDING} (optional), joint_positions/CLASS/VIDEO/joint_positions.mat, "
    "Rename_Images/CLASS/VIDEO/00001.png (or .jpg) ..."
)


def read_jhmdb(root: Path) -> list[LabelledClip]:
    """JHMDB: the test videos of splits/*_test_split1.txt, or without split files every video with joints and frames.

    Joints outside the image are usual (people cut off by the border) and only counted in the log.

    Raises:
        LayoutError: missing folder, split file or frame, files cut off, a broken joint file, a number of frames other than the joints',
            joints far outside the image, no joint inside frame 0 or inside most frames.
    """
    check_root(root, "Rename_Images", "JHMDB")
    problems: list[str] = []
    videos = (
        _listed_videos(root, problems) if any((root / "splits").glob(f"*{SPLIT_ENDING}")) else _present_videos(root, problems)
    )
    by_name: dict[str, str] = {}
    for class_name, video in videos:
        if by_name.setdefault(video, class_name) != class_name:
            problems.append(f"{root}: video {video!r} is in class {by_name[video]} and in class {class_name}")
    clips = [clip for class_name, video in videos if (clip := _read_clip(root, class_name, video, problems)) is not None]
    raise_problems(problems, root, "JHMDB", LAYOUT)
    return clips


def _listed_videos(root: Path, problems: list[str]) -> list[tuple[str, str]]:
    """(class, video) of every video that the split files mark as test."""
    videos: list[tuple[str, str]] = []
    splits = sorted((root / "splits").glob(f"*{SPLIT_ENDING}"))
    for split in splits:
        for line in read_names(split):
            name, _, role = line.rpartition(" ")
            if role not in ("0", "1", "2") or not name.strip():
                problems.append(f"{split}: line {line!r} is not VIDEO.avi followed by 1 (training) or 2 (test)")
            elif role == "2":
                videos.append((split.name.removesuffix(SPLIT_ENDING), name.strip().removesuffix(".avi")))
    listed = {split.name.removesuffix(SPLIT_ENDING) for split in splits}
    classes = {path.name for path in (root / "joint_positions").glob("*") if path.is_dir()}
    problems += [
        f"{root / 'splits' / (name + SPLIT_ENDING)}: missing, {root / 'joint_positions' / name} is there"
        for name in sorted(classes - listed)
    ]
    if not videos and not problems:
        problems.append(f"{root / 'splits'}: no video is marked 2 (test)")
    return videos


def _present_videos(root: Path, problems: list[str]) -> list[tuple[str, str]]:
    """(class, video) of every video that has both joints and frames."""
    labelled = {
        path.parent.relative_to(root / "joint_positions") for path in (root / "joint_positions").glob("*/*/joint_positions.mat")
    }
    framed = {path.relative_to(root / "Rename_Images") for path in (root / "Rename_Images").glob("*/*") if path.is_dir()}
    for path in sorted(labelled ^ framed):
        logger.warning("%s: video %s has only %s and is left out", root, path, "joints" if path in labelled else "frames")
    videos = [(path.parts[0], path.parts[1]) for path in sorted(labelled & framed)]
    if not videos:
        problems.append(
            f"{root}: no video has both joint_positions/CLASS/VIDEO/joint_positions.mat and Rename_Images/CLASS/VIDEO"
        )
    logger.warning(
        "%s: no split files (splits/CLASS%s), so all %d videos are evaluated; published scores are over the 268 test videos of split 1",
        root, SPLIT_ENDING, len(videos),
    )  # fmt: skip
    return videos


def _read_clip(root: Path, class_name: str, video: str, problems: list[str]) -> LabelledClip | None:
    before = len(problems)
    labels = root / "joint_positions" / class_name / video / "joint_positions.mat"
    folder = root / "Rename_Images" / class_name / video
    frames = list_images(folder, FRAME_ENDINGS, problems)
    problems += missing_numbers(frames, 1, folder, common_ending(frames, ".png"))
    image = common_size(read_headers(frames.values(), problems), problems)
    try:
        joints_2JT = read_joints(labels)
    except ValueError as error:
        problems.append(str(error))
        return None
    if frames and joints_2JT.shape[2] != len(frames):
        problems.append(f"{folder}: {len(frames)} frames, but {labels} has joints for {joints_2JT.shape[2]}")
    if len(frames) == 1:
        problems.append(f"{folder}: 1 frame, at least 2 are needed (the first is not scored)")
    if image is not None:
        problems += _misplaced_joints(labels, joints_2JT, image)
    if len(problems) > before or image is None:
        return None
    return LabelledClip(video, tuple(frames.values()), (labels,), image)


def _misplaced_joints(path: Path, joints_2JT: Coordinates, image: tuple[int, int]) -> list[str]:
    """Problems with joints that cannot belong to images of (height, width) pixels."""
    sides = np.array([image[1], image[0]], dtype=np.float64)[:, None, None]
    inside_JT = np.all((joints_2JT >= 0) & (joints_2JT < sides), axis=0)
    far_JT = np.any((joints_2JT < -FAR_OUTSIDE * sides) | (joints_2JT >= (1 + FAR_OUTSIDE) * sides), axis=0)
    if far_JT.any():
        frame, joint = (int(value) for value in np.argwhere(far_JT.T)[0])
        x, y = joints_2JT[:, joint, frame] + 1
        return [
            f"{path}: {int(far_JT.sum())} joint(s) far out of the {show_size(image)} image, "
            f"first {JOINT_NAMES[joint]} of frame {frame + 1:05d} at x {x:.0f}, y {y:.0f}"
        ]
    if not inside_JT[:, 0].any():
        return [f"{path}: no joint of the first frame lies inside the {show_size(image)} image"]
    empty = int((~inside_JT.any(axis=0)).sum())
    if empty > inside_JT.shape[1] / 2:
        return [f"{path}: in {empty} of {inside_JT.shape[1]} frames no joint lies inside the {show_size(image)} image"]
    outside = int((~inside_JT).sum())
    if outside:
        logger.debug("%s: %d of %d joints lie outside the image; they are scored as published", path, outside, inside_JT.size)
    return []
