"""Clips as people make them themselves: filmed upright, numbered without zeros, with folders of tools and objects that come later."""

from __future__ import annotations

import logging
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from drawn_clips import save_ids, save_image, write_davis
from PIL import Image

from cdgmae.propagation.benchmarks.davis import DavisProtocol
from cdgmae.propagation.evaluation import run_propagation
from cdgmae.propagation.layouts.davis_layout import read_davis
from cdgmae.propagation.layouts.labelled_clip import LayoutError
from cdgmae.propagation.layouts.vip_layout import read_vip
from cdgmae.settings.encoder import parse_encoder
from cdgmae.settings.runtime import RuntimeSettings

TEXTURE = np.kron(np.random.default_rng(0).integers(0, 255, (16, 12, 3), dtype=np.uint8), np.ones((16, 16, 1), np.uint8))
"""256 x 192 pixels, upright."""


def phone_clip(root: Path, *, exif: bool, masks_upright: bool = True) -> Path:
    """A textured wall that moves down, filmed upright; with `exif` the stored pixels lie on their side."""
    tag = Image.Exif()
    tag[0x0112] = 6
    for number in range(5):
        mask = np.zeros((256, 192), np.uint8)
        mask[32 + 16 * number : 96 + 16 * number, 48:112] = 1
        image = np.roll(TEXTURE, 16 * number, axis=0)
        path = root / f"JPEGImages/480p/phone/{number:05d}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        stored = Image.fromarray(np.rot90(image) if exif else image)
        stored.save(path, quality=98, **({"exif": tag} if exif else {}))
        save_ids(
            root / f"Annotations/480p/phone/{number:05d}.png", mask if masks_upright else np.ascontiguousarray(np.rot90(mask))
        )
    (root / "ImageSets/2017").mkdir(parents=True)
    (root / "ImageSets/2017/val.txt").write_text("phone\n")
    return root


def judge(root: Path, output: Path) -> dict[str, float]:
    protocol = DavisProtocol(root=str(root), input_size=(256, 192))
    return run_propagation(protocol, parse_encoder("pixels:16"), output, runtime=RuntimeSettings(device="cpu"))


def test_frames_that_lie_on_their_side_are_judged_as_they_are_seen(tmp_path: Path) -> None:
    plain = judge(phone_clip(tmp_path / "plain", exif=False), tmp_path / "plain.parquet")
    turned = judge(phone_clip(tmp_path / "turned", exif=True), tmp_path / "turned.parquet")
    assert plain["J&F"] > 60
    assert turned["J&F"] == pytest.approx(plain["J&F"], abs=2)  # JPEG of the turned pixels differs a little


def test_masks_of_the_stored_pixels_are_refused(tmp_path: Path) -> None:
    with pytest.raises(LayoutError, match=r"Annotations/480p/phone: annotations.*192x256"):
        read_davis(phone_clip(tmp_path, exif=True, masks_upright=False))


@pytest.mark.parametrize("foreign", [".ipynb_checkpoints", "@eaDir", "$RECYCLE.BIN"])
def test_vip_frames_without_leading_zeros_are_in_temporal_order_and_foreign_folders_no_clips(
    tmp_path: Path, foreign: str
) -> None:
    for number in range(12):
        save_image(tmp_path / f"Images/videos1/{number}.jpg", np.zeros((64, 96, 3), np.uint8))
        save_ids(tmp_path / f"Annotations/Category_ids/videos1/{number}.png", np.ones((64, 96), np.uint8), palette=False)
    (tmp_path / "Images" / foreign).mkdir()
    [clip] = read_vip(tmp_path)
    assert [path.stem for path in clip.frames] == [path.stem for path in clip.labels] == [str(number) for number in range(12)]


def test_objects_that_appear_later_are_left_out_and_that_is_said_once(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    root = write_davis(tmp_path / "clips", ("one",))
    for number in (2, 3):
        path = root / f"Annotations/480p/one/{number:05d}.png"
        ids = np.array(Image.open(path))
        ids[:8, :8] = 3
        save_ids(path, ids)
    protocol = DavisProtocol(root=str(root), input_size=(64, 96))
    with caplog.at_level(logging.INFO, "cdgmae"):
        run_propagation(protocol, parse_encoder("pixels:8"), tmp_path / "t.parquet", runtime=RuntimeSettings(device="cpu"))
    said = [record.message for record in caplog.records if "after the first frame" in record.message]
    assert said == ["clip one: objects that appear after the first frame (e.g. in frame 2) are left out, as officially"]
    assert pq.read_table(tmp_path / "t.parquet")["item"].to_pylist() == [1, 2]
