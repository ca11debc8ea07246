"""Literal label propagation and its measures: padded queue, full affinity, loops over pixels, double precision."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

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
    restrict_first_frame: bool = False,
    restart_every: int = 0,
) -> Floats:
    """Labels (T, N, C): every query against all (n + 1) * N keys, frame 0 standing in the padded queue as often as it does.

    After a restart the queue is padded with frame 0 as at the beginning.
    """
    num_frames, num_cells = features_TND.shape[:2]
    cells = np.array([divmod(cell, grid[1]) for cell in range(num_cells)], dtype=np.float64)
    outside_NN = np.linalg.norm(cells[:, None] - cells[None], axis=-1) >= radius
    labels = [first_NC]
    for t in range(1, num_frames):
        first = (t - 1) // restart_every * restart_every if restart_every else 0  # frames up to this one are forgotten
        recent = [t - queue_length + j for j in range(queue_length)]
        context = [0] + [frame if frame > first else 0 for frame in recent]
        affinity = np.stack([features_TND[t] @ features_TND[frame].T for frame in context], axis=1)  # query, entry, key
        affinity[:, 0 if restrict_first_frame else 1 :] += -1e10 * outside_NN[:, None]
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


def literal_clip_labels(
    frames_THW: list[Tensor],
    tokens: Callable[[Tensor], Tensor],
    first_NC: Tensor,
    grid: tuple[int, int],
    *,
    top_k: int,
    queue_length: int,
    radius: float,
    temperature: float,
) -> list[Tensor]:
    """Soft labels (N, C) of all frames as the protocol is written down (spec 3.3, 3.4), in float32 tensors.

    The clip is padded in front with `queue_length` copies of frame 0, all of which go through the encoder in mini-batches of 5; every
    query frame then gathers the features and labels of its whole context and is compared with all of it, 100 queries at a time.

    Args:
        frames_THW: Normalised frames (3, H, W).
        tokens: The encoder: (B, 3, H, W) to tokens (B, 1 + N, D).
        first_NC: Soft labels of frame 0.
        grid: (rows, columns).
        top_k: Keys that vote.
        queue_length: n.
        radius: In patches, for all entries of the context but the first.
        temperature: Of the softmax.
    """
    padded = [frames_THW[0]] * queue_length + frames_THW
    features = []
    for start in range(0, len(padded), 5):
        batch = tokens(torch.stack(padded[start : start + 5]))[:, 1:]
        features += list(torch.nn.functional.normalize(batch, dim=-1, eps=1e-12))
    num_cells = grid[0] * grid[1]
    cells = torch.stack([torch.arange(num_cells) // grid[1], torch.arange(num_cells) % grid[1]], dim=1).double()
    outside_NN = (torch.cdist(cells, cells, compute_mode="donot_use_mm_for_euclid_dist") >= radius).float() * -1e10
    labels = [first_NC] * (queue_length + 1)
    for query in range(queue_length + 1, len(padded)):
        entries = [0, *range(query - queue_length, query)]
        keys_KD = torch.cat([features[entry] for entry in entries])
        context_KC = torch.cat([labels[entry] for entry in entries])
        rows = []
        for start in range(0, num_cells, 100):
            affinity_QEN = (features[query][start : start + 100] @ keys_KD.T).unflatten(1, (len(entries), num_cells))
            affinity_QEN[:, 1:] += outside_NN[start : start + 100, None]
            best = (affinity_QEN.flatten(1) / temperature).topk(top_k, dim=1)
            rows.append((best.values.softmax(dim=1)[..., None] * context_KC[best.indices]).sum(dim=1))
        labels.append(torch.cat(rows))
    return labels[queue_length:]
