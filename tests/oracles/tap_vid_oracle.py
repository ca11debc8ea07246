"""TAP-Vid's measures and the tracking of points as literal loops (spec evaluation_kinds, TAP-Vid)."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from tests.oracles.propagation_oracle import literal_propagation
from tests.oracles.spair_oracle import literal_feature


def literal_tap_vid(truth: np.ndarray, visible: np.ndarray, found: np.ndarray, shown: np.ndarray) -> dict[str, float]:
    """Measures of one video, mode `first`: positions (P, T, 2) in pixels at 256x256, visibilities (P, T), true and predicted."""
    counts: dict[str, int] = dict.fromkeys(("judged", "right", "visible"), 0)
    for d in (1, 2, 4, 8, 16):
        counts |= {f"within {d}": 0, f"true positives {d}": 0, f"false positives {d}": 0}
    for point in range(len(truth)):
        first = min((t for t in range(truth.shape[1]) if visible[point, t]), default=None)
        if first is None:
            continue
        for t in range(first + 1, truth.shape[1]):
            distance = math.dist(found[point, t], truth[point, t])
            counts["judged"] += 1
            counts["right"] += bool(visible[point, t]) == bool(shown[point, t])
            counts["visible"] += bool(visible[point, t])
            for d in (1, 2, 4, 8, 16):
                near = distance < d
                counts[f"within {d}"] += visible[point, t] and near
                counts[f"true positives {d}"] += visible[point, t] and shown[point, t] and near
                counts[f"false positives {d}"] += shown[point, t] and (not visible[point, t] or not near)
    measures = {f"within_{d}": counts[f"within {d}"] / counts["visible"] for d in (1, 2, 4, 8, 16)}
    for d in (1, 2, 4, 8, 16):
        measures[f"jaccard_{d}"] = counts[f"true positives {d}"] / (counts["visible"] + counts[f"false positives {d}"])
    return {**measures, "occlusion_accuracy": counts["right"] / counts["judged"]}


def literal_track(
    features_TND: np.ndarray, grid: tuple[int, int], x: float, y: float, query: int, **protocol: Any
) -> tuple[np.ndarray, np.ndarray]:
    """Positions (T, 2) in the unit square and cosines (T,) of a point given at (x, y) of the unit square in frame `query`."""
    rows, columns = grid
    u, v = min(max(x * columns - 0.5, 0), columns - 1), min(max(y * rows - 0.5, 0), rows - 1)
    labels = np.zeros((rows * columns, 1))
    for row in range(rows):
        for column in range(columns):
            labels[row * columns + column] = max(0.0, 1 - abs(row - v)) * max(0.0, 1 - abs(column - u))
    own = literal_feature(features_TND[query].reshape(rows, columns, -1), x * columns, y * rows)
    own = own / np.linalg.norm(own)
    positions, cosines = np.full((len(features_TND), 2), np.nan), np.full(len(features_TND), -1.0)
    for step, heat_N1 in enumerate(literal_propagation(features_TND[query:], labels, grid, **protocol)):
        heat = heat_N1[:, 0].reshape(rows, columns)
        best_row, best_column = divmod(int(heat.argmax()), columns)
        total = across = down = 0.0
        for row in range(max(0, best_row - 1), min(rows, best_row + 2)):
            for column in range(max(0, best_column - 1), min(columns, best_column + 2)):
                total += heat[row, column]
                across += heat[row, column] * (column + 0.5)
                down += heat[row, column] * (row + 0.5)
        positions[query + step] = across / total / columns, down / total / rows
        cosines[query + step] = own @ features_TND[query + step, best_row * columns + best_column]
    return positions, cosines
