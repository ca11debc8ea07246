"""Literal label propagation and its measures: padded queue, full affinity, loops over pixels, double precision."""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]


def literal_propagation(
    features_TND: Floats,
    first_NC: Floats,
    grid: tuple[int, int],
    *,
    top_k: int,
    queue_length: int,
    radius: float,
    temperature: float,
) -> Floats:
    """Labels (T, N, C): every query against all (n + 1) * N keys, frame 0 standing in the padded queue as often as it does."""
    num_frames, num_cells = features_TND.shape[:2]
    cells = np.array([divmod(cell, grid[1]) for cell in range(num_cells)], dtype=np.float64)
    outside_NN = np.linalg.norm(cells[:, None] - cells[None], axis=-1) >= radius
    labels = [first_NC]
    for t in range(1, num_frames):
        context = [0] + [max(0, t - queue_length + j) for j in range(queue_length)]
        affinity = np.stack([features_TND[t] @ features_TND[frame].T for frame in context], axis=1)  # query, entry, key
        affinity[:, 1:] += -1e10 * outside_NN[:, None]
        context_labels = np.concatenate([labels[frame] for frame in context])
        new = np.empty_like(first_NC)
        for query in range(num_cells):
            row = affinity[query].ravel()
            chosen = np.argsort(-row, kind="stable")[:top_k]
            weights = np.exp((row[chosen] - row[chosen[0]]) / temperature)
            new[query] = (weights / weights.sum()) @ context_labels[chosen]
        labels.append(new)
    return np.stack(labels)


def literal_region(predicted: npt.NDArray[np.bool_], truth: npt.NDArray[np.bool_]) -> float:
    """J by counting pixels one by one."""
    pixels = [(bool(p), bool(t)) for p, t in zip(predicted.ravel(), truth.ravel(), strict=True)]
    union = sum(p or t for p, t in pixels)
    return sum(p and t for p, t in pixels) / union if union else 1.0


def literal_boundary(mask: npt.NDArray[np.bool_]) -> npt.NDArray[np.bool_]:
    """Boundary by shifting the mask east, south and south-east, then fixing the last row, column and pixel."""
    east, south, south_east = np.zeros_like(mask), np.zeros_like(mask), np.zeros_like(mask)
    east[:, :-1], south[:-1], south_east[:-1, :-1] = mask[:, 1:], mask[1:], mask[1:, 1:]
    boundary = (mask ^ east) | (mask ^ south) | (mask ^ south_east)
    boundary[-1] = mask[-1] ^ east[-1]
    boundary[:, -1] = mask[:, -1] ^ south[:, -1]
    boundary[-1, -1] = False
    return boundary


def literal_dilation(mask: npt.NDArray[np.bool_], radius: int) -> npt.NDArray[np.bool_]:
    """Dilation by the disc x^2 + y^2 <= radius^2, pixel by pixel."""
    height, width = mask.shape
    dilated = np.zeros_like(mask)
    for y, x in np.argwhere(mask):
        for dy in range(-radius, radius + 1):
            for dx in range(-radius, radius + 1):
                if dx * dx + dy * dy <= radius * radius and 0 <= y + dy < height and 0 <= x + dx < width:
                    dilated[y + dy, x + dx] = True
    return dilated


def literal_accuracy(predicted: npt.NDArray[np.bool_], truth: npt.NDArray[np.bool_]) -> float:
    """F with its four cases of empty boundaries."""
    radius = math.ceil(0.008 * math.sqrt(truth.shape[0] ** 2 + truth.shape[1] ** 2))
    boundary, true_boundary = literal_boundary(predicted), literal_boundary(truth)
    if not boundary.any() and not true_boundary.any():
        precision, recall = 1.0, 1.0
    elif not boundary.any():
        precision, recall = 1.0, 0.0
    elif not true_boundary.any():
        precision, recall = 0.0, 1.0
    else:
        precision = (boundary & literal_dilation(true_boundary, radius)).sum() / boundary.sum()
        recall = (true_boundary & literal_dilation(boundary, radius)).sum() / true_boundary.sum()
    return 2 * precision * recall / (precision + recall) if precision + recall else 0.0


def literal_heat_map(u: float, v: float, rows: int, columns: int) -> Floats:
    """One joint's label map, cell by cell."""
    heat = np.zeros((rows, columns))
    left, top, right, bottom = int(u - 1.5), int(v - 1.5), int(u + 2.5), int(v + 2.5)
    if left >= columns or top >= rows or right < 0 or bottom < 0:
        return heat
    for row in range(max(0, top), min(bottom, rows)):
        for column in range(max(0, left), min(right, columns)):
            i, j = row - top, column - left
            heat[row, column] = math.exp(-((i - 2) ** 2 + (j - 2) ** 2) / (2 * 0.5**2))
    return heat


def literal_pck(
    predicted_pixels_2JT: Floats, visible_JT: npt.NDArray[np.bool_], truth_2JT: Floats, alpha: float
) -> list[tuple[int, int]]:
    """(visible, hits) per joint over the frames after the first."""
    counts = [(0, 0)] * truth_2JT.shape[1]
    for t in range(1, truth_2JT.shape[2]):
        seen = [joint for joint in range(truth_2JT.shape[1]) if visible_JT[joint, t]]
        if not seen:
            continue
        xs, ys = [truth_2JT[0, joint, t] for joint in seen], [truth_2JT[1, joint, t] for joint in seen]
        limit = alpha * 0.6 * math.hypot(max(xs) - min(xs), max(ys) - min(ys))
        for joint in seen:
            distance = math.dist(predicted_pixels_2JT[:, joint, t], truth_2JT[:, joint, t])
            visible, hits = counts[joint]
            counts[joint] = (visible + 1, hits + (limit > 0 and distance <= limit))
    return counts


def literal_mean_iou(pairs: list[tuple[npt.NDArray[np.uint8], npt.NDArray[np.uint8]]], num_classes: int) -> float:
    """Mean IoU of (prediction, truth) pairs from one global confusion matrix, filled pixel by pixel."""
    confusion = np.zeros((num_classes, num_classes + 1))
    for predicted, truth in pairs:
        for p, t in zip(predicted.ravel().tolist(), truth.ravel().tolist(), strict=True):
            if t < num_classes:
                confusion[t, min(p, num_classes)] += 1
    with np.errstate(invalid="ignore"):
        hits = confusion[:, :num_classes].diagonal()
        return float(np.nanmean(hits / (confusion.sum(1) + confusion[:, :num_classes].sum(0) - hits)))
