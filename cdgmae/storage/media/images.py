"""Reading and writing single images: one decoder and one encoder for all stages."""

from __future__ import annotations

import io
import os
import stat
import warnings
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

DEFAULT_MAX_PIXELS = 89_478_485
MAX_STORED_PIXELS = 1 << 28
"""Images in shards were checked when they were packed; this only stops a header that lies about its size."""

READABLE_FORMATS = ("JPEG", "PNG", "WEBP", "TIFF", "BMP", "GIF", "PPM", "AVIF")
"""Formats that Pillow reads by itself, without another program or a file beside the image; of several pages or frames the first counts."""

FORMAT_EXTENSIONS = {
    "JPEG": "jpg", "MPO": "jpg", "PNG": "png", "WEBP": "webp", "TIFF": "tif", "BMP": "bmp", "GIF": "gif", "PPM": "ppm", "AVIF": "avif",
}  # fmt: skip
"""Format reported by Pillow -> file ending. MPO is a JPEG with more images behind the first, as many phones write."""

NAMED_FORMATS = ", ".join(READABLE_FORMATS)

DEEP_MODES = frozenset({"I", "F", "I;16", "I;16B", "I;16L", "I;16N"})
"""Pillow's modes of grey images with more than 8 bits, whose conversion by Pillow would cut values off at 255."""

DEEP_NOTE = "more than 8 bits: scaled by the range of its own values"
"""Beside status ok in the index: what was done to an image of `DEEP_MODES`."""

MAX_ASPECT_RATIO = 100
"""Longer by shorter side; a strip beyond it would become huge when its shorter side is scaled up."""

START_OF_SCAN = b"\xff\xda"
MAX_SCANNED_PIXELS = 20 * DEFAULT_MAX_PIXELS
"""Pixels of a JPEG times its scans, each of which goes over all of them; progressive JPEGs have about ten, and more cost minutes."""

ROWS_AT_ONCE = 256
"""Rows of a deep image that are scaled together, in float64."""

TURNED = frozenset({5, 6, 7, 8})
"""EXIF orientations that swap width and height."""

ORIENTATION_TAG = 0x0112

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


def open_image(data: bytes | Path, max_pixels: int = DEFAULT_MAX_PIXELS) -> Image.Image:
    """Read an image's header and refuse what cannot or must not be decoded.

    Args:
        data: The file's bytes, of one of `READABLE_FORMATS`, or the file itself, of which only the header is read.
        max_pixels: Largest allowed width * height.

    Raises:
        OSError: if the file cannot be read.
        ImageError: empty file, not an image, another format, a broken header, more than `max_pixels` pixels, a strip beyond
            `MAX_ASPECT_RATIO`, or a JPEG of more scans than `MAX_SCANNED_PIXELS` allows.
    """
    if not data:
        raise ImageError("empty file")
    try:
        image = Image.open(io.BytesIO(data) if isinstance(data, bytes) else data, formats=READABLE_FORMATS)
    except UnidentifiedImageError:
        raise ImageError(f"not an image of a known format ({NAMED_FORMATS})") from None
    except Exception as error:  # recognised by its first bytes, but the header ends early or contradicts itself
        if isinstance(error, OSError) and error.errno is not None:  # of the file system
            raise
        raise ImageError(f"corrupt or truncated image ({type(error).__name__} in the header)") from None
    width, height = image.size
    if width * height > max_pixels:
        raise ImageError(f"too many pixels ({width}x{height}, the limit is {max_pixels})")
    if max(width, height) > MAX_ASPECT_RATIO * max(1, min(width, height)):
        raise ImageError(f"too narrow ({width}x{height}, one side may be {MAX_ASPECT_RATIO} times the other)")
    if isinstance(data, bytes) and image.format == "JPEG" and data.count(START_OF_SCAN) * width * height > MAX_SCANNED_PIXELS:
        raise ImageError(f"too many scans ({data.count(START_OF_SCAN)} over {width}x{height} pixels)")
    return image


