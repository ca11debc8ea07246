from __future__ import annotations

import io
import struct
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from torchvision.datasets.folder import pil_loader
from torchvision.transforms import v2

from cdgmae.storage.media.crop_boxes import central_square
from cdgmae.storage.media.images import (
    ImageError,
    center_crop,
    decode_rgb,
    encode_jpeg,
    image_extension,
    open_image,
    resize_shorter_side,
)


def drawn(size: tuple[int, int] = (40, 28)) -> Image.Image:
    coarse = np.random.default_rng(0).integers(0, 256, (5, 7, 3), dtype=np.uint8)
    return Image.fromarray(coarse).resize(size, Image.Resampling.BICUBIC)


def saved(image: Image.Image, format: str, **options: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, format=format, **options)
    return buffer.getvalue()


def with_alpha(mode: str) -> Image.Image:
    image = drawn().convert(mode)
    image.putalpha(Image.linear_gradient("L").resize(image.size))
    return image


def palette_with_transparency() -> bytes:
    return saved(drawn().convert("P"), "PNG", transparency=bytes(range(256)))


KINDS = {
    "rgb jpeg": lambda: saved(drawn(), "JPEG"),
    "grey jpeg": lambda: saved(drawn().convert("L"), "JPEG"),
    "cmyk jpeg": lambda: saved(drawn().convert("CMYK"), "JPEG"),
    "progressive jpeg": lambda: saved(drawn(), "JPEG", progressive=True),
    "palette png": lambda: saved(drawn().convert("P"), "PNG"),
    "palette png with transparency": palette_with_transparency,
    "rgba png": lambda: saved(with_alpha("RGB"), "PNG"),
    "grey alpha png": lambda: saved(with_alpha("L"), "PNG"),
    "one-bit png": lambda: saved(drawn().convert("1"), "PNG"),
    "webp": lambda: saved(drawn(), "WEBP"),
    "rgba webp": lambda: saved(with_alpha("RGB"), "WEBP", lossless=True),
    "several images in one jpeg (mpo)": lambda: saved(drawn(), "MPO", save_all=True, append_images=[drawn()]),
}


@pytest.mark.filterwarnings("ignore:Palette images:UserWarning")
@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_becomes_rgb_as_torchvision_s_loader_makes_it(kind: str, tmp_path: Path) -> None:
    data = KINDS[kind]()
    (tmp_path / "image").write_bytes(data)
    ours, theirs = decode_rgb(data), pil_loader(tmp_path / "image")
    assert ours.mode == theirs.mode == "RGB"
    assert np.array_equal(np.asarray(ours), np.asarray(theirs))
    assert image_extension(open_image(data)) == ("jpg" if "jpeg" in kind else "png" if "png" in kind else "webp")


UPRIGHT = {
    1: lambda a: a,
    2: lambda a: a[:, ::-1],
    3: lambda a: a[::-1, ::-1],
    4: lambda a: a[::-1],
    5: lambda a: a.transpose(1, 0, 2),
    6: lambda a: np.rot90(a, -1),
    7: lambda a: a[::-1, ::-1].transpose(1, 0, 2),
    8: lambda a: np.rot90(a, 1),
}


@pytest.mark.parametrize("orientation", UPRIGHT)
@pytest.mark.parametrize("format", ["JPEG", "PNG", "WEBP"])
def test_exif_rotation_is_applied(orientation: int, format: str) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    plain = np.asarray(decode_rgb(saved(drawn(), format)))
    assert np.array_equal(np.asarray(decode_rgb(saved(drawn(), format, exif=exif))), UPRIGHT[orientation](plain))


@pytest.mark.filterwarnings("ignore:Corrupt EXIF data:UserWarning")
def test_unreadable_exif_does_not_spoil_good_pixels() -> None:
    broken = b"Exif\0\0" + b"II*\0" + struct.pack("<IH", 8, 900) + b"\xff" * 30
    data = saved(drawn(), "JPEG", exif=broken)
    assert np.array_equal(np.asarray(decode_rgb(data)), np.asarray(decode_rgb(saved(drawn(), "JPEG"))))


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", "empty file"),
        (b"hello", "not an image of a known format"),
        (saved(drawn((400, 300)), "JPEG")[:100], r"corrupt or truncated image \(\w+ in the header\)"),
        (saved(drawn(), "PCX"), "not an image of a known format"),
        (saved(drawn(), "SGI"), "not an image of a known format"),
        (saved(drawn((400, 300)), "JPEG")[:-2000], "corrupt or truncated"),
        (saved(drawn((400, 300)), "PNG")[:-2000], "corrupt or truncated"),
        (saved(drawn((400, 300)), "WEBP")[:-500], "corrupt or truncated|not an image of a known format"),
    ],
)
def test_unusable_files_give_a_reason(data: bytes, reason: str) -> None:
    with pytest.raises(ImageError, match=reason):
        decode_rgb(data)


def test_a_bomb_is_refused_before_its_pixels_are_decoded() -> None:
    data = saved(Image.new("1", (12_000, 12_000)), "PNG")
    assert len(data) < 1_000_000
    with pytest.raises(ImageError, match=r"too many pixels \(12000x12000"):
        decode_rgb(data)
    with pytest.raises(ImageError, match="the limit is 1000"):
        decode_rgb(saved(drawn(), "PNG"), max_pixels=1000)


@pytest.mark.parametrize(
    ("size", "expected"), [((40, 28), (22, 16)), ((28, 40), (16, 22)), ((16, 16), (16, 16)), ((5, 500), (16, 1600))]
)
def test_the_shorter_side_gets_the_asked_size(size: tuple[int, int], expected: tuple[int, int]) -> None:
    resized = resize_shorter_side(drawn(size), 16)
    assert resized.size == expected
    assert resized.size == v2.Resize(16, v2.InterpolationMode.BICUBIC)(drawn(size)).size
    assert center_crop(resized, 16).size == (16, 16)


@pytest.mark.parametrize("size", [(39, 28), (37, 28), (35, 31), (28, 41), (28, 28), (101, 29)])
def test_the_central_square_is_torchvision_s_where_margins_are_odd(size: tuple[int, int]) -> None:
    image = Image.fromarray(np.random.default_rng(2).integers(0, 256, (*size[::-1], 3), dtype=np.uint8))
    assert np.array_equal(np.asarray(center_crop(image, 28)), np.asarray(v2.CenterCrop(28)(image)))
    assert np.array_equal(np.asarray(image.crop(central_square(size))), np.asarray(v2.CenterCrop(min(size))(image)))


def test_quality_decides_chroma_subsampling() -> None:
    def sampling(data: bytes) -> int:
        return Image.open(io.BytesIO(data)).layer[0][1]

    assert (sampling(encode_jpeg(drawn(), 95)), sampling(encode_jpeg(drawn(), 80))) == (1, 2)
