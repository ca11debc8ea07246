"""Clips of one or two objects that move, turn and grow over a panning background (DAVIS layout)."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from PIL import Image

from cdgmae.demo.painting import Pose, Sprite, blob, paint
from cdgmae.demo.scenes import Background, Frame, choose_photographs, cut_texture, expose, light, make_background, smooth

OBJECT_RADIUS = 0.21
"""Radius of an object at scale 1, as a share of the frame's height."""

DECOY_SIZE = 0.6
"""Radius of the shape that only looks like an object, in object radii."""

CANDIDATES = 16


@dataclass(frozen=True)
class Motion:
    """A smooth path with turning and growing: a quadratic curve through three frame positions."""

    start: tuple[float, float]
    middle: tuple[float, float]
    end: tuple[float, float]
    first_angle: float
    turn: float
    first_scale: float
    last_scale: float

    def pose(self, progress: float) -> Pose:
        """Where the object is at a time 0..1."""
        t = smooth(progress)
        weights = ((1 - t) ** 2, 2 * t * (1 - t), t**2)
        x, y = (sum(w * p[axis] for w, p in zip(weights, (self.start, self.middle, self.end), strict=True)) for axis in (0, 1))
        scale = self.first_scale * (self.last_scale / self.first_scale) ** progress
        return Pose(x, y, self.first_angle + self.turn * t, scale)


def draw_motion(size: tuple[int, int], rng: np.random.Generator) -> Motion:
    """A random motion: at least 40 % of the width travelled, 30 to 60 degrees turned, scale within 0.72 to 1.38.

    Centres stay in the inner part of the frame, so an object is never outside.
    """
    width, height = size
    low, high = np.array([0.2 * width, 0.25 * height]), np.array([0.8 * width, 0.75 * height])
    while True:
        start, middle, end = rng.uniform(low, high, (3, 2))
        if np.hypot(*(end - start)) >= 0.4 * width:
            break
    scales = (rng.uniform(0.72, 0.9), rng.uniform(1.15, 1.38))
    first, last = scales if rng.random() < 0.5 else scales[::-1]
    turn = math.radians(rng.uniform(30, 60)) * (1 if rng.random() < 0.5 else -1)
    points = [(float(x), float(y)) for x, y in (start, middle, end)]
    return Motion(points[0], points[1], points[2], rng.uniform(-0.3, 0.3), turn, first, last)


def draw_object_clip(
    photographs: Mapping[str, Image.Image], number: int, num_frames: int, size: tuple[int, int], rng: np.random.Generator
) -> list[Frame]:
    """One clip; labels are 1 and, in every second clip, 2.

    A smaller shape with label 0, cut from another place of the first object's photograph, is fixed to the background away from
    where the objects start: they may come near it later, and colour alone does not tell it from the object.

    Args:
        photographs: RGB images by name.
        number: Number of the clip; decides the photographs it starts from and how many objects it has.
        num_frames: Frames to draw.
        size: (width, height) in pixels.
        rng: The clip's generator.
    """
    num_objects = 1 + number % 2
    backdrop, *subjects = choose_photographs(photographs, num_objects + 1, number, rng)
    background = make_background(photographs[backdrop], size, rng)
    radius = OBJECT_RADIUS * size[1]
    sprites = [_cut_object(photographs[name], radius, label, rng) for label, name in enumerate(subjects, start=1)]
    decoy = _cut_decoy(sprites[0], DECOY_SIZE * radius, rng)
    motions = _separate_motions(size, [sprite.reach for sprite in sprites], rng)
    decoy_place = _away_from_starts(motions, background, size, rng)
    phase = rng.uniform(0, 2 * math.pi)
    frames = []
    for index in range(num_frames):
        progress = index / (num_frames - 1)
        colours_HWC = background.render(progress, size)
        labels_HW = np.zeros((size[1], size[0]), dtype=np.uint8)
        paint(colours_HWC, labels_HW, decoy, background.attached(decoy_place, progress, size))
        for sprite, motion in zip(sprites, motions, strict=True):
            paint(colours_HWC, labels_HW, sprite, motion.pose(progress))
        frames.append(Frame(expose(colours_HWC, light(progress, phase), rng), labels_HW))
    return frames


def _cut_object(photograph: Image.Image, radius: float, label: int, rng: np.random.Generator) -> Sprite:
    texture, anchor = cut_texture(photograph, radius, 0.42, rng)
    shape, reach = blob(radius, rng)
    return Sprite(texture, anchor, shape, reach, label)


def _separate_motions(size: tuple[int, int], reaches: list[float], rng: np.random.Generator) -> list[Motion]:
    """Motions whose objects never hide more than a part of each other; the distance asked for shrinks while none is found."""
    demanded = 0.8
    while True:
        for _ in range(50):
            motions = [draw_motion(size, rng) for _ in reaches]
            if _clearance(motions, reaches) >= demanded:
                return motions
        demanded *= 0.95


def _clearance(motions: list[Motion], reaches: list[float]) -> float:
    """Smallest distance between two objects over the clip, in sums of their reaches; infinite for one object."""
    clearance = math.inf
    for progress in np.linspace(0, 1, 25):
        poses = [motion.pose(float(progress)) for motion in motions]
        for later in range(1, len(poses)):
            for earlier in range(later):
                distance = math.hypot(poses[later].x - poses[earlier].x, poses[later].y - poses[earlier].y)
                together = reaches[later] * poses[later].scale + reaches[earlier] * poses[earlier].scale
                clearance = min(clearance, distance / together)
    return clearance


def _cut_decoy(original: Sprite, radius: float, rng: np.random.Generator) -> Sprite:
    """A shape from the same photograph, as far from the original's place as a few draws give."""
    shape, reach = blob(radius, rng)
    extent = np.array(original.texture.size) - 2 * reach
    places = reach + rng.random((CANDIDATES, 2)) * extent
    distances = np.hypot(*(places - np.array(original.anchor)).T)
    x, y = places[int(distances.argmax())]
    return Sprite(original.texture, (float(x), float(y)), shape, reach, 0)


def _away_from_starts(
    motions: list[Motion], background: Background, size: tuple[int, int], rng: np.random.Generator
) -> tuple[float, float]:
    """A place on the background photograph that is far from all objects during the first third of the clip."""
    places = rng.uniform(0.15, 0.85, (CANDIDATES, 2)) * np.array(size)
    poses = [motion.pose(float(progress)) for motion in motions for progress in np.linspace(0, 0.35, 5)]
    distances = np.min([np.hypot(places[:, 0] - pose.x, places[:, 1] - pose.y) for pose in poses], axis=0)
    x, y = places[int(distances.argmax())]
    view, anchor = background.pose(0.0, size)
    local_x, local_y = view.to_local(np.array(x), np.array(y))
    return anchor[0] + float(local_x), anchor[1] + float(local_y)
