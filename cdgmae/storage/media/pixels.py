"""The hot decode path: JPEG bytes to pixels through libjpeg-turbo, everything else through Pillow."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import simplejpeg

from cdgmae.storage.media.images import MAX_STORED_PIXELS, decode_rgb

JPEG_START = b"\xff\xd8"
START_OF_SCAN = 0xDA
ORIENTATION_MARKS = (b"Exif\x00\x00", b"tiff:Orientation")


def decode_pixels(data: bytes) -> npt.NDArray[np.uint8]:
    """The pixels (H, W, 3) of an image as 8-bit RGB, equal to those of `decode_rgb` and about a third quicker for JPEGs.

    PNG, WebP, CMYK, images whose header may hold a rotation and whatever simplejpeg refuses go through `decode_rgb`.

    Raises:
        ImageError: as `decode_rgb`.
    """
    if data.startswith(JPEG_START) and not _may_be_rotated(data):
        try:
            height, width, _, _ = simplejpeg.decode_jpeg_header(data)
            if height * width > MAX_STORED_PIXELS:
                raise ValueError
            return np.asarray(simplejpeg.decode_jpeg(data, colorspace="RGB"))
        except ValueError:  # CMYK, huge or damaged: Pillow converts or says what is wrong
            pass
    return np.asarray(decode_rgb(data, MAX_STORED_PIXELS))


def _may_be_rotated(data: bytes) -> bool:
    """Whether the header holds EXIF or XMP data, where a rotation would be."""
    end = _header_end(data)
    return any(data.find(mark, 0, end) >= 0 for mark in ORIENTATION_MARKS)


def _header_end(data: bytes) -> int:
    """Where a JPEG's segments end and its entropy-coded scan begins; the whole length if the segments cannot be followed."""
    place = 2
    while place + 4 <= len(data) and data[place] == 0xFF:
        if data[place + 1] == START_OF_SCAN:
            return place
        place += 2 + int.from_bytes(data[place + 2 : place + 4], "big")
    return len(data)
