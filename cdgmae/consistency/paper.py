"""The paper's own consistency scores (Tables 1 and 9), to be shown beside ours.

They were measured on ImageNet-1K and video frames with ViT-B/16 MAE at 224 pixels; scores from another encoder live on
another scale and compare only with scores from the same encoder.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

COMPARED = ("gs", "ls", "nps")
"""The scores that the paper gives."""


@dataclass(frozen=True, slots=True)
class PaperScores:
    """One row of Table 1 or 9.

    Attributes:
        views: The paper's name of the view pairs.
        kind: The kind of view source (section `views`) that makes such pairs.
        gs: Global similarity, -1..1.
        ls: Local similarity, -1..1.
        nps: Nearest patch similarity, -1..1.
    """

    views: str
    kind: str
    gs: float
    ls: float
    nps: float


TABLE_1 = (
    PaperScores("Video frames", "video", 0.991, 0.405, 0.885),
    PaperScores("Diffusion (S-LDM)", "s_ldm", 0.991, 0.384, 0.794),
    PaperScores("K-nn images", "knn", 0.955, 0.310, 0.722),
    PaperScores("Random images", "random", 0.894, 0.181, 0.605),
)
"""Table 1: kinds of view pairs."""

TABLE_9 = (
    PaperScores("Video frames", "video", 0.991, 0.405, 0.885),
    PaperScores("Gen-SIS S-LDM", "s_ldm", 0.991, 0.384, 0.794),
    PaperScores("RCG S-LDM", "rcg", 0.951, 0.299, 0.735),
)
"""Table 9: choice of the diffusion model."""


def paper_counterpart(kind: str) -> tuple[str, PaperScores] | None:
    """(table, row) of the paper for a kind of view source, or None if the paper has none."""
    rows = [("Table 1", row) for row in TABLE_1] + [("Table 9", row) for row in TABLE_9]
    return next(((table, row) for table, row in rows if row.kind == kind), None)


def paper_distance(row: PaperScores) -> float:
    """Euclidean distance of a row's (GS, LS, NPS) to those of the paper's video frames."""
    return math.dist(*([getattr(scores, metric) for metric in COMPARED] for scores in (row, TABLE_1[0])))
