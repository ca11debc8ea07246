"""What the kinds of evaluation sets have in common whose labels are points, each followed from the first frame that shows it."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Container
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cdgmae.propagation.benchmarks.benchmark import AnyClipProtocol, LabelledClipBenchmark, Predictions

if TYPE_CHECKING:
    import torch

    from cdgmae.models.encoders.frozen_encoder import Encoder
    from cdgmae.propagation.layouts.labelled_clip import LabelledClip
    from cdgmae.propagation.tracks.point_clips import PointTracks
    from cdgmae.propagation.tracks.track_predictions import PropagatedTracks

POINT_PAINTING = (
    "Points in the frames after the one in which each is given, at equal distances; a white line leads from a point that is found too far away "
    "to its true place."
)


class TrackBenchmark(LabelledClipBenchmark[AnyClipProtocol]):
    """A kind whose clips hold points, in the layout of `cdgmae.propagation.tracks.point_clips`."""

    layout = ("frames", "points")
    painting = POINT_PAINTING

    def read(self, protocol: AnyClipProtocol) -> list[LabelledClip]:
        """Every clip of points/, by name."""
        from cdgmae.propagation.tracks.point_clips import read_point_clips

        return read_point_clips(Path(protocol.root), self.title)

    def evaluate(
        self,
        sequence: LabelledClip,
        protocol: AnyClipProtocol,
        encoder: Encoder,
        device: torch.device,
        painted: Container[int] = (),
    ) -> Predictions:
        """Follows every point from the first frame that shows it."""
        from cdgmae.propagation.tracks.track_predictions import follow

        return follow(self, sequence, protocol, encoder, device)

    @abstractmethod
    def track_rows(self, propagated: PropagatedTracks, protocol: AnyClipProtocol) -> list[dict[str, Any]]:
        """Rows of one clip without sizes."""

    @abstractmethod
    def limits(self, tracks: PointTracks, protocol: AnyClipProtocol, frame_size: tuple[int, int]) -> Any:
        """Distance in pixels of the frames, per frame or for all, beyond which a point is painted as missed."""

    def scored_size(self, frame_size: tuple[int, int]) -> tuple[int, int]:
        """(height, width) in whose pixels distances are measured."""
        return frame_size
