"""From a manifest row to the bytes that go into the shard, or the reason why there are none. Safe to call from many threads."""

from __future__ import annotations

import threading
from collections.abc import Mapping
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from PIL import Image

from cdgmae.runtime.seeds import numpy_generator
from cdgmae.settings.shards import DatasetSettings
from cdgmae.storage.files.paths import text_to_path
from cdgmae.storage.media.clips import frame_name, open_clip
from cdgmae.storage.media.images import (
    DEEP_MODES,
    DEEP_NOTE,
    ImageError,
    decode_rgb,
    encode_jpeg,
    fit_image,
    image_extension,
    open_image,
    read_image_bytes,
)

LARGE_IMAGE_PIXELS = 16_000_000
"""Images above this size are decoded one at a time, which bounds the memory of a job with many threads."""

_one_large_image = threading.Lock()


@dataclass(frozen=True, slots=True)
class PreparedImage:
    """Bytes ready for the shard; width and height in pixels of the upright image, where it was taken from, and what was done to it."""

    data: bytes
    extension: str
    width: int
    height: int
    source_path: str | None
    note: str | None = None


def prepare_image(row: Mapping[str, Any], settings: DatasetSettings) -> PreparedImage:
    """Read, fully decode and, if so configured, resize one image.

    With `resize: none` the bytes stay as they are; decoding then only proves that they are whole.

    Args:
        row: A manifest row.
        settings: Root folder and what to do with the image.

    Raises:
        ImageError: with the reason, whatever is wrong with the image.
    """
    try:
        data = read_source(row, settings)
    except OSError as error:
        raise ImageError(f"unreadable file ({error.strerror or error})") from None
    header = open_image(data, settings.max_pixels)
    is_large = header.width * header.height > LARGE_IMAGE_PIXELS
    with _one_large_image if is_large else nullcontext():
        image = decode_rgb(data, settings.max_pixels)
    note = DEEP_NOTE if header.mode in DEEP_MODES else None
    if settings.resize == "none":
        return PreparedImage(data, image_extension(header), image.width, image.height, row["source_path"], note)
    return encode_image(image, settings, row["source_path"], note)


def encode_image(
    image: Image.Image, settings: DatasetSettings, source_path: str | None, note: str | None = None
) -> PreparedImage:
    """A decoded image as the JPEG that goes into the shard, resized if so configured.

    Raises:
        ImageError: if it would become too large, or a JPEG cannot hold it.
    """
    image = fit_image(image, settings.resize, settings.image_size)
    return PreparedImage(encode_jpeg(image, settings.jpeg_quality), "jpg", image.width, image.height, source_path, note)


def prepare_frame(row: Mapping[str, Any], settings: DatasetSettings, seed: int) -> PreparedImage:
    """Draw one frame of a clip, a function of (seed, key), and encode it as JPEG, resized if so configured.

    The frame is drawn uniformly from those that leave `frames_after` frames behind them; in a clip that is too short for that it is
    the first one. `source_path` becomes `{clip}!{frame}`, from which the views stage goes on.

    Args:
        row: A manifest row of layout `clips`.
        settings: Root folder, `frames_after`, and what to do with the image.
        seed: Root seed of the manifest.

    Raises:
        ImageError: with the reason, whatever is wrong with the clip.
    """
    try:
        clip = open_clip(Path(settings.path) / text_to_path(row["source_path"]), settings.max_pixels)
    except OSError as error:
        raise ImageError(f"unreadable file ({error.strerror or error})") from None
    first = int(numpy_generator(seed, "shards/frame", row["key"]).integers(max(1, clip.num_frames - settings.frames_after)))
    frame = next(iter(clip.read([first])))
    if frame.image is None:
        raise ImageError(frame.reason or "unreadable frame")
    return encode_image(frame.image, settings, frame_name(row["source_path"], first))


def read_source(row: Mapping[str, Any], settings: DatasetSettings) -> bytes:
    """The bytes of one image, from its file or from inside its tar.

    Raises:
        OSError: if the file is gone or may not be read.
        ImageError: if it is no regular file, has changed, or is larger than any allowed image could be.
    """
    if row["tar_path"] is None:
        return read_image_bytes(source_file(row, settings), settings.max_pixels)
    return read_image_bytes(source_file(row, settings), settings.max_pixels, row["tar_offset"], row["byte_size"])


def source_file(row: Mapping[str, Any], settings: DatasetSettings) -> Path:
    """The file that a manifest row's image lies in: its own, its clip, or a tar."""
    root, tar_path = Path(settings.path), row["tar_path"]
    if tar_path is not None and root.is_file():  # the data set is a single tar
        return root
    return root / text_to_path(tar_path or row["source_path"])
