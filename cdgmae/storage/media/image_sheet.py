"""Images in captioned columns on one sheet, for people to look at: the one arrangement of panels and figures."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont

from cdgmae.storage.files.atomic import atomic_file

CAPTION_SHARE = 12
"""Captions are a twelfth of an image's side high, so that they stay readable where sheets are reduced."""

GAP = 2
FORMATS = {".png": "PNG", ".jpg": "JPEG", ".jpeg": "JPEG"}
MIN_SIDE = 144
"""Smaller images are shown enlarged to this side, so that captions fit above them."""


def join_columns(columns: Mapping[str, Sequence[Image.Image]]) -> Image.Image:
    """Square images below their caption, column by column.

    Args:
        columns: Caption -> images; all columns have equally many.
    """
    stacks = list(columns.values())
    side = max(MIN_SIDE, stacks[0][0].width)
    font = ImageFont.load_default(side / CAPTION_SHARE)
    top = round(1.5 * side / CAPTION_SHARE)
    width, height = len(columns) * (side + GAP) - GAP, top + len(stacks[0]) * (side + GAP)
    sheet = Image.new("RGB", (width, height), "white")
    draw = ImageDraw.Draw(sheet)
    for column, (caption, images) in enumerate(columns.items()):
        left = column * (side + GAP)
        draw.text((left + 1, 1), caption, fill="black", font=font)
        for row, image in enumerate(images):
            sheet.paste(image.resize((side, side), Image.Resampling.NEAREST), (left, top + row * (side + GAP)))
    return sheet


def write_sheet(path: Path, sheet: Image.Image) -> None:
    """Write a sheet in the format that the file's ending names, whole or not at all.

    Raises:
        ValueError: for another ending than those of `FORMATS`.
    """
    if path.suffix.lower() not in FORMATS:
        raise ValueError(f"--output {path}: the ending must be one of {', '.join(FORMATS)}")
    with atomic_file(path) as temporary:
        sheet.save(temporary, format=FORMATS[path.suffix.lower()], quality=90)
