"""Clips of an articulated figure with exact body parts (VIP layout) and joints (JHMDB layout).

Joints are numbered as in JHMDB. Local units: the figure's height is about 1, the belly is the origin, y points down.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from PIL import Image

from cdgmae.demo.painting import Array, Pose, Sprite, ellipse, limb, paint
from cdgmae.demo.scenes import Frame, between, choose_photographs, cut_texture, expose, light, make_background, smooth

JOINTS = (
    "neck", "belly", "face", "right_shoulder", "left_shoulder", "right_hip", "left_hip", "right_elbow", "left_elbow",
    "right_knee", "left_knee", "right_wrist", "left_wrist", "right_ankle", "left_ankle",
)  # fmt: skip
"""The 15 joints in JHMDB's order."""

PART_IDS = {"torso": 5, "legs": 9, "head": 13, "left_arm": 14, "right_arm": 15}
"""VIP's category ids: upper-clothes, pants, face, left arm, right arm."""

UPPER_ARM, FOREARM, THIGH, SHIN = 0.17, 0.16, 0.19, 0.19
LIMBS = (
    ("right_shoulder", "right_elbow", "right_arm", UPPER_ARM, 0.060, 0.052),
    ("right_elbow", "right_wrist", "right_arm", FOREARM, 0.052, 0.045),
    ("right_hip", "right_knee", "legs", THIGH, 0.080, 0.064),
    ("right_knee", "right_ankle", "legs", SHIN, 0.064, 0.052),
    ("left_hip", "left_knee", "legs", THIGH, 0.080, 0.064),
    ("left_knee", "left_ankle", "legs", SHIN, 0.064, 0.052),
    ("neck", "hips", "torso", 0.30, 0.115, 0.105),
    ("neck", "face", "head", 0.0, 0.095, 0.115),
    ("left_shoulder", "left_elbow", "left_arm", UPPER_ARM, 0.060, 0.052),
    ("left_elbow", "left_wrist", "left_arm", FOREARM, 0.052, 0.045),
)
"""Painted in this order: start, end, part, length, radius at the start and at the end (half width and height for the head)."""


@dataclass(frozen=True)
class Swing:
    """An angle that swings: `middle + reach * sin(2 pi (speed * time + phase))`, radians, 0 = hanging down."""

    middle: float
    reach: float
    speed: float
    phase: float

    def at(self, progress: float) -> float:
        """The angle at a time 0..1."""
        return self.middle + self.reach * math.sin(2 * math.pi * (self.speed * progress + self.phase))


@dataclass(frozen=True)
class Movement:
    """How the figure moves: swings of its limbs, and its path, tilt and size in the frame."""

    swings: Mapping[str, Swing]
    start: tuple[float, float]
    end: tuple[float, float]
    tilts: tuple[float, float]
    heights: tuple[float, float]

    def pose(self, progress: float) -> Pose:
        """Local units to frame pixels at a time 0..1."""
        t = smooth(progress)
        x, y = (between(self.start[axis], self.end[axis], t) for axis in (0, 1))
        return Pose(x, y, between(*self.tilts, progress), between(*self.heights, progress))

    def joints(self, progress: float) -> dict[str, Array]:
        """Local positions of all joints, and of `hips`, the middle between the hips."""
        angle = {name: swing.at(progress) for name, swing in self.swings.items()}
        place = {"belly": np.zeros(2), "neck": np.array([0.0, -0.20]), "hips": np.array([0.0, 0.10])}
        place["face"] = place["neck"] + 0.17 * np.array([math.sin(angle["head"]), -math.cos(angle["head"])])
        for side, sign in (("right", -1), ("left", 1)):
            place[f"{side}_shoulder"] = place["neck"] + (sign * 0.125, 0.02)
            place[f"{side}_hip"] = place["hips"] + (sign * 0.065, 0.02)
            upper, leg = sign * angle[f"{side}_arm"], sign * angle[f"{side}_leg"]
            lower, shin = upper + sign * angle[f"{side}_forearm"], leg - sign * angle[f"{side}_shin"]
            place[f"{side}_elbow"] = place[f"{side}_shoulder"] + UPPER_ARM * _hanging(upper)
            place[f"{side}_wrist"] = place[f"{side}_elbow"] + FOREARM * _hanging(lower)
            place[f"{side}_knee"] = place[f"{side}_hip"] + THIGH * _hanging(leg)
            place[f"{side}_ankle"] = place[f"{side}_knee"] + SHIN * _hanging(shin)
        return place

    def frame_joints(self, progress: float) -> Array:
        """Frame positions (x, y) of the 15 joints, shape (15, 2)."""
        joints = self.joints(progress)
        return self.pose(progress).apply(np.stack([joints[name] for name in JOINTS]))


def _hanging(angle: float) -> Array:
    return np.array([math.sin(angle), math.cos(angle)])


