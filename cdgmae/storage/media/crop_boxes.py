"""Random crops (spec cross_view_mae 2.3), in torchvision's RandomResizedCrop semantics, drawn without looking at pixels.

Boxes are shares of the image's sides, so that one draw fits views of different sizes.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np

from cdgmae.settings.crops import CropPairSettings

MAX_TRIES = 10


class PixelBox(NamedTuple):
    """A rectangle of whole pixels; right and bottom are the first column and row outside."""

    left: int
    top: int
    right: int
    bottom: int

    @property
    def size(self) -> tuple[int, int]:
        """(width, height)."""
        return self.right - self.left, self.bottom - self.top

    def moved(self, left: int, top: int) -> PixelBox:
        """The box so many pixels further right and down."""
        return PixelBox(self.left + left, self.top + top, self.right + left, self.bottom + top)


def central_square(size: tuple[int, int]) -> PixelBox:
    """The largest square in the middle of an image of `size` (width, height), as `center_crop` cuts it."""
    side = min(size)
    left, top = (round((length - side) / 2) for length in size)
    return PixelBox(left, top, left + side, top + side)


class CropBox(NamedTuple):
    """A crop as shares of the image's width and height, all in 0..1."""

    left: float
    top: float
    width: float
    height: float

    def pixels(self, size: tuple[int, int]) -> PixelBox:
        """The box in an image of `size` (width, height) pixels; never empty."""
        left, top = round(self.left * size[0]), round(self.top * size[1])
        right = min(size[0], max(left + 1, round((self.left + self.width) * size[0])))
        bottom = min(size[1], max(top + 1, round((self.top + self.height) * size[1])))
        return PixelBox(min(left, right - 1), min(top, bottom - 1), right, bottom)


class SamplePlan(NamedTuple):
    """What one sample shows: the target first, then the anchors.

    A region is a part of an image that is cut out and scaled to a square of the output size. There is one per shown view, or a single
    one that all views show.
    """

    images: list[int]
    """Place in the bag of each region's image; 0 is the real image."""
    regions: list[PixelBox]
    """Each region, in pixels of its image."""
    flips: list[bool]
    """Whether each view is mirrored at the end."""
    nested: list[PixelBox] | None = None
    """The part of the scaled region that each view shows, scaled up again; none: views show whole regions."""


def draw_crop(
    generator: np.random.Generator, size: tuple[int, int], scale: tuple[float, float], ratio: tuple[float, float]
) -> CropBox:
    """Draw a crop as RandomResizedCrop does.

    Up to ten tries of {area uniform in `scale`, log-uniform aspect `ratio`}, the first that fits is placed uniformly; else the
    central crop clamped to the ratio range.

    Args:
        generator: Source of randomness.
        size: Image (width, height) in pixels.
        scale: Range of the area share, 0..1.
        ratio: Range of width / height.
    """
    width, height = size
    for _ in range(MAX_TRIES):
        area = width * height * generator.uniform(*scale)
        aspect = math.exp(generator.uniform(math.log(ratio[0]), math.log(ratio[1])))
        w, h = round(math.sqrt(area * aspect)), round(math.sqrt(area / aspect))
        if 0 < w <= width and 0 < h <= height:
            left, top = int(generator.integers(0, width - w + 1)), int(generator.integers(0, height - h + 1))
            return CropBox(left / width, top / height, w / width, h / height)
    aspect = min(max(width / height, ratio[0]), ratio[1])
    w, h = (width, round(width / aspect)) if width / height < ratio[0] else (round(height * aspect), height)
    w, h = min(w, width), min(h, height)
    return CropBox((width - w) // 2 / width, (height - h) // 2 / height, w / width, h / height)


def draw_flip(generator: np.random.Generator) -> bool:
    """Whether a view is mirrored left-right: one in two."""
    return bool(generator.random() < 0.5)


def plan_crop_pair(
    settings: CropPairSettings, generator: np.random.Generator, size: tuple[int, int], output_size: int
) -> SamplePlan:
    """CropMAE's four strategies: [target, anchor] from one image, flips drawn independently unless the views are the same.

    Args:
        settings: Which crop is which, and how large they are.
        generator: Source of randomness.
        size: Image (width, height) in pixels.
        output_size: Side of both crops in pixels.
    """
    ratio = settings.crop_ratio
    first = draw_crop(generator, size, settings.global_crop_scale, ratio).pixels(size)
    if settings.crop_strategy == "same_views":
        return SamplePlan([0], [first], [draw_flip(generator)] * 2)
    if settings.crop_strategy == "random_views":
        second = draw_crop(generator, size, settings.global_crop_scale, ratio).pixels(size)
        flips = [draw_flip(generator), draw_flip(generator)]
        return SamplePlan([0, 0], [second, first], flips[::-1])
    # the local crop is nested: cut from the already scaled global one
    square = (output_size, output_size)
    local = draw_crop(generator, square, settings.local_crop_scale, ratio).pixels(square)
    views = [PixelBox(0, 0, *square), local]
    flips = [draw_flip(generator), draw_flip(generator)]
    if settings.crop_strategy == "global_to_local":
        views, flips = views[::-1], flips[::-1]
    return SamplePlan([0], [first], flips, views)
