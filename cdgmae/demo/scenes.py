"""What every clip shares: a photo background that pans, textures cut from photographs, changing light."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from cdgmae.demo.painting import Array, Pose, warp

SENSOR_NOISE = 3.0
"""Standard deviation of the noise added to every frame, in grey levels."""


@dataclass(frozen=True)
class Frame:
    """One drawn frame: colours (H, W, 3), labels (H, W), and for figures the 15 joints as (x, y) pixels, shape (15, 2)."""

    colours_HWC: NDArray[np.uint8]
    labels_HW: NDArray[np.uint8]
    joints_J2: Array | None = None


def smooth(progress: float) -> float:
    """0 to 1 with a gentle start and end."""
    return progress * progress * (3.0 - 2.0 * progress)


def between(start: float, end: float, progress: float) -> float:
    """Even change from start to end."""
    return start + (end - start) * progress


@dataclass(frozen=True)
class Background:
    """A photograph that slides, turns and grows slowly behind everything.

    Attributes:
        photograph: RGB, larger than the frame.
        start: Photograph position at the frame's centre at the beginning.
        end: The same at the end.
        turn: Change of angle over the clip, radians.
        growth: Scale at the end; 1 at the beginning.
    """

    photograph: Image.Image
    start: tuple[float, float]
    end: tuple[float, float]
    turn: float
    growth: float

    def pose(self, progress: float, size: tuple[int, int]) -> tuple[Pose, tuple[float, float]]:
        """The view at a time 0..1 as a pose and the photograph position at its origin."""
        anchor = (between(self.start[0], self.end[0], progress), between(self.start[1], self.end[1], progress))
        centre_x, centre_y = (size[0] - 1) / 2, (size[1] - 1) / 2
        return Pose(centre_x, centre_y, self.turn * (progress - 0.5), between(1.0, self.growth, progress)), anchor

    def render(self, progress: float, size: tuple[int, int]) -> Array:
        """Colours of the whole frame, (H, W, 3)."""
        pose, anchor = self.pose(progress, size)
        return warp(self.photograph, anchor, pose, size)

    def attached(self, position: tuple[float, float], progress: float, size: tuple[int, int]) -> Pose:
        """The pose of something fixed to a photograph position."""
        pose, anchor = self.pose(progress, size)
        x, y = pose.apply(np.array([[position[0] - anchor[0], position[1] - anchor[1]]]))[0]
        return Pose(float(x), float(y), pose.angle, pose.scale)


def make_background(photograph: Image.Image, size: tuple[int, int], rng: np.random.Generator) -> Background:
    """A background with a pan of 15 to 30 % of the frame's shorter side; the frame never sees beyond the photograph."""
    width, height = size
    factor = max(1.5 * width / photograph.width, 1.5 * height / photograph.height)
    photograph = _scaled(photograph, factor)
    turn, growth = rng.uniform(-0.12, 0.12), rng.uniform(1.0, 1.12)
    margin_x = (width + height * abs(turn) / 2) / 2 + 3
    margin_y = (height + width * abs(turn) / 2) / 2 + 3
    direction, length = rng.uniform(0, 2 * math.pi), rng.uniform(0.15, 0.30) * min(size)
    step = np.array([math.cos(direction), math.sin(direction)]) * length
    low = np.array([margin_x, margin_y]) + np.maximum(-step, 0)
    high = np.array([photograph.width - margin_x, photograph.height - margin_y]) - np.maximum(step, 0)
    start = rng.uniform(np.minimum(low, high), np.maximum(low, high))
    end = start + step
    return Background(photograph, (float(start[0]), float(start[1])), (float(end[0]), float(end[1])), turn, growth)


def cut_texture(
    photograph: Image.Image, radius: float, share: float, rng: np.random.Generator
) -> tuple[Image.Image, tuple[float, float]]:
    """A photograph scaled so that a disc of `radius` pixels shows `share` of its shorter side, and a well-structured place in it.

    Returns:
        The scaled photograph and the disc's centre, at least 1.45 radii from every edge.
    """
    scaled = _scaled(photograph, 2 * radius / (share * min(photograph.size)))
    margin = 1.45 * radius
    grey = np.asarray(scaled.convert("L"), dtype=np.float64)
    best, best_contrast = (scaled.width / 2, scaled.height / 2), -1.0
    for _ in range(8):
        x, y = rng.uniform(margin, scaled.width - margin), rng.uniform(margin, scaled.height - margin)
        window = grey[int(y - radius) : int(y + radius), int(x - radius) : int(x + radius)]
        if window.std() > best_contrast:
            best, best_contrast = (float(x), float(y)), float(window.std())
    return scaled, best


def choose_photographs(photographs: Mapping[str, Image.Image], count: int, first: int, rng: np.random.Generator) -> Sequence[str]:
    """`count` different photographs; the first one goes round with the clip's number so that clips differ."""
    names = list(photographs)
    leading = names[first % len(names)]
    others = [name for name in names if name != leading]
    return [leading, *(others[int(index)] for index in rng.permutation(len(others))[: count - 1])]


def light(progress: float, phase: float) -> float:
    """Brightness factor at a time 0..1: slow waves of 12 %."""
    return 1.0 + 0.12 * math.sin(2 * math.pi * 0.8 * progress + phase)


def expose(colours_HWC: Array, brightness: float, rng: np.random.Generator) -> NDArray[np.uint8]:
    """The frame as a camera would store it: brightness, a little noise, 8 bits."""
    noisy = colours_HWC * brightness + rng.normal(0.0, SENSOR_NOISE, colours_HWC.shape)
    return np.clip(np.rint(noisy), 0, 255).astype(np.uint8)


def _scaled(photograph: Image.Image, factor: float) -> Image.Image:
    size = (math.ceil(photograph.width * factor), math.ceil(photograph.height * factor))
    return photograph.resize(size, Image.Resampling.LANCZOS)
