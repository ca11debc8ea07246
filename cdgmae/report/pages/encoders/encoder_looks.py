"""What each judged encoder looks at, on a few images of the first data set: one sheet of attention maps per encoder."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from PIL import Image

from cdgmae.models.encoders.by_name import load_encoder
from cdgmae.report.figures.attention_maps import attention_sheet
from cdgmae.report.figures.chosen_images import read_images
from cdgmae.runtime.compute import start_compute
from cdgmae.settings.encoder import EncoderSettings
from cdgmae.settings.runtime import RuntimeSettings
from cdgmae.storage.media.image_sheet import write_sheet

ATTENTION = "attention"
NUM_IMAGES = 3


@dataclass(frozen=True, slots=True)
class EncoderLook:
    """One encoder's sheet: its file relative to the page, or why there is none."""

    name: str
    file: str | None
    problem: str | None = None


def draw_looks(encoders: Mapping[str, EncoderSettings], shard: Path, folder: Path) -> list[EncoderLook]:
    """Draw a sheet per encoder into `folder`/attention, which is replaced.

    Args:
        encoders: As the command line takes them.
        shard: Image shard.
        folder: Folder of the page.

    Returns:
        A sheet, or why there is none, per encoder; nothing without encoders or images.
    """
    shutil.rmtree(folder / ATTENTION, ignore_errors=True)
    if not encoders or not shard.is_file():
        return []
    images = list(read_images([shard], NUM_IMAGES).values())
    return [_draw(name, encoder, images, folder) for name, encoder in encoders.items()]


def _draw(name: str, settings: EncoderSettings, images: list[Image.Image], folder: Path) -> EncoderLook:
    file = f"{ATTENTION}/{name}.jpg"
    try:
        device = start_compute(RuntimeSettings(device="cpu")).device
        write_sheet(folder / file, attention_sheet(load_encoder(settings, device=device), images))
    except (ValueError, OSError) as error:  # weights that are gone by now must not cost the report
        return EncoderLook(name, None, str(error))
    return EncoderLook(name, file)
