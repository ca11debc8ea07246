"""Images side by side in one strip, for people to look at."""

from __future__ import annotations

from collections.abc import Collection, Sequence

from PIL import Image

GAP = 4
"""Pixels between two images of a strip, and the width of a frame."""

FRAME_COLOUR = (214, 39, 40)


def join_strip(images: Sequence[Image.Image], framed: Collection[int] = ()) -> Image.Image:
    """Images from left to right, enlarged to the tallest one.

    Args:
        images: At least one RGB image.
        framed: Places (0 = leftmost) of images that get a red frame.
    """
    height = max(image.height for image in images)
    scaled = [image.resize((round(image.width * height / image.height), height), Image.Resampling.BICUBIC) for image in images]
    border = GAP if framed else 0
    width = sum(image.width for image in scaled) + GAP * (len(scaled) - 1) + 2 * border
    strip = Image.new("RGB", (width, height + 2 * border), "white")
    left = border
    for place, image in enumerate(scaled):
        if place in framed:
            strip.paste(FRAME_COLOUR, (left - GAP, 0, left + image.width + GAP, height + 2 * GAP))
        strip.paste(image, (left, border))
        left += image.width + GAP
    return strip
