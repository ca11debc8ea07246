"""Painting textured shapes onto an image: colours with soft edges, labels with exact ones, both from the same geometry.

Positions are (x, y) in pixels with pixel centres at whole numbers; angles in radians, clockwise on the screen (y points down).
Shapes: H, W = height and width of the frame; arrays `name_HW` hold one value per pixel.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image

Array = NDArray[np.float64]
Shape = Callable[[Array, Array], Array]
"""Signed distance to an outline at local positions (x, y): negative inside, in local units."""


@dataclass(frozen=True, slots=True)
class Pose:
    """A similarity from local to frame positions: scale, then turn, then move to (x, y)."""

    x: float
    y: float
    angle: float = 0.0
    scale: float = 1.0

    def apply(self, local_P2: Array) -> Array:
        """Frame positions of local ones, shape (P, 2)."""
        cos, sin = self.scale * math.cos(self.angle), self.scale * math.sin(self.angle)
        turned_P2: Array = local_P2 @ np.array([[cos, sin], [-sin, cos]])
        turned_P2 += np.array([self.x, self.y])
        return turned_P2

    def to_local(self, x: Array, y: Array) -> tuple[Array, Array]:
        """Local positions of frame ones."""
        cos, sin = math.cos(self.angle) / self.scale, math.sin(self.angle) / self.scale
        return cos * (x - self.x) + sin * (y - self.y), -sin * (x - self.x) + cos * (y - self.y)


@dataclass(frozen=True)
class Sprite:
    """A piece of a photograph with an outline.

    Attributes:
        texture: The photograph, one of its pixels per local unit.
        anchor: Position in the photograph that lies at the local origin.
        shape: The outline.
        reach: Radius around the local origin that holds the whole shape.
        label: Value painted into the label image; 0 is background.
    """

    texture: Image.Image
    anchor: tuple[float, float]
    shape: Shape
    reach: float
    label: int


def paint(colours_HWC: Array, labels_HW: NDArray[np.uint8], sprite: Sprite, pose: Pose) -> None:
    """Paint one sprite over an image, in place; colours are blended over one pixel at the outline, labels are not."""
    height, width = labels_HW.shape
    reach = sprite.reach * pose.scale + 2
    left, right = max(0, math.floor(pose.x - reach)), min(width, math.ceil(pose.x + reach) + 1)
    top, bottom = max(0, math.floor(pose.y - reach)), min(height, math.ceil(pose.y + reach) + 1)
    if left >= right or top >= bottom:
        return
    y, x = np.mgrid[top:bottom, left:right].astype(np.float64)
    distance_HW = sprite.shape(*pose.to_local(x, y)) * pose.scale
    moved = Pose(pose.x - left, pose.y - top, pose.angle, pose.scale)
    texture_HWC = warp(sprite.texture, sprite.anchor, moved, (right - left, bottom - top))
    opacity_HW1 = np.clip(0.5 - distance_HW, 0.0, 1.0)[..., None]
    region = colours_HWC[top:bottom, left:right]
    region += opacity_HW1 * (texture_HWC - region)
    labels_HW[top:bottom, left:right][distance_HW < 0] = sprite.label


def warp(photograph: Image.Image, anchor: tuple[float, float], pose: Pose, size: tuple[int, int]) -> Array:
    """The photograph seen through a pose, bicubic; `anchor` (photograph pixels) appears at the pose's position.

    Args:
        photograph: RGB image.
        anchor: Position in the photograph of the local origin.
        pose: Local to frame.
        size: (width, height) of the result.

    Returns:
        Colours 0..255, shape (height, width, 3).
    """
    cos, sin = math.cos(pose.angle) / pose.scale, math.sin(pose.angle) / pose.scale
    origin_x = anchor[0] - cos * pose.x - sin * pose.y
    origin_y = anchor[1] + sin * pose.x - cos * pose.y
    # Pillow counts from pixel corners, this module from pixel centres: shift by half a pixel on both sides.
    shift_x, shift_y = 0.5 - 0.5 * (cos + sin), 0.5 - 0.5 * (cos - sin)
    matrix = (cos, sin, origin_x + shift_x, -sin, cos, origin_y + shift_y)
    return np.asarray(photograph.transform(size, Image.Transform.AFFINE, matrix, Image.Resampling.BICUBIC), dtype=np.float64)


def blob(radius: float, rng: np.random.Generator, roughness: float = 0.13) -> tuple[Shape, float]:
    """A smooth random outline around the origin and its reach: radius varied by a few low frequencies (at most 3 x roughness)."""
    frequencies = np.arange(2, 6)
    amplitudes = roughness * rng.uniform(0.3, 1.0, 4) * np.array([1.0, 0.8, 0.6, 0.4])
    phases = rng.uniform(0, 2 * math.pi, 4)

    def distance(x: Array, y: Array) -> Array:
        angle = np.arctan2(y, x)
        outline = sum(a * np.cos(f * angle + p) for f, a, p in zip(frequencies, amplitudes, phases, strict=True))
        gap: Array = np.hypot(x, y) - radius * (1.0 + outline)
        return gap

    return distance, radius * (1.0 + float(amplitudes.sum()))


def ellipse(half_width: float, half_height: float) -> Shape:
    """An upright ellipse around the origin; the distance is exact at the outline and approximate elsewhere."""

    def distance(x: Array, y: Array) -> Array:
        level = np.hypot(x / half_width, y / half_height)
        slope = np.hypot(x / half_width**2, y / half_height**2)
        return level * (level - 1.0) / np.maximum(slope, 1e-9)

    return distance


def limb(length: float, start_radius: float, end_radius: float) -> Shape:
    """A rounded bar from the origin along the positive x axis, its radius changing evenly."""

    def distance(x: Array, y: Array) -> Array:
        along = np.clip(x / length, 0.0, 1.0)
        return np.hypot(x - along * length, y) - (start_radius + (end_radius - start_radius) * along)

    return distance
