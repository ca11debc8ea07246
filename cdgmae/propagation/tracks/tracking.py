"""Points as labels: each is given in the first frame that shows it and propagated from there (spec evaluation_kinds, label_propagation 3.4).

Shapes: P points of a clip, T frames, N = h w cells of the grid, D feature width. Points are x before y.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from cdgmae.models.encoders.frozen_encoder import Encoder
from cdgmae.propagation.engine.frames import clip_grid, embed_frames
from cdgmae.propagation.engine.label_memory import LabelMemory
from cdgmae.propagation.layouts.labelled_clip import LabelledClip
from cdgmae.propagation.tracks.point_clips import PointTracks
from cdgmae.settings.protocol import ClipProtocol

WINDOW = 1
"""Cells to each side of the strongest one that a position is averaged over."""


def sample_features(features_hwD: Tensor, points_P2: Tensor) -> Tensor:
    """Unit features (P, D) at points of the unit square; bilinear between cell centres, beyond the outermost ones constant."""
    sampled_DP = F.grid_sample(
        features_hwD.permute(2, 0, 1)[None],
        (2 * points_P2 - 1)[None, None],
        mode="bilinear",
        padding_mode="border",
        align_corners=False,
    )[0, :, 0]
    return F.normalize(sampled_DP, dim=0).T


def point_labels(points_P2: Tensor, grid: tuple[int, int]) -> Tensor:
    """Labels (N, P): each point of the unit square shared out bilinearly among the four cell centres around it, in sum 1."""
    sides = points_P2.new_tensor([grid[1], grid[0]])
    cells_P2 = (points_P2 * sides - 0.5).clamp_min(0).minimum(sides - 1)
    across_Pw, down_Ph = (
        (1 - (cells_P2[:, axis, None] - torch.arange(side, device=points_P2.device)).abs()).clamp_min(0)
        for axis, side in ((0, grid[1]), (1, grid[0]))
    )
    return (down_Ph[:, :, None] * across_Pw[:, None, :]).flatten(1).T.contiguous()


def locate_points(labels_NP: Tensor, grid: tuple[int, int]) -> tuple[Tensor, Tensor]:
    """Where the labels of each point are: the strongest cell (P,), and the mean (P, 2) of the centres of the cells around it, weighted by
    their labels, in the unit square. A point whose labels are all zero is lost: not a number.
    """
    best_P = labels_NP.argmax(dim=0)
    rows_P, columns_P = best_P // grid[1], best_P % grid[1]
    rows_h, columns_w = (torch.arange(side, device=labels_NP.device) for side in grid)
    near_Ph, near_Pw = ((rows_h - rows_P[:, None]).abs() <= WINDOW, (columns_w - columns_P[:, None]).abs() <= WINDOW)
    weights_Phw = labels_NP.T.unflatten(1, grid) * near_Ph[:, :, None] * near_Pw[:, None, :]
    totals_P = weights_Phw.sum(dim=(1, 2))
    x_P = (weights_Phw.sum(dim=1) * (columns_w + 0.5)).sum(dim=1) / totals_P / grid[1]
    y_P = (weights_Phw.sum(dim=2) * (rows_h + 0.5)).sum(dim=1) / totals_P / grid[0]
    return best_P, torch.stack([x_P, y_P], dim=1)


def track_points(
    clip: LabelledClip, tracks: PointTracks, encoder: Encoder, protocol: ClipProtocol, device: torch.device
) -> tuple[Tensor, Tensor]:
    """Follow all points of a clip; those that are given in the same frame travel together.

    The features of all frames are kept while the clip is computed: T * N * D floats, 40 MB for 100 frames of 256x256 and ViT-S/16.

    Returns:
        Positions (P, T, 2) in the unit square and the cosine (P, T) of the point's own feature with that of the strongest cell, float64 on the
        CPU; not a number and -1 before the frame in which a point is given, and where it is lost.
    """
    sides, grid = clip_grid(clip, protocol.input_size, encoder.patch_size)
    unit_PT2 = torch.from_numpy(tracks.positions_PT2) / torch.tensor(clip.frame_size[::-1])
    points_PT2 = torch.full_like(unit_PT2, float("nan"))
    cosines_PT = torch.full(unit_PT2.shape[:2], -1.0, dtype=torch.float64)
    queries_P = torch.from_numpy(tracks.queries_P)
    with torch.inference_mode(), torch.backends.cudnn.flags(enabled=True, benchmark=False, deterministic=True, allow_tf32=False):
        features_TND = list(embed_frames(clip.frames, sides, encoder, device, protocol.precision))
        for start in sorted(set(queries_P.tolist())):
            group = (queries_P == start).nonzero()[:, 0]
            points_P2 = unit_PT2[group, start].to(features_TND[0])
            wanted_PD = sample_features(features_TND[start].unflatten(0, grid), points_P2)
            labels_NP = point_labels(points_P2, grid)
            memory = LabelMemory(features_TND[start], labels_NP, grid, protocol)
            for frame in range(start, len(features_TND)):
                if frame > start:
                    labels_NP = memory.propagate(features_TND[frame])
                best_P, at_P2 = locate_points(labels_NP, grid)
                cosine_P = (wanted_PD * features_TND[frame][best_P]).sum(dim=1)
                points_PT2[group, frame] = at_P2.cpu().double()
                cosines_PT[group, frame] = torch.where(at_P2[:, 0].isnan(), -1.0, cosine_P).cpu().double()
    return points_PT2, cosines_PT
