"""How well points were followed: TAP-Vid's measures, and the counts behind PCK of key points (spec evaluation_kinds).

Shapes: P points of a clip, T frames, A limits. Comparisons with a lost position (not a number) are false.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from cdgmae.propagation.benchmarks.key_points import ALPHAS, Normaliser
from cdgmae.propagation.benchmarks.tap_vid import PIXELS, SCORED_SIZE
from cdgmae.propagation.measures.joints import BOX_SHARE
from cdgmae.propagation.tracks.point_clips import PointTracks

Positions = NDArray[np.float64]


def tap_vid_measures(
    tracks: PointTracks, points_PT2: Positions, shown_PT: NDArray[np.bool_], frame_size: tuple[int, int]
) -> dict[str, float | None]:
    """Columns of `cdgmae.propagation.benchmarks.tap_vid` for one video, over the annotated frames after each point's query.

    Args:
        tracks: The truth.
        points_PT2: Predicted x and y in pixels of the frames.
        shown_PT: Whether a point is predicted to be visible.
        frame_size: (height, width) of the frames; positions are measured at 256x256.

    Returns:
        Fractions; None where nothing could be counted.
    """
    judged, scale = tracks.judged_PT, np.array(SCORED_SIZE[::-1]) / np.array(frame_size[::-1])
    visible, shown = tracks.visible_PT & judged, shown_PT & judged
    distance_PT = np.hypot(*np.moveaxis((points_PT2 - tracks.positions_PT2) * scale, 2, 0))
    measures = {"occlusion_accuracy": _share((tracks.visible_PT == shown_PT)[judged].sum(), judged.sum())}
    for pixels in PIXELS:
        near = distance_PT < pixels
        measures[f"within_{pixels}"] = _share((visible & near).sum(), visible.sum())
        hits, false_alarms = (visible & shown & near).sum(), (shown & ~(visible & near)).sum()
        measures[f"jaccard_{pixels}"] = _share(hits, visible.sum() + false_alarms)
    return measures


def _share(part: np.int64, whole: np.int64) -> float | None:
    return float(part / whole) if whole else None


def key_point_counts(
    tracks: PointTracks, points_PT2: Positions, normaliser: Normaliser
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Frames (P,) in which each point is truly visible after it was given, and hits (P, A) among them per alpha; lost points are misses."""
    seen_PT = tracks.visible_PT & tracks.judged_PT
    distance_PT = np.hypot(*np.moveaxis(points_PT2 - tracks.positions_PT2, 2, 0))
    with np.errstate(divide="ignore", invalid="ignore"):
        relative_PT = distance_PT / frame_normalisers(tracks, normaliser)  # 0/0 is no hit: one point alone has no box
    hits_PTA = seen_PT[..., None] & (relative_PT[..., None] <= np.array(ALPHAS))
    return seen_PT.sum(axis=1), hits_PTA.sum(axis=1)


def frame_normalisers(tracks: PointTracks, normaliser: Normaliser) -> Positions:
    """The length (T,) in pixels that alpha refers to in every frame.

    Raises:
        ValueError: if it is `size` and a frame in which points are judged has none.
    """
    if normaliser == "size":
        needed_T = (tracks.visible_PT & tracks.judged_PT).any(axis=0)
        if (absent := np.flatnonzero(needed_T & np.isnan(tracks.sizes_T))).size:
            raise ValueError(
                f"normaliser = size, but no point of frame {absent[0]} has a size; give one, or choose another normaliser"
            )
        return tracks.sizes_T
    if not isinstance(normaliser, str):
        return np.full(tracks.visible_PT.shape[1], float(normaliser))
    shown_PT2 = np.where(tracks.visible_PT[..., None], tracks.positions_PT2, np.nan)
    boxes_T2 = np.nan_to_num(np.fmax.reduce(shown_PT2, axis=0) - np.fmin.reduce(shown_PT2, axis=0))
    sides: Positions = boxes_T2.max(axis=1) if normaliser == "box_side" else BOX_SHARE * np.hypot(*boxes_T2.T)
    return sides
