"""Reading and writing single images: one decoder and one encoder for all stages."""

from __future__ import annotations

import io
import os
import stat
import warnings
from pathlib import Path

from PIL import Image, ImageOps, UnidentifiedImageError

DEFAULT_MAX_PIXELS = 89_478_485
READABLE_FORMATS = ("JPEG", "PNG", "WEBP")
IMAGE_EXTENSIONS = frozenset({".jpeg", ".jpg", ".png", ".webp"})
"""File endings that count as images, in lower case; compared without regard to case."""

FORMAT_EXTENSIONS = {"JPEG": "jpg", "MPO": "jpg", "PNG": "png", "WEBP": "webp"}
"""Format reported by Pillow -> file ending. MPO is a JPEG with more images behind the first, as many phones write."""

# Images are checked against `max_pixels` before any pixel is decoded; Pillow's own global limit would only warn.
Image.MAX_IMAGE_PIXELS = None
# Once per process: `warnings.catch_warnings` around each image would race between decoding threads.
warnings.filterwarnings("ignore", module=r"PIL\.")


class ImageError(ValueError):
    """An image cannot be used; the message is the reason that goes into the table."""


def read_image_bytes(path: Path, max_pixels: int, offset: int = 0, length: int | None = None) -> bytes:
    """The bytes of one image: a whole file, or a part of a tar. Never blocks, whatever lies under the name.

    Args:
        path: The file, which may be a user's.
        max_pixels: Largest allowed width * height; bounds the bytes that are read.
        offset: Where the image begins.
        length: Its bytes; None: up to the end of the file.

    Raises:
        OSError: if the file is gone or may not be read.
        ImageError: if it is no regular file, has changed, or is larger than any allowed image could be.
    """
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)  # a named pipe must not block the job
    try:
        status = os.fstat(descriptor)
        if not stat.S_ISREG(status.st_mode):
            raise ImageError("not a regular file")
        wanted = status.st_size - offset if length is None else length
        if wanted > 8 * max_pixels + 1_000_000:  # 8 bytes are a pixel of 16-bit RGBA
            raise ImageError(f"too many bytes ({wanted}, more than an image of {max_pixels} pixels can have)")
        data = _read_exactly(descriptor, offset, wanted)
    finally:
        os.close(descriptor)
    if len(data) != wanted:
        raise ImageError(f"file ends early ({len(data)} of {wanted} bytes)")
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


def open_image(data: bytes, max_pixels: int = DEFAULT_MAX_PIXELS) -> Image.Image:
    """Read an image's header and refuse what cannot or must not be decoded.

    Args:
        data: The file's bytes (JPEG, PNG or WebP).
        max_pixels: Largest allowed width * height.

    Raises:
        ImageError: empty file, not an image, another format, a broken header, or more than `max_pixels` pixels.
    """
    if not data:
        raise ImageError("empty file")
    try:
        image = Image.open(io.BytesIO(data), formats=READABLE_FORMATS)
    except UnidentifiedImageError:
        raise ImageError("not a JPEG, PNG or WebP image") from None
    except Exception as error:  # recognised by its first bytes, but the header ends early or contradicts itself
        raise ImageError(f"corrupt or truncated image ({type(error).__name__} in the header)") from None
    width, height = image.size
    if width * height > max_pixels:
        raise ImageError(f"too many pixels ({width}x{height}, the limit is {max_pixels})")
    return image


def decode_rgb(data: bytes, max_pixels: int = DEFAULT_MAX_PIXELS) -> Image.Image:
    """Decode an image to 8-bit RGB with its EXIF rotation applied.

    CMYK, 16-bit, palette, alpha and greyscale images are converted by Pillow's `convert("RGB")`, which is what
    torchvision's image-folder loader does.

    Raises:
        ImageError: as `open_image`, or truncated or corrupt data.
    """
    image = open_image(data, max_pixels)
    try:
        image.load()
        return _upright(image).convert("RGB")
    except Exception as error:
        raise ImageError(f"corrupt or truncated image ({type(error).__name__}: {error})") from None


def _upright(image: Image.Image) -> Image.Image:
    """Apply the EXIF rotation; pixels beside unreadable EXIF data are still good and stay as they are."""
    try:
        return ImageOps.exif_transpose(image)
    except Exception:
        return image


def image_extension(image: Image.Image) -> str:
    """File ending for the format an image was read from: jpg, png or webp."""
    return FORMAT_EXTENSIONS[image.format or ""]


def encode_jpeg(image: Image.Image, quality: int) -> bytes:
    """JPEG bytes of an RGB image; without chroma subsampling from quality 90 on."""
    buffer = io.BytesIO()
    image.save(buffer, format="JPEG", quality=quality, subsampling=0 if quality >= 90 else 2)
    return buffer.getvalue()


def resize_shorter_side(image: Image.Image, size: int) -> Image.Image:
    """Scale so that the shorter side has `size` pixels, bicubic with antialiasing, aspect ratio kept."""
    width, height = image.size
    scale = size / min(width, height)
    target = (max(size, round(width * scale)), max(size, round(height * scale)))
    return image if image.size == target else image.resize(target, Image.Resampling.BICUBIC)


def center_crop(image: Image.Image, size: int) -> Image.Image:
    """The central `size` x `size` square of an image at least that large."""
    left, top = (image.width - size) // 2, (image.height - size) // 2
    return image.crop((left, top, left + size, top + size))


def fit_image(image: Image.Image, resize: str, image_size: int) -> Image.Image:
    """An image as the shards hold it: `resize` is one of the ways of `shards.datasets.NAME.resize`."""
    if resize == "none":
        return image
    image = resize_shorter_side(image, image_size)
    return center_crop(image, image_size) if resize == "center_crop" else image
