"""PCK of image pairs as literal loops over pairs, points and cells (spec evaluation_kinds, SPair-71k)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np


def literal_feature(features_hwD: np.ndarray, x: float, y: float) -> np.ndarray:
    """The feature at column `x` and row `y`, in cells whose centres lie at 0.5, 1.5, ...; bilinear, beyond the outermost centres constant."""
    height, width = features_hwD.shape[:2]
    column, row = min(max(x - 0.5, 0), width - 1), min(max(y - 0.5, 0), height - 1)
    left, top = math.floor(column), math.floor(row)
    right, bottom = min(left + 1, width - 1), min(top + 1, height - 1)
    over, down = column - left, row - top
    upper = (1 - over) * features_hwD[top, left] + over * features_hwD[top, right]
    lower = (1 - over) * features_hwD[bottom, left] + over * features_hwD[bottom, right]
    return (1 - down) * upper + down * lower


def literal_point(source_hwD: np.ndarray, target_hwD: np.ndarray, pair: dict[str, Any], point: int) -> tuple[float, float]:
    """Where a source key point is found in the target, in its pixels."""
    (width, height, _), (target_width, target_height, _) = pair["src_imsize"], pair["trg_imsize"]
    x, y = pair["src_kps"][point]
    rows, columns = source_hwD.shape[:2]
    wanted = literal_feature(source_hwD, x / width * columns, y / height * rows)
    best, place = -math.inf, (0, 0)
    for row in range(target_hwD.shape[0]):
        for column in range(target_hwD.shape[1]):
            other = target_hwD[row, column]
            cosine = float(wanted @ other) / math.sqrt(float(wanted @ wanted) * float(other @ other))
            if cosine > best:
                best, place = cosine, (row, column)
    row, column = place
    return (column + 0.5) * target_width / target_hwD.shape[1], (row + 0.5) * target_height / target_hwD.shape[0]


def literal_pck(pairs: Sequence[dict[str, Any]], features: dict[str, np.ndarray], alpha: float) -> tuple[float, float]:
    """PCK per image and per point, in percent; `features` are those of every image by its file name."""
    shares, hits, points = [], 0, 0
    for pair in pairs:
        x1, y1, x2, y2 = pair["trg_bndbox"]
        limit, good = alpha * max(x2 - x1, y2 - y1), 0
        for point, (true_x, true_y) in enumerate(pair["trg_kps"]):
            x, y = literal_point(features[pair["src_imname"]], features[pair["trg_imname"]], pair, point)
            good += math.hypot(x - true_x, y - true_y) <= limit
        shares.append(good / len(pair["trg_kps"]))
        hits, points = hits + good, points + len(pair["trg_kps"])
    return 100 * sum(shares) / len(shares), 100 * hits / points
