"""The same sequence under several encoders (the paper's Figure 4): their strips of painted frames below each other."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont

CAPTION_HEIGHT = 18


def stack_strips(strips: Mapping[str, Path]) -> Image.Image:
    """Strips below each other, each with its caption.

    Args:
        strips: Caption -> image file, e.g. encoder -> results/propagation/ENCODER/strips/SET/SEQUENCE.jpg.

    Raises:
        ValueError: if a strip is not there.
    """
    if missing := [str(path) for path in strips.values() if not path.is_file()]:
        raise ValueError(
            f"no strip {', '.join(missing)}: run `cdgmae propagation run --strips` for it, or check set and sequence"
        )
    images = {caption: Image.open(path).convert("RGB") for caption, path in strips.items()}
    height = sum(CAPTION_HEIGHT + image.height for image in images.values())
    sheet = Image.new("RGB", (max(image.width for image in images.values()), height), "white")
    draw, font, top = ImageDraw.Draw(sheet), ImageFont.load_default(CAPTION_HEIGHT - 5), 0
    for caption, image in images.items():
        draw.text((2, top + 1), caption, fill="black", font=font)
        sheet.paste(image, (0, top + CAPTION_HEIGHT))
        top += CAPTION_HEIGHT + image.height
    return sheet