def decode_rgb(data: bytes, max_pixels: int = DEFAULT_MAX_PIXELS) -> Image.Image:
    """Decode an image to 8-bit RGB with its EXIF rotation applied.

    CMYK, palette, alpha and greyscale images are converted by Pillow's `convert("RGB")`, which is what torchvision's image-folder
    loader does. Grey values of more than 8 bits are scaled so that the file's smallest value is black and its largest white.

    Raises:
        ImageError: as `open_image`, or truncated or corrupt data.
    """
    image = open_image(data, max_pixels)
    try:
        image.load()
        return to_rgb(image)
    except ImageError:
        raise
    except Exception as error:
        raise ImageError(f"corrupt or truncated image ({type(error).__name__}: {error})") from None


def to_rgb(image: Image.Image) -> Image.Image:
    """An image of any mode as `decode_rgb` gives it."""
    return _to_eight_bits(upright(image)).convert("RGB")


def upright(image: Image.Image) -> Image.Image:
    """Apply the EXIF rotation: the one rule for images, frames and masks. Pixels beside unreadable EXIF data stay as they are."""
    try:
        return ImageOps.exif_transpose(image)
    except Exception:
        return image


def upright_size(image: Image.Image) -> tuple[int, int]:
    """(width, height) of `upright(image)`, from the header alone."""
    try:
        turned = image.getexif().get(ORIENTATION_TAG) in TURNED
    except Exception:
        turned = False
    return image.size[::-1] if turned else image.size


def _to_eight_bits(image: Image.Image) -> Image.Image:
    if image.mode not in DEEP_MODES:
        return image
    values_HW = np.asarray(image)
    low, high = float(values_HW.min()), float(values_HW.max())
    if not (np.isfinite(low) and np.isfinite(high)):
        raise ImageError("pixels are NaN or infinite")
    eight_HW = np.empty(values_HW.shape, np.uint8)
    for row in range(0, len(values_HW), ROWS_AT_ONCE):
        rows_HW = values_HW[row : row + ROWS_AT_ONCE].astype(np.float64)
        eight_HW[row : row + ROWS_AT_ONCE] = np.round((rows_HW - low) * (255 / ((high - low) or 1)))
    return Image.fromarray(eight_HW)


def image_extension(image: Image.Image) -> str:
    """File ending for the format an image was read from."""
    return FORMAT_EXTENSIONS[image.format or ""]


def encode_jpeg(image: Image.Image, quality: int) -> bytes:
    """JPEG bytes of an RGB image; without chroma subsampling from quality 90 on.

    Raises:
        ImageError: if a JPEG cannot hold the image.
    """
    buffer = io.BytesIO()
    try:
        image.save(buffer, format="JPEG", quality=quality, subsampling=0 if quality >= 90 else 2)
    except OSError as error:  # of the encoder, not of a disk
        raise ImageError(f"cannot be encoded as JPEG ({image.width}x{image.height}: {error})") from None
    return buffer.getvalue()


def resize_shorter_side(image: Image.Image, size: int) -> Image.Image:
    """Scale so that the shorter side has `size` pixels, bicubic with antialiasing, aspect ratio kept; the longer one is rounded down, as
    torchvision's Resize does.

    Raises:
        ImageError: if the result would have more than `DEFAULT_MAX_PIXELS` pixels.
    """
    width, height = image.size
    shorter = min(width, height)
    target = (size * width // shorter, size * height // shorter)
    if target[0] * target[1] > DEFAULT_MAX_PIXELS:
        raise ImageError(
            f"too many pixels when scaled ({target[0]}x{target[1]} from {width}x{height}, the limit is {DEFAULT_MAX_PIXELS})"
        )
    return image if image.size == target else image.resize(target, Image.Resampling.BICUBIC)


def center_crop(image: Image.Image, size: int) -> Image.Image:
    """The central `size` x `size` square of an image at least that large; half pixels are rounded to even, as torchvision's CenterCrop does."""
    left, top = (round((side - size) / 2) for side in image.size)
    return image.crop((left, top, left + size, top + size))


def fit_image(image: Image.Image, resize: str, image_size: int) -> Image.Image:
    """An image as the shards hold it: `resize` is one of the ways of `shards.datasets.NAME.resize`."""
    if resize == "none":
        return image
    image = resize_shorter_side(image, image_size)
    return center_crop(image, image_size) if resize == "center_crop" else image
