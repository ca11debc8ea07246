"""Tiny clips for tests: every frame shows its own number as a brightness, so that a frame can be told from its pixels."""

from __future__ import annotations

from pathlib import Path

import av
import numpy as np
from PIL import Image

STEP = 7
"""Brightness between two frames; codecs change less than half of it."""


def frame_pixels(number: int, width: int = 64, height: int = 48) -> np.ndarray:
    """Frame `number`, at most 30 of them."""
    return np.full((height, width, 3), 20 + STEP * number, dtype=np.uint8)


def number_of(image: Image.Image) -> int:
    """The number of the frame that an image shows."""
    return round((float(np.asarray(image).mean()) - 20) / STEP)


def write_video(path: Path, num_frames: int, *, width: int = 64, height: int = 48, codec: str = "mpeg4") -> Path:
    """A video file with a key frame every 12 frames."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=25)
        stream.width, stream.height, stream.pix_fmt, stream.bit_rate = width, height, "yuv420p", 2_000_000
        for number in range(num_frames):
            frame = av.VideoFrame.from_ndarray(frame_pixels(number, width, height), format="rgb24")
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    return path


def write_frames(folder: Path, num_frames: int) -> Path:
    """A folder of frames whose names sort wrongly as text."""
    folder.mkdir(parents=True)
    for number in range(num_frames):
        Image.fromarray(frame_pixels(number)).save(folder / f"frame_{number + 1}.png")
    return folder
