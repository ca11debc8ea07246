"""JHMDB: heat maps of joints, their decoding, and the counts behind PCK (spec label_propagation 3.8).

Shapes: J = 15 joints, T frames, N cells of the grid, h w rows and columns of the grid.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from cdgmae.propagation.benchmarks.jhmdb import ALPHAS
from cdgmae.propagation.layouts.matlab_files import read_arrays

JOINT_NAMES = (
    "neck", "belly", "face", "right shoulder", "left shoulder", "right hip", "left hip", "right elbow", "left elbow", "right knee",
    "left knee", "right wrist", "left wrist", "right ankle", "left ankle",
)  # fmt: skip
"""JHMDB's 15 joints; the place is the number."""

LIMBS = ((0, 1), (0, 2), (0, 3), (0, 4), (1, 5), (1, 6), (3, 7), (7, 11), (4, 8), (8, 12), (5, 9), (9, 13), (6, 10), (10, 14))
"""Pairs of joints that a line connects, from the trunk outwards."""

NUM_JOINTS = len(JOINT_NAMES)
SIGMA = 0.5
KERNEL_SIDE = 4
DECODED_CELLS = 5
BOX_SHARE = 0.6

Coordinates = npt.NDArray[np.float64]


def read_joints(path: Path) -> Coordinates:
    """Joint positions (2, 15, T) in pixels, x before y, counted from 0 (the file counts from 1).

    Raises:
        ValueError: if the file is missing, no MATLAB file, or does not hold 15 finite joints per frame.
    """
    if not path.is_file():
        raise ValueError(f"joint file {path}: no such file")
    try:
        content = read_arrays(path)
    except (OSError, ValueError) as error:
        raise ValueError(f"joint file {path} cannot be read ({error}); copy it again from JHMDB") from None
    positions = content.get("pos_img")
    if positions is None:
        raise ValueError(f"joint file {path} holds no pos_img, found {sorted(content)}; expected JHMDB's joint_positions.mat")
    if positions.ndim == 2:
        positions = positions[..., None]  # MATLAB drops a last axis of length 1
    if positions.shape[:2] != (2, NUM_JOINTS) or positions.ndim != 3 or not positions.shape[2]:
        raise ValueError(f"joint file {path}: pos_img has shape {positions.shape}, expected (2, {NUM_JOINTS}, frames)")
    if not np.isfinite(positions).all():
        frame = int(np.argwhere(~np.isfinite(positions))[0, 2]) + 1
        raise ValueError(f"joint file {path}: pos_img has a position that is not finite in frame {frame}")
    return positions - 1.0


