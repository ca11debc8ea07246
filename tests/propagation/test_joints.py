"""Heat maps with their truncation, decoding, and PCK by visible predictions."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import scipy.io
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from cdgmae.propagation.benchmarks.jhmdb import ALPHAS
from cdgmae.propagation.measures.joints import (
    NUM_JOINTS,
    decode_joints,
    first_heat_maps,
    heat_map,
    joint_counts,
    read_joints,
    to_pixels,
)
from tests.oracles import propagation_oracle as oracle


@settings(max_examples=200)
@given(u=st.floats(-6, 12), v=st.floats(-6, 12), grid=st.tuples(st.integers(1, 9), st.integers(1, 9)))
def test_heat_map_equals_the_cell_by_cell_statement(u: float, v: float, grid: tuple[int, int]) -> None:
    np.testing.assert_allclose(heat_map(u, v, grid), oracle.literal_heat_map(u, v, *grid), rtol=1e-6)


def test_truncation_moves_joints_near_the_border_one_cell_inwards() -> None:
    peaks = {u: int(heat_map(u, 5.0, (10, 10)).max(axis=0).argmax()) for u in (0.2, 0.6, 1.4, 1.6, 2.4, 2.6)}
    assert peaks == {0.2: 1, 0.6: 2, 1.4: 2, 1.6: 2, 2.4: 2, 2.6: 3}


def test_background_is_one_where_no_joint_has_mass() -> None:
    joints = np.full((2, NUM_JOINTS), 40.0)
    maps = first_heat_maps(joints, (80, 160), (80, 80), 8).reshape(10, 10, 16)
    assert ((maps[..., 0] == 1) == (maps[..., 1:].sum(-1) == 0)).all()
    # x = 40 of 160 pixels is column 2.5 of 10, y = 40 of 80 is row 5
    assert tuple(np.unravel_index(int(maps[..., 1].argmax()), (10, 10))) == (5, 3)


def test_the_grid_follows_the_patch_size() -> None:
    assert first_heat_maps(np.full((2, NUM_JOINTS), 50.0), (240, 320), (320, 320), 8).shape == (40 * 40, 16)


def test_decoding_averages_the_five_strongest_cells() -> None:
    labels = torch.zeros(12, 16)
    labels[:, 1] = torch.tensor([0, 0.1, 0, 0, 0.4, 0.2, 0.1, 0, 0, 0.05, 0.2, 0])
    values, cells = np.array([0.4, 0.2, 0.2, 0.1, 0.1]), np.array([4, 5, 10, 1, 6])
    expected = [(values / values.sum() * part).sum() for part in (cells % 4, cells // 4)]
    np.testing.assert_allclose(decode_joints(labels, 4)[:, 0], expected, atol=1e-6)


def test_a_joint_without_mass_is_lost() -> None:
    assert (decode_joints(torch.zeros(12, 16), 4) == -1).all()


@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 10_000), lost=st.sampled_from([0.0, 0.3, 0.9, 1.0]))
def test_pck_counts_equal_the_literal_ones(seed: int, lost: float) -> None:
    rng = np.random.default_rng(seed)
    truth = rng.uniform(-5, 100, (2, NUM_JOINTS, 6))
    cells = (truth + rng.normal(0, 12, truth.shape)).clip(0) / np.array([160 / 20, 80 / 10])[:, None, None]
    cells[:, rng.random((NUM_JOINTS, 6)) < lost] = -1
    visible, hits = joint_counts(cells, truth, (80, 160), (10, 20))
    for column, alpha in enumerate(ALPHAS):
        literal = oracle.literal_pck(to_pixels(cells, (80, 160), (10, 20)), cells[0] >= 0, truth, alpha)
        assert list(zip(visible.tolist(), hits[:, column].tolist(), strict=True)) == literal


def test_joint_files_count_from_one(tmp_path: Path) -> None:
    path = tmp_path / "joint_positions.mat"
    scipy.io.savemat(path, {"pos_img": np.ones((2, 15, 3))})
    assert (read_joints(path) == 0).all()


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ({"pos_world": np.ones((2, 15, 3))}, "no pos_img, found \\['pos_world'\\]"),
        ({"pos_img": np.ones((2, 14, 3))}, "shape \\(2, 14, 3\\)"),
        ({"pos_img": np.where(np.arange(90).reshape(2, 15, 3) == 7, np.nan, 1.0)}, "not finite in frame 2"),
    ],
)
def test_broken_joint_files_are_named(tmp_path: Path, content: dict[str, np.ndarray], words: str) -> None:
    path = tmp_path / "joint_positions.mat"
    scipy.io.savemat(path, content)
    with pytest.raises(ValueError, match=words) as caught:
        read_joints(path)
    assert str(path) in str(caught.value)
