"""The hot decode path gives Pillow's pixels, whatever the file."""

from __future__ import annotations

import io
from typing import Any

import numpy as np
import pytest
from PIL import Image

from cdgmae.storage.media import pixels
from cdgmae.storage.media.images import ImageError, decode_rgb
from cdgmae.storage.media.pixels import decode_pixels


def drawn(size: tuple[int, int] = (75, 50)) -> Image.Image:
    coarse = np.random.default_rng(3).integers(0, 256, (6, 9, 3), dtype=np.uint8)
    return Image.fromarray(coarse).resize(size, Image.Resampling.BICUBIC)


def encoded(image: Image.Image, kind: str, **options: Any) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, format=kind, **options)
    return buffer.getvalue()


def rotated(orientation: int) -> Image.Exif:
    exif = Image.Exif()
    exif[0x0112] = orientation
    return exif


XMP = b'<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:Description tiff:Orientation="6"/></x:xmpmeta>'
IMAGES = {
    "jpeg 0 95": encoded(drawn(), "JPEG", subsampling=0, quality=95),
    "jpeg 1 75": encoded(drawn(), "JPEG", subsampling=1, quality=75),
    "jpeg 2 40": encoded(drawn(), "JPEG", subsampling=2, quality=40),
    "progressive": encoded(drawn(), "JPEG", progressive=True),
    "grey": encoded(drawn().convert("L"), "JPEG"),
    "cmyk": encoded(drawn().convert("CMYK"), "JPEG"),
    "upright exif": encoded(drawn(), "JPEG", exif=rotated(1)),
    "rotated by exif": encoded(drawn(), "JPEG", exif=rotated(6)),
    "rotated by xmp": encoded(drawn(), "JPEG", xmp=XMP),
    "png": encoded(drawn().convert("RGBA"), "PNG"),
    "webp": encoded(drawn(), "WEBP"),
}  # fmt: skip


@pytest.mark.parametrize("name", IMAGES)
def test_pixels_are_those_of_pillow(name: str) -> None:
    """Equal up to one level: libjpeg-turbo is built into both, maybe in two versions; here they are bitwise equal."""
    expected, found = np.asarray(decode_rgb(IMAGES[name])), decode_pixels(IMAGES[name])
    assert (found.shape, found.dtype) == (expected.shape, np.uint8)
    assert np.abs(found.astype(int) - expected).max() <= 1


def test_plain_jpegs_do_not_go_through_pillow(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pixels, "decode_rgb", lambda _: pytest.fail("Pillow was asked"))
    for name in ("jpeg 0 95", "jpeg 2 40", "progressive", "grey"):
        assert decode_pixels(IMAGES[name]).ndim == 3


@pytest.mark.parametrize("damage", [b"", b"\xff\xd8", IMAGES["jpeg 0 95"][:700], b"\xff\xd8\xff\xe1\xff\xff", b"no image"])
def test_damaged_images_are_refused_with_the_reason(damage: bytes) -> None:
    with pytest.raises(ImageError):
        decode_pixels(damage)
