"""Clips: video files and folders of frames, read frame by frame.

A frame is named `{clip}!{number}`, where `clip` is the path below the data set's folder and numbers start at 0 in temporal order.
The shards stage draws one frame of every clip (the bag's view 0), the views stage reads later ones; both read through this module.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, NamedTuple, Protocol

from PIL import Image

from cdgmae.names import IMAGE_EXTENSIONS
from cdgmae.storage.media.images import DEFAULT_MAX_PIXELS, ImageError, decode_rgb

VIDEO_EXTENSIONS = frozenset({".avi", ".m4v", ".mkv", ".mov", ".mp4", ".mpeg", ".mpg", ".webm"})
"""File endings that count as video, in lower case; compared without regard to case."""

# Only containers that hold their own images: a playlist that calls itself .mp4 must not open other files or addresses.
CONTAINERS = "avi,matroska,webm,mov,mp4,mpeg,mpegts"


TURNS = {90: Image.Transpose.ROTATE_90, 180: Image.Transpose.ROTATE_180, 270: Image.Transpose.ROTATE_270}
"""Degrees counter-clockwise -> turn, without resampling."""


class Frame(NamedTuple):
    """One frame of a clip: its image, or why there is none."""

    number: int
    image: Image.Image | None
    reason: str | None


class Clip(Protocol):
    """A clip of `num_frames` frames."""

    num_frames: int

    def read(self, numbers: Iterable[int]) -> Iterator[Frame]:
        """The frames of these numbers, each once, in temporal order; every number asked for gives exactly one frame."""
        ...


def open_clip(path: Path, max_pixels: int = DEFAULT_MAX_PIXELS) -> Clip:
    """Open a video file or a folder of frames and count its frames.

    Raises:
        ImageError: if there is nothing, it is no video, its frames are larger than `max_pixels`, or it has none.
        ValueError: if PyAV is not installed and `path` is a file.
    """
    clip: Clip = FrameFolder(path, max_pixels) if path.is_dir() else VideoFile(path, max_pixels)
    if clip.num_frames == 0:
        raise ImageError("clip has no frames")
    return clip


def frame_name(clip: str, number: int) -> str:
    """The name of one frame."""
    return f"{clip}!{number}"


def split_frame_name(name: str) -> tuple[str, int]:
    """Clip and number behind `frame_name`.

    Raises:
        ValueError: if the text names no frame.
    """
    clip, mark, number = name.rpartition("!")
    if not mark or not number.isdecimal():
        raise ValueError(f"{name!r} names no frame of a clip (CLIP!NUMBER)")
    return clip, int(number)


class FrameFolder:
    """A folder of images; `frame_9` comes before `frame_10`."""

    def __init__(self, path: Path, max_pixels: int) -> None:
        self._files = sorted((file for file in path.iterdir() if _is_frame(file)), key=lambda file: temporal_key(file.name))
        self._max_pixels = max_pixels
        self.num_frames = len(self._files)

    def read(self, numbers: Iterable[int]) -> Iterator[Frame]:
        """See `Clip.read`."""
        for number in sorted(set(numbers)):
            try:
                yield Frame(number, decode_rgb(self._files[number].read_bytes(), self._max_pixels), None)
            except ImageError as error:
                yield Frame(number, None, str(error))
            except OSError as error:
                yield Frame(number, None, f"unreadable file ({error.strerror or error})")


class VideoFile:
    """A video file, decoded from its start: exact for every container, whatever its key frames and time stamps."""

    def __init__(self, path: Path, max_pixels: int) -> None:
        self._path, self._av = path, _pyav()
        if not path.is_file():
            raise ImageError("no such file")
        with self._opened() as container:
            try:
                stream = container.streams.video[0]
                width, height = stream.width, stream.height
                self.num_frames = sum(packet.size > 0 for packet in container.demux(stream))
            except Exception as error:  # a damaged stream raises more kinds than FFmpeg's own
                raise ImageError(f"damaged video ({_reason(error)})") from None
            if width * height > max_pixels:
                raise ImageError(f"too many pixels ({width}x{height}, the limit is {max_pixels})")

    def read(self, numbers: Iterable[int]) -> Iterator[Frame]:
        """See `Clip.read`."""
        missing = sorted(set(numbers), reverse=True)
        decoded, reason = 0, ""
        with self._opened() as container:
            stream = container.streams.video[0]
            stream.thread_type = "NONE"  # clips are read in parallel instead
            try:
                for frame in container.decode(stream):
                    if missing and decoded == missing[-1]:
                        broken = "damaged frame" if frame.is_corrupt else None
                        yield Frame(missing.pop(), None if broken else _upright(frame), broken)
                    decoded += 1
                    if not missing:
                        return
            except Exception as error:
                reason = f" ({_reason(error)})"
        for number in reversed(missing):
            yield Frame(number, None, f"only {decoded} of {self.num_frames} frames can be decoded{reason}")

    def _opened(self) -> Any:
        try:
            container = self._av.open(
                str(self._path), options={"format_whitelist": CONTAINERS, "protocol_whitelist": "file"}, metadata_errors="ignore"
            )
        except Exception as error:
            raise ImageError(f"not a readable video ({_reason(error)})") from None
        if not container.streams.video:
            container.close()
            raise ImageError("file has no video stream")
        return container


def temporal_key(name: str) -> list[tuple[int, str]]:
    """Sort key of frame names: runs of digits count as numbers."""
    return [(int(part), part) if part.isdecimal() else (-1, part) for part in re.split(r"(\d+)", name)]


def _upright(frame: Any) -> Image.Image:
    """A decoded frame as it is meant to be seen: turned as the stream's display matrix says, as players do."""
    image: Image.Image = frame.to_image().convert("RGB")
    degrees = round(frame.rotation or 0) % 360  # counter-clockwise
    return image.transpose(TURNS[degrees]) if degrees in TURNS else image


def _reason(error: Exception) -> str:
    return str(getattr(error, "strerror", None) or f"{type(error).__name__}: {error}")


def _is_frame(file: Path) -> bool:
    return file.suffix.lower() in IMAGE_EXTENSIONS and not file.name.startswith(".")


def _pyav() -> Any:
    try:
        import av
        import av.logging
    except ImportError:
        raise ValueError("video files need PyAV, which is not installed: pip install 'cdgmae[video]'") from None
    av.logging.set_level(av.logging.PANIC)  # what is wrong with a clip goes into its row, not onto the terminal
    return av
