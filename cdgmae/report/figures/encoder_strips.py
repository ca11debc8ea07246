"""The same sequence under several encoders (the paper's Figure 3): their strips of painted frames below each other."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont

from cdgmae.storage.media.images import decode_rgb

CAPTION_HEIGHT = 18


def stack_strips(files: Sequence[Path]) -> Image.Image:
    """Strips below each other, each with its encoder and sequence as caption.

    Args:
        files: As `cdgmae propagation run --strips` writes them: .../ENCODER/strips/SET/SEQUENCE.jpg.

    Raises:
        ValueError: if a strip is not there or cannot be read.
    """
    if missing := [str(path) for path in files if not path.is_file()]:
        raise ValueError(
            f"no strip {', '.join(missing)}; `cdgmae propagation run --strips` writes ENCODER/strips/SET/SEQUENCE.jpg"
        )
    images = {
        f"{path.parts[-4] if len(path.parts) > 3 else path.parent}, {path.stem}": decode_rgb(path.read_bytes()) for path in files
    }
    height = sum(CAPTION_HEIGHT + image.height for image in images.values())
    sheet = Image.new("RGB", (max(image.width for image in images.values()), height), "white")
    draw, font, top = ImageDraw.Draw(sheet), ImageFont.load_default(CAPTION_HEIGHT - 5), 0
    for caption, image in images.items():
        draw.text((2, top + 1), caption, fill="black", font=font)
        sheet.paste(image, (0, top + CAPTION_HEIGHT))
        top += CAPTION_HEIGHT + image.height
    return sheet