def heat_map(u: float, v: float, grid: tuple[int, int]) -> npt.NDArray[np.float32]:
    """Label map (h, w) of one joint at column `u` and row `v` in grid cells.

    A 4x4 Gaussian patch (sigma 0.5, peak 1 at its third cell) is written at the window that starts at int(u - 1.5), int(v - 1.5);
    `int` truncates toward zero, which moves joints near the left and upper border one cell inwards, as published. Zero if the
    window lies outside.
    """
    heat = np.zeros(grid, dtype=np.float32)
    rows, columns = (_window(centre, side) for centre, side in ((v, grid[0]), (u, grid[1])))
    if rows is None or columns is None:
        return heat
    kernel = np.exp(-((np.arange(KERNEL_SIDE) - KERNEL_SIDE // 2) ** 2) / (2 * SIGMA**2))
    patch = kernel[rows[1], None] * kernel[None, columns[1]]
    heat[rows[0], columns[0]] = patch
    return heat


def _window(centre: float, side: int) -> tuple[slice, slice] | None:
    """Cells along one axis and the part of the kernel that lands on them."""
    low, high = int(centre - 3 * SIGMA), int(centre + 3 * SIGMA + 1)
    if low >= side or high < 0:
        return None
    start, stop = max(0, low), max(0, min(high, side))
    return slice(start, stop), slice(start - low, stop - low)


def first_heat_maps(joints_2J: Coordinates, image: tuple[int, int], sides: tuple[int, int], patch_size: int) -> Tensor:
    """Soft labels (N, 16) of frame 0: background, which is 1 where no joint has any mass, then the joints.

    Args:
        joints_2J: x and y in pixels of the original image.
        image: (height, width) of the original image.
        sides: (H, W) of the encoder's input.
        patch_size: Side of a patch in pixels.
    """
    grid = (sides[0] // patch_size, sides[1] // patch_size)
    columns, rows = (joints_2J[axis] * (sides[1 - axis] / image[1 - axis]) / patch_size for axis in (0, 1))
    heat_Jhw = np.stack([heat_map(u, v, grid) for u, v in zip(columns.tolist(), rows.tolist(), strict=True)])
    background = (heat_Jhw.sum(axis=0, keepdims=True) == 0).astype(np.float32)
    return torch.from_numpy(np.concatenate([background, heat_Jhw]).reshape(NUM_JOINTS + 1, -1).T.copy())


def decode_joints(labels_NC: Tensor, width: int) -> Coordinates:
    """Coordinates (2, 15) in cells: mean of the integer cell indices of the 5 strongest cells, weighted by their values.

    A joint whose channel holds no mass at all is lost: (-1, -1).

    Args:
        labels_NC: Soft labels (N, 16), background first.
        width: Columns of the grid.
    """
    channels_JN = labels_NC[:, 1:].T
    top = channels_JN.topk(min(DECODED_CELLS, channels_JN.shape[1]), dim=1)
    values, cells = top.values.cpu().numpy().astype(np.float64), top.indices.cpu().numpy()
    lost = (channels_JN.sum(dim=1) == 0).cpu().numpy()
    weights = values / np.where(lost, 1.0, values.sum(axis=1))[:, None]
    coordinates = np.stack([(weights * (cells % width)).sum(axis=1), (weights * (cells // width)).sum(axis=1)])
    coordinates[:, lost] = -1.0
    return coordinates


def to_pixels(cells_2JT: Coordinates, image: tuple[int, int], grid: tuple[int, int]) -> Coordinates:
    """Cell coordinates (2, 15, T) as pixels of the original image."""
    scale = np.array([image[1] / grid[1], image[0] / grid[0]])
    pixels_2JT: Coordinates = cells_2JT * scale[:, None, None]
    return pixels_2JT


def joint_counts(
    cells_2JT: Coordinates, truth_2JT: Coordinates, image: tuple[int, int], grid: tuple[int, int]
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """Counts of one clip without frame 0: visible frames per joint (15,) and hits per joint and alpha (15, 5).

    A joint is visible where its *predicted* x is not negative; lost joints drop out of both counts. A hit lies within alpha times
    0.6 times the diagonal of the tight box around the visible true joints of that frame.

    Args:
        cells_2JT: Predicted coordinates in cells.
        truth_2JT: True coordinates in pixels.
        image: (height, width) in pixels.
        grid: (rows, columns) of patches.
    """
    visible = np.zeros(NUM_JOINTS, dtype=np.int64)
    hits = np.zeros((NUM_JOINTS, len(ALPHAS)), dtype=np.int64)
    pixels_2JT = to_pixels(cells_2JT, image, grid)
    for frame in range(1, truth_2JT.shape[2]):
        seen = cells_2JT[0, :, frame] >= 0
        if not seen.any():
            continue
        truth = truth_2JT[:, seen, frame]
        diagonal = float(np.hypot(*(truth.max(axis=1) - truth.min(axis=1))))
        distance = np.hypot(*(pixels_2JT[:, seen, frame] - truth))
        with np.errstate(divide="ignore", invalid="ignore"):
            relative = distance / (BOX_SHARE * diagonal)  # a single visible joint has no box: never a hit
        visible += seen
        hits[seen] += relative[:, None] <= np.array(ALPHAS)
    return visible, hits
