"""Fixed 2-D sin-cos position tables and their resizing to other grids.

Shapes: T tokens (CLS first), D width.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F


def sincos_positions(embed_dim: int, grid_size: int) -> Tensor:
    """The (1, 1 + grid_size^2, embed_dim) table of MAE (spec cross_view_mae 1.3).

    The first half of the channels encodes the column, the second half the row; within each half all sines precede all cosines,
    base 10000. The CLS position is zero. Computed in float64, returned in float32.
    """
    steps = np.arange(grid_size, dtype=np.float64)
    rows, columns = np.meshgrid(steps, steps, indexing="ij")
    table = np.concatenate([_sincos_1d(embed_dim // 2, columns.ravel()), _sincos_1d(embed_dim // 2, rows.ravel())], axis=1)
    with_cls = np.concatenate([np.zeros((1, embed_dim)), table])
    return torch.from_numpy(with_cls.astype(np.float32))[None]


def _sincos_1d(dim: int, positions: np.ndarray) -> np.ndarray:
    frequencies = 10000.0 ** (-np.arange(dim // 2, dtype=np.float64) / (dim / 2))
    angles = np.outer(positions, frequencies)
    return np.concatenate([np.sin(angles), np.cos(angles)], axis=1)


def resize_positions(positions_1TD: Tensor, height: int, width: int, *, prefix: int = 1) -> Tensor:
    """Positions for an input of `height` x `width` patches (spec label_propagation 3.3).

    The patch table is interpolated bicubically by the *scale factors* (height + 0.1) / n and (width + 0.1) / n; the factor, not
    the size, drives the sampling coordinates, which shifts features slightly against interpolation by size. A square input of
    the trained size is left alone.

    Args:
        positions_1TD: The rows of the prefix tokens, which are kept, then those of a square grid of patches.
        height: Rows of patches.
        width: Columns of patches.
        prefix: Number of prefix tokens (CLS, registers) that have a position.

    Raises:
        ValueError: if the table is not one of a square grid, or cannot be resized to this grid.
    """
    n = round((positions_1TD.shape[1] - prefix) ** 0.5)
    if n * n != positions_1TD.shape[1] - prefix:
        raise ValueError(f"positions of {positions_1TD.shape[1] - prefix} patches are not those of a square grid")
    if height == n and width == n:
        return positions_1TD
    dim = positions_1TD.shape[-1]
    patches = positions_1TD[:, prefix:].reshape(1, n, n, dim).permute(0, 3, 1, 2)
    factors = ((height + 0.1) / n, (width + 0.1) / n)
    resized = F.interpolate(patches, scale_factor=factors, mode="bicubic", align_corners=False, recompute_scale_factor=False)
    if resized.shape[-2:] != (height, width):
        raise ValueError(f"positions of a {n}x{n} grid cannot be resized to {height}x{width}: got {tuple(resized.shape[-2:])}")
    return torch.cat([positions_1TD[:, :prefix], resized.permute(0, 2, 3, 1).reshape(1, height * width, dim)], dim=1)
