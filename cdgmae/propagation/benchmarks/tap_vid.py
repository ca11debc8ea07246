"""Kind `tap_vid`: any point of a video, TAP-Vid's "first" protocol at 256x256 (spec evaluation_kinds, TAP-Vid)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Literal

from pydantic import Field

from cdgmae.propagation.benchmarks.benchmark import Measure, Row, mean_percent
from cdgmae.propagation.benchmarks.track_benchmark import TrackBenchmark
from cdgmae.settings.protocol import ClipProtocol, InputSize, input_size

if TYPE_CHECKING:
    from cdgmae.propagation.tracks.point_clips import PointTracks
    from cdgmae.propagation.tracks.track_predictions import PropagatedTracks

PIXELS = (1, 2, 4, 8, 16)
"""A position counts as right below these distances, in pixels of a 256x256 video."""

SCORED_SIZE = (256, 256)
PAINTED_MISS = 8

WITHIN = tuple(f"within_{pixels}" for pixels in PIXELS)
JACCARD = tuple(f"jaccard_{pixels}" for pixels in PIXELS)


class TapVidProtocol(ClipProtocol):
    """A set of videos with point tracks, as `cdgmae propagation prepare-tap-vid` writes them."""

    kind: Literal["tap_vid"] = Field(default="tap_vid", description="TAP-Vid: any point, position accuracy and average Jaccard.")
    input_size: InputSize = input_size((256, 256))
    visible_above: float = Field(
        default=0.6,
        ge=-1,
        le=1,
        description="A point counts as visible where the cosine of its feature with that of the patch where it is found is at least this. Fixed "
        "before any score was seen; the position accuracy does not depend on it.",
    )


class TapVid(TrackBenchmark[TapVidProtocol]):
    """Points, measured by the share of their positions found within a few pixels. A row is a video."""

    kind = "tap_vid"
    title = "TAP-Vid"
    label = "TAP-Vid"
    protocol = TapVidProtocol
    rules = "tap_vid first"
    measures = (
        Measure(
            "position accuracy",
            "the share of visible positions found, the mean over limits of 1, 2, 4, 8 and 16 pixels and over videos",
        ),
        Measure(
            "average Jaccard", "positions and visibility both right, against all that are visible or said to be; the same mean"
        ),
        Measure("occlusion accuracy", "the share of positions whose visibility is predicted right, the mean over videos"),
        *(
            Measure(f"within {pixels} px", f"the share of visible positions found within {pixels} pixels", shown=False)
            for pixels in PIXELS
        ),
    )
    columns = {**dict.fromkeys(("points", "visible"), int), **dict.fromkeys((*WITHIN, *JACCARD, "occlusion_accuracy"), float)}
    meaning = "the share of visible positions found, the mean over limits of 1, 2, 4, 8 and 16 pixels at 256x256"

    def track_rows(self, propagated: PropagatedTracks, protocol: TapVidProtocol) -> list[dict[str, Any]]:
        """One row: the published measures are those of a video."""
        from cdgmae.propagation.tracks.track_measures import tap_vid_measures

        tracks = propagated.tracks
        counts = {"points": len(tracks.names), "visible": int((tracks.visible_PT & tracks.judged_PT).sum())}
        measures = tap_vid_measures(
            tracks, propagated.points_PT2, propagated.cosines_PT >= protocol.visible_above, propagated.clip.frame_size
        )
        return [{"item": 0, "item_name": "all points", **counts, **measures}]

    def limits(self, tracks: PointTracks, protocol: TapVidProtocol, frame_size: tuple[int, int]) -> float:
        """8 pixels at 256x256."""
        return PAINTED_MISS * max(frame_size) / max(SCORED_SIZE)

    def scored_size(self, frame_size: tuple[int, int]) -> tuple[int, int]:
        """256x256, whatever the frames are."""
        return SCORED_SIZE

    def scores(self, rows: Sequence[Row]) -> dict[str, float]:
        """Plain means over videos."""
        means = {
            column: mean_percent(row[column] for row in rows if row[column] is not None)
            for column in (*WITHIN, *JACCARD, "occlusion_accuracy")
        }
        return {
            "position accuracy": sum(means[column] for column in WITHIN) / len(WITHIN),
            "average Jaccard": sum(means[column] for column in JACCARD) / len(JACCARD),
            "occlusion accuracy": means["occlusion_accuracy"],
            **{f"within {pixels} px": means[f"within_{pixels}"] for pixels in PIXELS},
        }
