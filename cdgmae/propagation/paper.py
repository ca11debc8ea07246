"""The paper's Table 5, to be shown beside ours: DAVIS-2017 val, VIP val and JHMDB split 1, in percent."""

from __future__ import annotations

from typing import NamedTuple


class PaperRow(NamedTuple):
    """One method of Table 5.

    Attributes:
        method: Name in the paper.
        architecture: Encoder.
        dataset: What it was pre-trained on.
        epochs: Length of pre-training.
        scores: Column of the summary -> percent.
    """

    method: str
    architecture: str
    dataset: str
    epochs: int
    scores: dict[str, float]


def _row(method: str, architecture: str, dataset: str, epochs: int, *values: float) -> PaperRow:
    columns = ("J&F", "J", "F", "mIoU", "PCK@0.1", "PCK@0.2")
    return PaperRow(method, architecture, dataset, epochs, dict(zip(columns, values, strict=True)))


TABLE_5 = (
    _row("SiamMAE", "ViT-S/16", "Kinetics-400", 2000, 62.0, 60.3, 63.7, 37.3, 47.0, 76.1),
    _row("CropMAE", "ViT-S/16", "ImageNet-1K", 100, 59.7, 56.9, 62.5, 33.8, 43.9, 72.3),
    _row("CDG-MAE-a1", "ViT-S/16", "ImageNet-1K", 100, 61.2, 58.1, 64.3, 37.6, 46.5, 75.5),
    _row("CDG-MAE-a3", "ViT-S/16", "ImageNet-1K", 100, 62.6, 59.7, 65.5, 38.1, 47.8, 76.3),
    _row("MAE", "ViT-B/16", "ImageNet-1K", 1600, 53.5, 52.1, 55.0, 28.1, 44.6, 73.4),
    _row("VideoMAE", "ViT-S/16", "Kinetics-400", 800, 39.3, 39.7, 38.9, 23.3, 41.0, 67.9),
    _row("MAE-ST", "ViT-L/16", "Kinetics-400", 800, 54.6, 55.5, 53.6, 33.2, 44.4, 72.5),
)
"""Rows in the paper's order."""