def draw_movement(size: tuple[int, int], num_frames: int, rng: np.random.Generator) -> Movement:
    """A random movement that keeps all joints of all frames inside the image."""
    times = np.linspace(0, 1, num_frames)
    margin, travel = 4.0, 0.30
    while True:
        for _ in range(60):
            movement = _any_movement(size, travel, rng)
            joints_FJ2 = np.stack([movement.frame_joints(float(time)) for time in times])
            if (joints_FJ2 >= margin).all() and (joints_FJ2 <= np.array(size) - 1 - margin).all():
                return movement
        travel *= 0.9


def _any_movement(size: tuple[int, int], travel: float, rng: np.random.Generator) -> Movement:
    def swing(middle: tuple[float, float], reach: tuple[float, float]) -> Swing:
        low, high = (math.radians(degrees) for degrees in reach)
        return Swing(math.radians(rng.uniform(*middle)), rng.uniform(low, high), rng.uniform(0.5, 0.9), rng.random())

    swings = {"head": swing((-5, 5), (4, 10))}
    for side in ("right", "left"):
        swings[f"{side}_arm"] = swing((40, 80), (25, 45))
        swings[f"{side}_forearm"] = swing((10, 50), (20, 40))
        swings[f"{side}_leg"] = swing((10, 22), (8, 20))
        swings[f"{side}_shin"] = swing((0, 15), (5, 20))
    width, height = size
    centre = np.array([rng.uniform(0.42, 0.58) * width, rng.uniform(0.44, 0.52) * height])
    direction = rng.uniform(-0.3, 0.3) + (math.pi if rng.random() < 0.5 else 0)
    step = 0.5 * travel * width * np.array([math.cos(direction), math.sin(direction)])
    tilt = math.radians(rng.uniform(6, 16)) * (1 if rng.random() < 0.5 else -1)
    heights = rng.uniform(0.74, 0.82) * height, rng.uniform(0.90, 1.0) * height
    first, last = heights if rng.random() < 0.5 else heights[::-1]
    start, end = centre - step, centre + step
    return Movement(swings, (float(start[0]), float(start[1])), (float(end[0]), float(end[1])), (-tilt, tilt), (first, last))


def draw_figure_clip(
    photographs: Mapping[str, Image.Image], number: int, num_frames: int, size: tuple[int, int], rng: np.random.Generator
) -> list[Frame]:
    """One clip with part labels (`PART_IDS`) and joints.

    Args:
        photographs: RGB images by name.
        number: Number of the clip; decides the background.
        num_frames: Frames to draw.
        size: (width, height) in pixels.
        rng: The clip's generator.
    """
    backdrop, *clothes = choose_photographs(photographs, 4, number, rng)
    background = make_background(photographs[backdrop], size, rng)
    movement = draw_movement(size, num_frames, rng)
    sprites = _dress([photographs[name] for name in clothes], max(movement.heights), rng)
    phase = rng.uniform(0, 2 * math.pi)
    frames = []
    for index in range(num_frames):
        progress = index / (num_frames - 1)
        colours_HWC = background.render(progress, size)
        labels_HW = np.zeros((size[1], size[0]), dtype=np.uint8)
        _paint_figure(colours_HWC, labels_HW, sprites, movement, progress)
        frames.append(Frame(expose(colours_HWC, light(progress, phase), rng), labels_HW, movement.frame_joints(progress)))
    return frames


def _dress(clothes: list[Image.Image], height: float, rng: np.random.Generator) -> list[Sprite]:
    """A texture for each piece of the figure; local units are pixels of a figure of `height` pixels."""
    photograph_of = {"torso": 0, "legs": 1, "head": 2, "left_arm": 1, "right_arm": 2}
    sprites = []
    for _, _, part, length, first, last in LIMBS:
        reach = (length + max(first, last)) * height
        texture, anchor = cut_texture(clothes[photograph_of[part]], reach, 0.5, rng)
        shape = ellipse(first * height, last * height) if part == "head" else limb(length * height, first * height, last * height)
        sprites.append(Sprite(texture, anchor, shape, reach, PART_IDS[part]))
    return sprites


def _paint_figure(
    colours_HWC: Array, labels_HW: np.typing.NDArray[np.uint8], sprites: list[Sprite], movement: Movement, progress: float
) -> None:
    pose, joints = movement.pose(progress), movement.joints(progress)
    texture_scale = pose.scale / max(movement.heights)
    for sprite, (start, end, part, *_) in zip(sprites, LIMBS, strict=True):
        (x0, y0), (x1, y1) = pose.apply(np.stack([joints[start], joints[end]]))
        angle = math.atan2(y1 - y0, x1 - x0)
        if part == "head":
            paint(colours_HWC, labels_HW, sprite, Pose(x1, y1, angle + math.pi / 2, texture_scale))
        else:
            paint(colours_HWC, labels_HW, sprite, Pose(x0, y0, angle, texture_scale))
