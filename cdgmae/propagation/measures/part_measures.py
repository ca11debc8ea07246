"""VIP: counts behind the global mean IoU (spec label_propagation 3.7)."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

PART_NAMES = (
    "background", "hat", "hair", "glove", "sunglasses", "upper-clothes", "dress", "coat", "socks", "pants", "torso-skin", "scarf",
    "skirt", "face", "left-arm", "right-arm", "left-leg", "right-leg", "left-shoe", "right-shoe",
)  # fmt: skip
"""VIP's 20 classes; the place is the id."""

NUM_PARTS = len(PART_NAMES)


def part_counts(predicted_HW: npt.NDArray[np.uint8], truth_HW: npt.NDArray[np.uint8]) -> npt.NDArray[np.int64]:
    """Intersection and union in pixels of every class in one frame, (2, 20).

    Pixels whose true id is 20 or more (255: unlabelled) are left out; a predicted id of 20 or more is nobody's hit.
    """
    labelled = truth_HW < NUM_PARTS
    truth, predicted = truth_HW[labelled].astype(np.int64), np.minimum(predicted_HW[labelled], NUM_PARTS).astype(np.int64)
    columns = NUM_PARTS + 1
    confusion = np.bincount(truth * columns + predicted, minlength=NUM_PARTS * columns).reshape(NUM_PARTS, columns)
    intersection = confusion[:, :NUM_PARTS].diagonal()
    union = confusion.sum(axis=1) + confusion[:, :NUM_PARTS].sum(axis=0) - intersection
    return np.stack([intersection, union])
