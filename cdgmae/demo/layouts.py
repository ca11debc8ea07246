"""Writing drawn clips in the official layouts of DAVIS-2017, VIP and JHMDB (label-propagation spec, section 3.9)."""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import scipy.io
from numpy.typing import NDArray
from PIL import Image

from cdgmae.demo.scenes import Frame
from cdgmae.storage.media.images import encode_jpeg

FRAME_QUALITY = 95
VIP_FRAME_STEP = 25
MAT_HEADER_BYTES = 116
MAT_HEADER = b"MATLAB 5.0 MAT-file, drawn by cdgmae"


def write_davis(root: Path, name: str, frames: Sequence[Frame]) -> None:
    """One DAVIS sequence: `JPEGImages/480p/NAME/00000.jpg`, palette masks in `Annotations/480p`, a line in `val.txt`."""
    images, masks = _folder(root, "JPEGImages/480p", name), _folder(root, "Annotations/480p", name)
    for number, frame in enumerate(frames):
        (images / f"{number:05d}.jpg").write_bytes(encode_jpeg(Image.fromarray(frame.colours_HWC), FRAME_QUALITY))
        mask = Image.fromarray(frame.labels_HW)
        mask.putpalette(davis_palette())
        mask.save(masks / f"{number:05d}.png")
    _append_line(root / "ImageSets/2017/val.txt", name)


def write_vip(root: Path, number: int, frames: Sequence[Frame]) -> None:
    """One VIP video: frames 1, 26, 51, ... in `Images/videosN`, grey category ids in `Annotations/Category_ids/videosN`."""
    name = f"videos{number}"
    images, masks = _folder(root, "Images", name), _folder(root, "Annotations/Category_ids", name)
    for index, frame in enumerate(frames):
        stem = f"{1 + VIP_FRAME_STEP * index:012d}"
        (images / f"{stem}.jpg").write_bytes(encode_jpeg(Image.fromarray(frame.colours_HWC), FRAME_QUALITY))
        Image.fromarray(frame.labels_HW).save(masks / f"{stem}.png")
    _append_line(root / "lists/val_videos.txt", name)


def write_jhmdb(root: Path, class_name: str, clip: str, frames: Sequence[Frame]) -> None:
    """One JHMDB clip: `Rename_Images/CLASS/CLIP/00001.png`, joints (1-based pixels) in `joint_positions.mat`, a test-split line.

    Raises:
        ValueError: if a frame has no joints.
    """
    images, joints = _folder(root, f"Rename_Images/{class_name}", clip), _folder(root, f"joint_positions/{class_name}", clip)
    positions = [frame.joints_J2.T + 1.0 for frame in frames if frame.joints_J2 is not None]
    if len(positions) != len(frames):
        raise ValueError(f"clip {clip} has frames without joints")
    for number, frame in enumerate(frames, start=1):
        Image.fromarray(frame.colours_HWC).save(images / f"{number:05d}.png", compress_level=3)
    (joints / "joint_positions.mat").write_bytes(_mat_file(np.stack(positions, axis=-1)))
    _append_line(root / "splits" / f"{class_name}_test_split1.txt", f"{clip}.avi 2")


def davis_palette() -> bytes:
    """The 256 colours of DAVIS masks: bit 0 of an id switches the highest free bit of red, bit 1 of green, bit 2 of blue, and so on."""
    ids = np.arange(256)
    colours = np.zeros((256, 3), dtype=np.uint8)
    for place in range(8):
        for channel in range(3):
            colours[:, channel] |= (((ids >> (3 * place + channel)) & 1) << (7 - place)).astype(np.uint8)
    return colours.tobytes()


def _mat_file(pos_img_2JF: NDArray[np.float64]) -> bytes:
    """A MATLAB file with `pos_img` (2, 15, frames); its free-text header, which holds the time of writing, is replaced."""
    buffer = io.BytesIO()
    scipy.io.savemat(buffer, {"pos_img": pos_img_2JF})  # type: ignore[arg-type]  # a file object is allowed, its stubs say otherwise
    return MAT_HEADER.ljust(MAT_HEADER_BYTES) + buffer.getvalue()[MAT_HEADER_BYTES:]


def _folder(root: Path, kind: str, name: str) -> Path:
    folder = root / kind / name
    folder.mkdir(parents=True)
    return folder


def _append_line(path: Path, line: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a", encoding="utf-8") as file:
        file.write(line + "\n")
