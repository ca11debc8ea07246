"""Resizing rules, annotations, soft labels of frame 0, decoding, and VIP's counts."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest
import torch
from drawn_clips import save_ids
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from torch.nn import functional as F

from cdgmae.propagation.benchmarks.vip import Vip
from cdgmae.propagation.engine.frames import grid_of, input_sides
from cdgmae.propagation.engine.resizing import resize_bilinear, resize_nearest
from cdgmae.propagation.measures.masks import (
    Annotation,
    davis_palette,
    decode_labels,
    encode_mask,
    first_labels,
    label_order,
    read_annotation,
    resize_like_pillow,
)
from cdgmae.propagation.measures.part_measures import NUM_PARTS, PART_NAMES, part_counts
from tests.oracles import propagation_oracle as oracle

SIDES = st.tuples(st.integers(1, 40), st.integers(1, 40))


@settings(max_examples=60, deadline=None)
@given(seed=st.integers(0, 1000), old=SIDES, new=SIDES)
def test_bilinear_is_half_pixel_interpolation_without_antialiasing(seed: int, old: tuple[int, int], new: tuple[int, int]) -> None:
    values = torch.rand(2, *old, generator=torch.Generator().manual_seed(seed))
    expected = F.interpolate(values[None], size=new, mode="bilinear", align_corners=False, antialias=False)[0]
    torch.testing.assert_close(resize_bilinear(values, new), expected, atol=2e-5, rtol=0)


def test_bilinear_leaves_an_unchanged_size_alone() -> None:
    values = torch.rand(3, 7, 5)
    assert resize_bilinear(values, (7, 5)) is values


def test_nearest_keeps_top_left_pixels_where_pillow_takes_centres() -> None:
    row = np.arange(8, dtype=np.uint8)[None]
    assert resize_nearest(row, (1, 4)).tolist() == [[0, 2, 4, 6]]
    assert resize_like_pillow(row, (1, 4)).tolist() == [[1, 3, 5, 7]]
    assert resize_nearest(row, (2, 12)).tolist() == [[0, 0, 1, 2, 2, 3, 4, 4, 5, 6, 6, 7]] * 2


def test_one_number_is_the_longer_side_and_rounds_the_shorter_down_to_64() -> None:
    assert input_sides(880, 720, 1280) == (448, 880)
    assert input_sides(880, 1280, 720) == (880, 448)
    assert input_sides(128, 96, 128) == (64, 128)
    assert input_sides((480, 880), 100, 300) == (480, 880)


@pytest.mark.parametrize(
    ("sides", "words"), [((481, 880), "480x880 or 496x880"), ((0, 128), "to a larger number: "), ((8, 8), "16x16")]
)
def test_input_sizes_that_do_not_fit_the_patch_are_refused_with_ones_that_do(sides: tuple[int, int], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        grid_of(sides, 16, "clip one")


def test_the_palette_is_davis_s() -> None:
    palette = davis_palette()
    assert palette[:6].tolist() == [[0, 0, 0], [128, 0, 0], [0, 128, 0], [128, 128, 0], [0, 0, 128], [128, 0, 128]]
    assert palette[8].tolist() == [64, 0, 0]
    assert palette[255].tolist() == [224, 224, 192]


def test_masks_survive_saving_as_palette_png(tmp_path: Path) -> None:
    ids = np.array([[0, 1, 2], [3, 200, 255]], dtype=np.uint8)
    (tmp_path / "mask.png").write_bytes(encode_mask(ids))
    annotation = read_annotation(tmp_path / "mask.png")
    np.testing.assert_array_equal(annotation.ids_HW, ids)
    np.testing.assert_array_equal(annotation.palette, davis_palette())
    assert Image.open(io.BytesIO(encode_mask(ids))).mode == "P"


def test_grey_annotations_are_ids(tmp_path: Path) -> None:
    save_ids(tmp_path / "grey.png", np.array([[0, 13]], dtype=np.uint8), palette=False)
    assert read_annotation(tmp_path / "grey.png").ids_HW.tolist() == [[0, 13]]


def test_labels_are_ordered_by_blue_then_green_then_red() -> None:
    ids = np.array([[4, 3, 2, 1, 0]], dtype=np.uint8)
    # BGR: 0 (0,0,0), 1 (0,0,128), 2 (0,128,0), 3 (0,128,128), 4 (128,0,0)
    assert label_order(Annotation(ids, davis_palette())).tolist() == [0, 1, 2, 3, 4]
    reversed_palette = davis_palette()[::-1].copy()
    reversed_palette[:5] = davis_palette()[[4, 3, 2, 1, 0]]
    assert label_order(Annotation(ids, reversed_palette)).tolist() == [4, 3, 2, 1, 0]


def test_soft_labels_are_shares_of_the_four_central_pixels() -> None:
    ids = np.zeros((8, 8), dtype=np.uint8)
    ids[1, 1], ids[5:7, 5:7] = 1, 1
    labels = first_labels(ids, np.array([0, 1], dtype=np.uint8), (8, 8), (2, 2))
    assert labels[:, 1].tolist() == [0.25, 0.0, 0.0, 1.0]
    assert (labels.sum(dim=1) == 1).all()


def test_ties_go_to_the_first_label_of_the_order() -> None:
    labels = torch.tensor([[0.5, 0.5], [0.4, 0.6]])
    order = np.array([7, 3], dtype=np.uint8)
    assert decode_labels(labels, order, (1, 2), (1, 2)).tolist() == [[7, 3]]


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 1000), num_frames=st.integers(1, 3))
def test_mean_iou_equals_one_global_confusion_matrix(seed: int, num_frames: int) -> None:
    rng = np.random.default_rng(seed)
    values = np.array([0, 1, 5, 13, 19, 20, 255], dtype=np.uint8)
    pairs = [(rng.choice(values, (6, 7)), rng.choice(values, (6, 7))) for _ in range(num_frames)]
    pairs[0][1][0, 0] = 0
    rows = []
    for predicted, truth in pairs:
        intersection, union = part_counts(predicted, truth)
        rows += [{"item": item, "intersection": int(intersection[item]), "union": int(union[item])} for item in range(NUM_PARTS)]
    assert Vip().scores(rows)["mIoU"] == pytest.approx(100 * oracle.literal_mean_iou(pairs, NUM_PARTS))


def test_vip_has_twenty_named_classes() -> None:
    assert len(PART_NAMES) == len(set(PART_NAMES)) == 20
