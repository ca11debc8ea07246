from __future__ import annotations

import math

import numpy as np
import pytest
from PIL import Image

from cdgmae.demo.figures import JOINTS, PART_IDS, draw_figure_clip, draw_movement
from cdgmae.demo.objects import draw_motion
from cdgmae.demo.painting import Pose, Sprite, blob, ellipse, limb, paint, warp
from cdgmae.demo.photographs import load_photographs


def gradient() -> Image.Image:
    """Red is 4x, green is 4y: a colour says where in the image it comes from, to a quarter of a pixel."""
    y, x = np.mgrid[0:64, 0:64]
    return Image.fromarray(np.stack([4 * x, 4 * y, np.zeros_like(x)], axis=-1).astype(np.uint8))


@pytest.mark.parametrize("pose", [Pose(30, 20), Pose(30.5, 20.25, 0.4, 1.0), Pose(30, 20, -1.0, 1.3), Pose(25, 22, 2.0, 0.8)])
def test_a_warp_shows_at_each_pixel_the_photograph_s_place_that_the_pose_names(pose: Pose) -> None:
    seen = warp(gradient(), (30.0, 33.0), pose, (60, 40))
    y, x = np.mgrid[0:40, 0:60].astype(float)
    local_x, local_y = pose.to_local(x, y)
    place = np.stack([30 + local_x, 33 + local_y], axis=-1)
    inside = ((place > 3) & (place < 60)).all(axis=-1)
    assert inside.mean() > 0.25
    assert np.abs(seen[..., :2] - 4 * place)[inside].max() < 1.5  # half a pixel off would be 2 or more


def test_a_pose_and_its_inverse_agree() -> None:
    pose, points = Pose(3.0, -2.0, 0.7, 1.7), np.random.default_rng(0).normal(size=(10, 2))
    moved = pose.apply(points)
    assert np.allclose(np.stack(pose.to_local(moved[:, 0], moved[:, 1]), axis=1), points)


@pytest.mark.parametrize("shape", [limb(20, 5, 5), ellipse(12, 7)])
def test_areas_are_those_of_the_shapes(shape: object) -> None:
    labels = np.zeros((80, 80), np.uint8)
    paint(np.zeros((80, 80, 3)), labels, Sprite(gradient(), (32, 32), shape, 30, 3), Pose(40, 40, 0.5, 1.2))
    expected = {limb: 20 * 10 + math.pi * 25, ellipse: math.pi * 84}[limb if labels.sum() / 3 > 400 else ellipse] * 1.44
    assert (labels == 3).sum() == pytest.approx(expected, rel=0.03)


def test_labels_and_colours_share_their_outline() -> None:
    white = Image.new("RGB", (200, 200), "white")
    shape, reach = blob(18, np.random.default_rng(1))
    colours, labels = np.zeros((80, 90, 3)), np.zeros((80, 90), np.uint8)
    paint(colours, labels, Sprite(white, (100, 100), shape, reach, 1), Pose(44.3, 41.7, 1.0, 1.25))
    assert np.array_equal(labels == 1, colours[..., 0] > 127.5)
    edge = (colours[..., 0] > 0) & (colours[..., 0] < 255)
    assert 0 < edge.sum() < 0.25 * (labels == 1).sum()


def test_a_sprite_outside_the_frame_changes_nothing() -> None:
    colours, labels = np.zeros((20, 20, 3)), np.zeros((20, 20), np.uint8)
    paint(colours, labels, Sprite(gradient(), (32, 32), ellipse(5, 5), 5, 1), Pose(-50, 200))
    assert not colours.any()
    assert not labels.any()


def test_motions_keep_their_promises() -> None:
    for seed in range(50):
        motion = draw_motion((192, 144), np.random.default_rng(seed))
        poses = [motion.pose(t) for t in np.linspace(0, 1, 20)]
        assert all(0.2 * 192 <= pose.x <= 0.8 * 192 and 0.25 * 144 <= pose.y <= 0.75 * 144 for pose in poses)
        assert all(0.7 <= pose.scale <= 1.4 for pose in poses)
        assert math.radians(30) <= abs(poses[-1].angle - poses[0].angle) <= math.radians(60)
        assert math.hypot(poses[-1].x - poses[0].x, poses[-1].y - poses[0].y) >= 0.4 * 192


def test_joints_stay_inside_and_limbs_keep_their_length() -> None:
    movement = draw_movement((160, 160), 12, np.random.default_rng(3))
    forearms = []
    for time in np.linspace(0, 1, 12):
        joints = movement.frame_joints(float(time))
        assert joints.min() >= 4
        assert joints.max() <= 155
        elbow, wrist = joints[JOINTS.index("left_elbow")], joints[JOINTS.index("left_wrist")]
        forearms.append(np.linalg.norm(wrist - elbow) / movement.pose(float(time)).scale)
    assert np.allclose(forearms, forearms[0])


def test_joints_lie_on_the_parts_they_belong_to() -> None:
    photographs = {name: photo for name, photo in load_photographs().items() if name in ("coffee", "china", "tissue", "flower")}
    for frame in draw_figure_clip(photographs, 0, 5, (160, 160), np.random.default_rng(0)):
        x, y = np.rint(frame.joints_J2).astype(int).T
        found = dict(zip(JOINTS, frame.labels_HW[y, x], strict=True))
        assert all(label > 0 for label in found.values())
        assert found["face"] == PART_IDS["head"]
        assert found["left_wrist"] == PART_IDS["left_arm"]  # painted last, so never hidden
        assert found["belly"] in (PART_IDS["torso"], PART_IDS["left_arm"])


def test_photographs_are_rgb_and_always_the_same() -> None:
    photographs = load_photographs()
    assert len(photographs) == 11
    assert all(photo.mode == "RGB" and min(photo.size) >= 300 for photo in photographs.values())
