"""Images as microscopes, phones, scanners and attackers write them: the right pixels, or a reason."""

from __future__ import annotations

import io
import tracemalloc
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from cdgmae.names import IMAGE_EXTENSIONS
from cdgmae.storage.media.clips import open_clip
from cdgmae.storage.media.images import (
    DEEP_MODES,
    FORMAT_EXTENSIONS,
    ImageError,
    decode_rgb,
    encode_jpeg,
    fit_image,
    image_extension,
    open_image,
    upright_size,
)
from cdgmae.storage.media.pixels import decode_pixels

RAMP = np.linspace(0, 65535, 96 * 96).reshape(96, 96).astype(np.uint16)


def saved(image: Image.Image, kind: str, **options: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, format=kind, **options)
    return buffer.getvalue()


@pytest.mark.parametrize("kind", ["PNG", "TIFF", "PPM"])
@pytest.mark.parametrize("shift", [0, 4])
def test_sixteen_bits_of_grey_are_scaled_by_the_range_of_the_file(kind: str, shift: int) -> None:
    values = RAMP >> shift
    data = saved(Image.fromarray(values), kind)
    assert open_image(data).mode in DEEP_MODES
    expected = np.round((values - float(values.min())) * 255 / (float(values.max()) - float(values.min())))
    for pixels in (np.asarray(decode_rgb(data)), decode_pixels(data)):
        assert pixels.shape == (96, 96, 3)
        assert np.abs(pixels - expected[..., None]).max() <= (1 if kind == "PPM" else 0)


def test_float_images_are_scaled_too_and_a_flat_one_is_black() -> None:
    data = saved(Image.fromarray(np.linspace(-1, 1, 64).reshape(8, 8).astype(np.float32)), "TIFF")
    assert np.asarray(decode_rgb(data))[[0, -1], [0, -1], 0].tolist() == [0, 255]
    assert not np.asarray(decode_rgb(saved(Image.fromarray(np.full((8, 8), 7, np.uint16)), "PNG"))).any()
    with pytest.raises(ImageError, match="NaN or infinite"):
        decode_rgb(saved(Image.fromarray(np.full((8, 8), np.nan, np.float32)), "TIFF"))


@pytest.mark.parametrize(("kind", "ending"), [(kind, ending) for kind, ending in FORMAT_EXTENSIONS.items() if kind != "MPO"])
def test_every_readable_format_is_read_and_keeps_its_ending(kind: str, ending: str) -> None:
    image = Image.fromarray(np.kron(np.arange(12, dtype=np.uint8).reshape(3, 4) * 20, np.ones((16, 16), np.uint8))).convert("RGB")
    data = saved(image, kind)
    assert image_extension(open_image(data)) == ending
    assert f".{ending}" in IMAGE_EXTENSIONS
    assert np.abs(np.asarray(decode_rgb(data)).astype(int) - np.asarray(image)).mean() < 3


@pytest.mark.parametrize("size", [(1, 300), (30_000, 1), (2, 201)])
def test_strips_are_refused_before_anything_scales_them_up(size: tuple[int, int]) -> None:
    with pytest.raises(ImageError, match=f"too narrow \\({size[0]}x{size[1]}, one side may be 100 times the other"):
        decode_rgb(saved(Image.new("1", size), "PNG"))
    assert decode_rgb(saved(Image.new("1", (2, 200)), "PNG")).size == (2, 200)


def test_results_are_bounded_and_an_encoder_s_refusal_is_no_disk_error() -> None:
    with pytest.raises(ImageError, match="too many pixels when scaled"):
        fit_image(Image.new("RGB", (50, 4000)), "shorter_side", 4096)
    with pytest.raises(ImageError, match=r"cannot be encoded as JPEG \(70000x1"):
        encode_jpeg(Image.new("RGB", (70_000, 1)), 90)


def test_what_a_small_jpeg_claims_is_refused_before_it_is_decoded() -> None:
    data = saved(Image.new("RGB", (4000, 4000)), "JPEG", progressive=True)
    scan = data[data.rfind(b"\xff\xda") : -2]
    with pytest.raises(ImageError, match="too many scans"):
        decode_rgb(data[:-2] + scan * 300 + data[-2:])
    plain = saved(Image.new("RGB", (64, 64)), "JPEG")
    size = plain.index(b"\xff\xc0") + 5
    huge = plain[:size] + b"\xff\xdc\xff\xdc" + plain[size + 4 :]  # 65500 x 65500: 12 GB of pixels
    with pytest.raises(ImageError, match=r"too many pixels \(65500x65500"):
        decode_pixels(huge)


def test_deep_images_are_scaled_without_a_copy_in_double_precision() -> None:
    data = saved(Image.fromarray(np.zeros((4000, 4000), np.uint16)), "PNG")
    tracemalloc.start()
    decode_rgb(data)
    assert tracemalloc.get_traced_memory()[1] < 100e6
    tracemalloc.stop()


def test_one_orientation_rule_holds_for_pixels_headers_and_frames(tmp_path: Path) -> None:
    tag = Image.Exif()
    tag[0x0112] = 6
    texture = np.kron(np.arange(12, dtype=np.uint8).reshape(4, 3) * 20, np.ones((16, 16), np.uint8))  # upright: 64 x 48
    data = saved(Image.fromarray(np.rot90(texture)), "PNG", exif=tag)
    assert upright_size(open_image(data)) == (48, 64)
    (tmp_path / "clip").mkdir()
    (tmp_path / "clip/0.png").write_bytes(data)
    frame = next(iter(open_clip(tmp_path / "clip").read([0]))).image
    assert frame is not None
    for pixels in (np.asarray(decode_rgb(data)), decode_pixels(data), np.asarray(frame)):
        assert np.array_equal(pixels[..., 0], texture)
