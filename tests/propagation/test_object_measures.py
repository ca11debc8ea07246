"""J, F and their statistics against pixel-by-pixel double-precision loops."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from cdgmae.propagation.measures.object_measures import (
    boundary_accuracy,
    boundary_map,
    boundary_radius,
    frame_statistics,
    region_similarity,
)
from tests.oracles import propagation_oracle as oracle

SIDES = hnp.array_shapes(min_dims=2, max_dims=2, min_side=1, max_side=14)


@st.composite
def mask_pairs(draw: st.DrawFn) -> tuple[np.ndarray, np.ndarray]:
    """Two masks of one size: noise, boxes, one pixel, the outermost pixels, empty or full."""
    shape = draw(SIDES)
    return draw(masks(shape)), draw(masks(shape))


@st.composite
def masks(draw: st.DrawFn, shape: tuple[int, int]) -> np.ndarray:
    kind = draw(st.sampled_from(["noise", "box", "pixel", "rim", "empty", "full"]))
    if kind == "noise":
        return draw(hnp.arrays(np.bool_, shape))
    mask = np.full(shape, kind in ("full", "rim"))
    if kind == "rim":
        mask[1:-1, 1:-1] = False
    if kind in ("box", "pixel"):
        top, left = draw(st.integers(0, shape[0] - 1)), draw(st.integers(0, shape[1] - 1))
        height, width = (1, 1) if kind == "pixel" else (draw(st.integers(1, 14)), draw(st.integers(1, 14)))
        mask[top : top + height, left : left + width] = True
    return mask


@settings(max_examples=150, deadline=None)
@given(mask_pairs())
def test_j_and_f_equal_the_naive_measures(pair: tuple[np.ndarray, np.ndarray]) -> None:
    assert region_similarity(*pair) == oracle.literal_region(*pair)
    assert boundary_accuracy(*pair) == pytest.approx(oracle.literal_accuracy(*pair), abs=1e-12)
    np.testing.assert_array_equal(boundary_map(pair[0]), oracle.literal_boundary(pair[0]))


@pytest.mark.parametrize("offset", [0, 1, 2, 3, 4])
def test_f_equals_the_naive_measure_where_the_tolerance_spans_pixels(offset: int) -> None:
    truth, predicted = np.zeros((90, 300), dtype=bool), np.zeros((90, 300), dtype=bool)
    truth[20:60, 40:120], predicted[20 + offset : 60, 40 : 120 + 2 * offset] = True, True
    assert boundary_radius(90, 300) == 3
    assert boundary_accuracy(predicted, truth) == pytest.approx(oracle.literal_accuracy(predicted, truth), abs=1e-12)


def test_the_tolerance_is_8_pixels_at_480p_and_9_on_the_resized_copy() -> None:
    assert (boundary_radius(480, 854), boundary_radius(480, 880)) == (8, 9)


def test_empty_and_one_sided_masks() -> None:
    empty, some = np.zeros((9, 9), dtype=bool), np.zeros((9, 9), dtype=bool)
    some[3:5, 3:5] = True
    assert (region_similarity(empty, empty), boundary_accuracy(empty, empty)) == (1.0, 1.0)
    assert (region_similarity(some, empty), boundary_accuracy(some, empty)) == (0.0, 0.0)
    assert (region_similarity(empty, some), boundary_accuracy(empty, some)) == (0.0, 0.0)


def test_statistics_of_a_falling_curve() -> None:
    statistics = frame_statistics([0.9, 0.8, 0.7, 0.6, 0.5, 0.4, 0.3, 0.2])
    # bins end at round(linspace(1, 8, 5)) = 1, 3, 5 (4.5 rounds up), 6, 8
    assert statistics.mean == pytest.approx(0.55)
    assert statistics.recall == 0.5
    assert statistics.decay == pytest.approx(np.mean([0.9, 0.8, 0.7]) - np.mean([0.4, 0.3, 0.2]))


def test_statistics_of_a_single_frame() -> None:
    assert frame_statistics([0.5]) == (0.5, 0.0, 0.0)
