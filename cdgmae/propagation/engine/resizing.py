"""Resizing exactly as the published evaluation does it: OpenCV's bilinear and nearest rules (spec label_propagation 3.2).

Shapes: `...` any leading dimensions, H W input sides, h w output sides.
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor


def resize_bilinear(values_HW: Tensor, sides: tuple[int, int]) -> Tensor:
    """Bilinear, half-pixel centres, no antialiasing, columns before rows.

    Sampling coordinates are computed in float64 and rounded once to float32; an unchanged side is left alone.

    Args:
        values_HW: Float tensor (..., H, W).
        sides: (h, w) of the result.
    """
    for dim, size in ((-1, sides[1]), (-2, sides[0])):
        if values_HW.shape[dim] != size:
            values_HW = _interpolate(values_HW, dim, size)
    return values_HW


def resize_nearest(values_HW: npt.NDArray[np.uint8], sides: tuple[int, int]) -> npt.NDArray[np.uint8]:
    """Nearest neighbour by the rule source = floor(target * input / output), which keeps top-left pixels.

    Args:
        values_HW: Array (H, W).
        sides: (h, w) of the result.
    """
    rows, columns = (nearest_indices(old, new) for old, new in zip(values_HW.shape, sides, strict=True))
    return values_HW[rows[:, None], columns[None, :]]


def nearest_indices(old: int, new: int) -> npt.NDArray[np.int64]:
    """Source index of each of `new` targets along a side of `old` pixels."""
    step = 1.0 / (new / old)
    indices: npt.NDArray[np.int64] = np.minimum(np.floor(np.arange(new) * step).astype(np.int64), old - 1)
    return indices


def _interpolate(values: Tensor, dim: int, size: int) -> Tensor:
    lower, upper, weights = (torch.from_numpy(part).to(values.device) for part in _coordinates(values.shape[dim], size))
    if dim == -2:
        weights = weights[:, None]
    # 1 - weight is formed in float32, as the published arithmetic does; in place, as the planes of a frame are large
    return values.index_select(dim, lower).mul_(1.0 - weights).add_(values.index_select(dim, upper).mul_(weights))


@lru_cache(maxsize=32)
def _coordinates(old: int, new: int) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64], npt.NDArray[np.float32]]:
    """Lower and upper source index and the weight of the upper one, per target."""
    centres = ((np.arange(new) + 0.5) * (old / new) - 0.5).astype(np.float32)
    lower = np.floor(centres)
    weights = (centres - lower).astype(np.float32)
    weights[(lower < 0) | (lower >= old - 1)] = 0.0
    lower_index = np.clip(lower.astype(np.int64), 0, old - 1)
    return lower_index, np.minimum(lower_index + 1, old - 1), weights
