"""Which frames and cells a query may look at, and how often each counts (spec label_propagation 3.4).

Shapes: Q query cells, N cells of the grid, n key cells of a tile, row-major.
"""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass

import torch
from torch import Tensor

TILE_SIDE = 16
"""Queries are handled in tiles of at most this many cells a side, along an axis in which that shortens the list of keys."""


def context_frames(frame: int, queue_length: int) -> list[int]:
    """The literal context of a query frame: frame 0, then the queue frames max(0, t - n + j) for j = 0..n-1.

    Early in a clip the queue is padded with copies of frame 0, and each copy competes for the top-k on its own.

    Args:
        frame: Query frame t >= 1, counted from 0.
        queue_length: n.
    """
    return [0, *(max(0, frame - queue_length + step) for step in range(queue_length))]


def first_frame_copies(frame: int, queue_length: int) -> int:
    """How often frame 0 stands in the queue part of the context of `frame`: n - t + 1 for t <= n, else 0."""
    return max(0, queue_length - frame + 1)


def disc_mask(queries_Q: Tensor, keys_Qn: Tensor, width: int, radius: float) -> Tensor:
    """Whether each key cell lies strictly within `radius` patches (Euclidean) of its query cell.

    Args:
        queries_Q: Row-major cell indices.
        keys_Qn: Row-major cell indices, a row per query or one row (1, n) for all.
        width: Columns of the grid.
        radius: In patches; a key at exactly this distance is outside.

    Returns:
        Boolean (Q, n).
    """
    rows = (queries_Q // width)[:, None] - keys_Qn // width
    columns = (queries_Q % width)[:, None] - keys_Qn % width
    return (rows.square() + columns.square()).double() < radius * radius


@dataclass(frozen=True, slots=True)
class Tile:
    """A block of query cells and the cells their discs can reach.

    Attributes:
        queries_Q: Row-major indices of the query cells.
        keys_n: Row-major indices of all cells within reach of at least one query, a rectangle.
        inside_Qn: Whether the key is inside the query's disc.
    """

    queries_Q: Tensor
    keys_n: Tensor
    inside_Qn: Tensor


def query_tiles(grid: tuple[int, int], radius: float, device: torch.device) -> list[Tile]:
    """Cut the grid into tiles of about `TILE_SIDE` cells a side and attach the keys within reach.

    Args:
        grid: (rows, columns).
        radius: Of the disc, in patches.
        device: Where the index tensors live.
    """
    height, width = grid
    reach = math.ceil(radius) - 1  # the largest whole offset strictly below the radius
    cells_HW = torch.arange(height * width, device=device).reshape(height, width)
    tiles = []
    for top, bottom in _spans(height, reach):
        for left, right in _spans(width, reach):
            queries = cells_HW[top:bottom, left:right].reshape(-1)
            keys = cells_HW[max(0, top - reach) : bottom + reach, max(0, left - reach) : right + reach].reshape(-1)
            tiles.append(Tile(queries, keys, disc_mask(queries, keys[None], width, radius)))
    return tiles


def _spans(length: int, reach: int) -> list[tuple[int, int]]:
    """`length` cut into equal runs of at most `TILE_SIDE`, or whole if every run would reach all cells of the axis anyway."""
    parts = math.ceil(length / TILE_SIDE)
    if math.ceil(length / parts) + reach >= length:
        parts = 1
    edges = [round(index * length / parts) for index in range(parts + 1)]
    return list(itertools.pairwise(edges))
