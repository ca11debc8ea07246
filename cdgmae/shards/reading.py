"""From a manifest row to the bytes that go into the shard, or the reason why there are none. Safe to call from many threads."""

from __future__ import annotations

import os
import stat
import threading
from collections.abc import Mapping
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cdgmae.settings.shards import DatasetSettings
from cdgmae.shards.listing import text_to_path
from cdgmae.storage.images import (
    PictureError,
    center_crop,
    decode_rgb,
    encode_jpeg,
    open_picture,
    picture_extension,
    resize_shorter_side,
)

LARGE_PICTURE_PIXELS = 16_000_000
"""Pictures above this size are decoded one at a time, which bounds the memory of a job with many threads."""

_one_large_picture = threading.Lock()


@dataclass(frozen=True, slots=True)
class PreparedPicture:
    """Bytes ready for the shard; width and height in pixels of the upright picture."""

    data: bytes
    extension: str
    width: int
    height: int


def prepare_picture(row: Mapping[str, Any], settings: DatasetSettings) -> PreparedPicture:
    """Read, fully decode and, if so configured, resize one picture.

    With `resize: none` the bytes stay as they are; decoding then only proves that they are whole.

    Args:
        row: A manifest row.
        settings: Root folder and what to do with the picture.

    Raises:
        PictureError: with the reason, whatever is wrong with the picture.
    """
    try:
        data = read_source(row, settings)
    except OSError as error:
        raise PictureError(f"unreadable file ({error.strerror or error})") from None
    header = open_picture(data, settings.max_pixels)
    is_large = header.width * header.height > LARGE_PICTURE_PIXELS
    with _one_large_picture if is_large else nullcontext():
        image = decode_rgb(data, settings.max_pixels)
    if settings.resize == "none":
        return PreparedPicture(data, picture_extension(header), image.width, image.height)
    image = resize_shorter_side(image, settings.image_size)
    if settings.resize == "center_crop":
        image = center_crop(image, settings.image_size)
    return PreparedPicture(encode_jpeg(image, settings.jpeg_quality), "jpg", image.width, image.height)


def read_source(row: Mapping[str, Any], settings: DatasetSettings) -> bytes:
    """The bytes of one picture, from its file or from inside its tar.

    Raises:
        OSError: if the file is gone or may not be read.
        PictureError: if it is no regular file, has changed, or is larger than any allowed picture could be.
    """
    root, tar_path, byte_size = Path(settings.path), row["tar_path"], row["byte_size"]
    path = root / text_to_path(tar_path or row["source_path"])
    if tar_path is not None and root.is_file():  # the data set is a single tar
        path = root
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)  # a named pipe must not block the job
    try:
        status = os.fstat(descriptor)
        if not stat.S_ISREG(status.st_mode):
            raise PictureError("not a regular file")
        offset, length = (0, status.st_size) if tar_path is None else (row["tar_offset"], byte_size)
        if length > 8 * settings.max_pixels + 1_000_000:  # 8 bytes are a pixel of 16-bit RGBA
            raise PictureError(f"too many bytes ({length}, more than a picture of {settings.max_pixels} pixels can have)")
        data = _read_exactly(descriptor, offset, length)
    finally:
        os.close(descriptor)
    if len(data) != length:
        raise PictureError(f"file ends early ({len(data)} of {length} bytes)")
    return data


def _read_exactly(descriptor: int, offset: int, length: int) -> bytes:
    """Up to `length` bytes; one system call unless the file system hands out less."""
    pieces: list[bytes] = []
    while length > 0:
        piece = os.pread(descriptor, length, offset)
        if not piece:
            break
        pieces.append(piece)
        offset, length = offset + len(piece), length - len(piece)
    return b"".join(pieces)
