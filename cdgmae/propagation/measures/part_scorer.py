"""Pixels of every body part of a clip (spec label_propagation 3.7)."""

from __future__ import annotations

from collections.abc import Container
from typing import Any

import numpy as np
from torch import Tensor

from cdgmae.propagation.benchmarks.benchmark import size_columns
from cdgmae.propagation.layouts.labelled_clip import LabelledClip
from cdgmae.propagation.measures.mask_scorer import MaskScorer
from cdgmae.propagation.measures.masks import resize_like_pillow
from cdgmae.propagation.measures.part_measures import NUM_PARTS, PART_NAMES, part_counts


class PartScorer(MaskScorer):
    """VIP: pixel counts of every class over all frames, frame 0 included (spec 3.7)."""

    def __init__(self, clip: LabelledClip, sides: tuple[int, int], grid: tuple[int, int], painted: Container[int]) -> None:
        super().__init__(clip, sides, grid, painted)
        self.counts = np.zeros((2, NUM_PARTS), dtype=np.int64)

    def add(self, frame: int, labels_NC: Tensor) -> None:
        """Count one frame at the size of its annotation."""
        truth = self.truth(frame)
        predicted = resize_like_pillow(self.decode(labels_NC), truth.shape)
        self.remember(frame, predicted)
        self.counts += part_counts(predicted, truth)

    def rows(self) -> list[dict[str, Any]]:
        """One row per class, classes that never occur included with zero counts and no IoU."""
        rows = []
        for item, name in enumerate(PART_NAMES):
            intersection, union = (int(count) for count in self.counts[:, item])
            share = intersection / union if union else None
            rows.append(
                {
                    "item": item, "item_name": name, "IoU": share, "intersection": intersection, "union": union,
                    **size_columns(self.sides, self.label_size),
                }
            )  # fmt: skip
        return rows
