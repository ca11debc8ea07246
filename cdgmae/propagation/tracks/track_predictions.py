"""What following the points of one clip gave: rows, a file of positions, and painted frames.

Shapes: P points of a clip, T frames.
"""

from __future__ import annotations

import io
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from cdgmae.models.encoders.frozen_encoder import Encoder
from cdgmae.propagation.benchmarks.benchmark import size_columns
from cdgmae.propagation.benchmarks.track_benchmark import TrackBenchmark
from cdgmae.propagation.engine.frames import input_sides
from cdgmae.propagation.layouts.labelled_clip import LabelledClip
from cdgmae.propagation.output.overlays import BLACK, LONGER_SIDE, WHITE, canvas, captioned, dot, label_colours
from cdgmae.propagation.tracks.point_clips import PointTracks, read_tracks
from cdgmae.propagation.tracks.tracking import track_points
from cdgmae.settings.protocol import ClipProtocol


@dataclass(frozen=True, slots=True)
class PropagatedTracks:
    """The points of a clip as they were found.

    Attributes:
        clip: The clip.
        tracks: The truth.
        points_PT2: x and y in pixels of the frames; not a number where a point is lost or not yet given.
        cosines_PT: Similarity of each point's feature with that of the patch where it was found; -1 where it was not.
    """

    clip: LabelledClip
    tracks: PointTracks
    points_PT2: NDArray[np.float64]
    cosines_PT: NDArray[np.float64]


def follow(
    benchmark: TrackBenchmark[Any], clip: LabelledClip, protocol: ClipProtocol, encoder: Encoder, device: torch.device
) -> TrackPredictions:
    """Follow and measure all points of a clip.

    Raises:
        ValueError: if the clip's points cannot be read or measured.
    """
    tracks = read_tracks(clip)
    try:
        limits_T = np.broadcast_to(benchmark.limits(tracks, protocol, clip.frame_size), len(clip.frames))
    except ValueError as error:
        raise ValueError(f"{clip.labels[0]}: {error}") from None
    unit_PT2, cosines_PT = track_points(clip, tracks, encoder, protocol, device)
    followed = PropagatedTracks(clip, tracks, unit_PT2.numpy() * np.array(clip.frame_size[::-1]), cosines_PT.numpy())
    sizes = size_columns(input_sides(protocol.input_size, *clip.frame_size), benchmark.scored_size(clip.frame_size))
    return TrackPredictions(followed, [{**row, **sizes} for row in benchmark.track_rows(followed, protocol)], limits_T)


class TrackPredictions:
    """See `cdgmae.propagation.benchmarks.benchmark.Predictions`."""

    def __init__(self, propagated: PropagatedTracks, rows: list[dict[str, Any]], limits_T: NDArray[np.float64]) -> None:
        """Hold what was found; `limits_T` is how far off, in pixels of the frames, a point may be."""
        self.propagated, self._rows, self.limits_T = propagated, rows, limits_T

    def rows(self) -> list[dict[str, Any]]:
        """As the kind counts."""
        return self._rows

    def predictions(self) -> dict[str, bytes]:
        """tracks/CLIP.parquet: a row per point and frame from the one in which it is given.

        Columns: point, frame (from 0), x and y in pixels of the frame (null where lost), similarity.
        """
        tracks, points_PT2 = self.propagated.tracks, self.propagated.points_PT2
        points, frames = np.nonzero(np.arange(points_PT2.shape[1]) >= tracks.queries_P[:, None])
        columns = {
            "point": pa.array([tracks.names[point] for point in points]),
            "frame": pa.array(frames.astype(np.int32)),
            "x": pa.array(points_PT2[points, frames, 0], from_pandas=True),
            "y": pa.array(points_PT2[points, frames, 1], from_pandas=True),
            "similarity": pa.array(self.propagated.cosines_PT[points, frames]),
        }
        buffer = io.BytesIO()
        pq.write_table(pa.table(columns), buffer)
        return {f"tracks/{self.propagated.clip.name}.parquet": buffer.getvalue()}

    def images(self) -> Iterator[Image.Image]:
        """The frames with the points found in them."""
        for frame in range(len(self.propagated.clip.frames)):
            yield captioned(
                self.image(frame, LONGER_SIDE), self.propagated.clip, frame, "white line: to the true place, if missed"
            )

    def image(self, index: int, longer_side: int) -> Image.Image:
        """One frame; points that are given in it stand at their given place."""
        clip, tracks = self.propagated.clip, self.propagated.tracks
        painted = canvas(clip.frames[index], longer_side)
        draw, scale = ImageDraw.Draw(painted), painted.width / clip.frame_size[1]
        for point, colour in zip(range(len(tracks.names)), np.resize(label_colours()[1:22], (len(tracks.names), 3)), strict=True):
            truth_2 = tracks.positions_PT2[point, index]
            given = index == tracks.queries_P[point]
            at_2 = truth_2 if given else self.propagated.points_PT2[point, index]
            if np.isnan(at_2[0]):
                continue
            if tracks.visible_PT[point, index] and np.hypot(*(at_2 - truth_2)) > self.limits_T[index]:
                draw.line([*(at_2 * scale), *(truth_2 * scale)], fill=WHITE, width=2)
            red, green, blue = (int(value) for value in colour)
            dot(draw, (float(at_2[0] * scale), float(at_2[1] * scale)), 4, (red, green, blue), BLACK)
        return painted
