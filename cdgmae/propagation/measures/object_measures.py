"""J and F of DAVIS-2017 and their statistics (spec label_propagation 3.6).

Shapes: H W mask, T scored frames.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
from scipy.spatial import KDTree

Mask = npt.NDArray[np.bool_]
BOUNDARY_TOLERANCE = 0.008


class Statistics(NamedTuple):
    """Mean, recall (share of frames above 0.5) and decay (mean of the first quarter minus mean of the last), as fractions."""

    mean: float
    recall: float
    decay: float


def region_similarity(predicted_HW: Mask, truth_HW: Mask) -> float:
    """J: intersection over union of two masks, 1 if both are empty."""
    union = int(np.count_nonzero(predicted_HW | truth_HW))
    return int(np.count_nonzero(predicted_HW & truth_HW)) / union if union else 1.0


def boundary_map(mask_HW: Mask) -> Mask:
    """Pixels that differ from their right, lower or lower-right neighbour.

    In the last row only the right neighbour counts, in the last column only the lower one, and the last pixel is never boundary.
    """
    boundary = np.zeros_like(mask_HW)
    here = mask_HW[:-1, :-1]
    boundary[:-1, :-1] = (here ^ mask_HW[:-1, 1:]) | (here ^ mask_HW[1:, :-1]) | (here ^ mask_HW[1:, 1:])
    boundary[-1, :-1] = mask_HW[-1, :-1] ^ mask_HW[-1, 1:]
    boundary[:-1, -1] = mask_HW[:-1, -1] ^ mask_HW[1:, -1]
    return boundary


def boundary_radius(height: int, width: int) -> int:
    """Tolerance of F in pixels: 8 at 480x854, 9 at 480x880."""
    return math.ceil(BOUNDARY_TOLERANCE * math.hypot(height, width))


def boundary_accuracy(predicted_HW: Mask, truth_HW: Mask) -> float:
    """F: harmonic mean of boundary precision and recall within `boundary_radius`.

    A boundary pixel is matched if the other boundary, dilated by a disc of that radius, covers it, that is if its nearest pixel
    of the other boundary is at most that far; only those distances are computed.
    """
    predicted, truth = (np.argwhere(boundary_map(mask)) for mask in (predicted_HW, truth_HW))
    if not len(predicted) and not len(truth):
        return 1.0
    if not len(predicted) or not len(truth):
        return 0.0  # precision and recall are 0 and 1
    radius = boundary_radius(*truth_HW.shape)
    precision, recall = _share_within(predicted, truth, radius), _share_within(truth, predicted, radius)
    return 2 * precision * recall / (precision + recall) if precision + recall else 0.0


def _share_within(points: npt.NDArray[np.int64], targets: npt.NDArray[np.int64], radius: int) -> float:
    # squared distances of whole pixels are exact, so comparing the root with a whole radius is exact too
    distances, _ = KDTree(targets).query(points, distance_upper_bound=radius + 0.5)
    return float(np.count_nonzero(distances <= radius)) / len(points)


def frame_statistics(values_T: Sequence[float]) -> Statistics:
    """Statistics over the scored frames of one object; the quarters share their end frames."""
    values = np.asarray(values_T, dtype=np.float64)
    edges = np.round(np.linspace(1, len(values), 5) + 1e-10).astype(int) - 1
    first, last = values[edges[0] : edges[1] + 1], values[edges[3] : edges[4] + 1]
    return Statistics(float(values.mean()), float((values > 0.5).mean()), float(first.mean() - last.mean()))
