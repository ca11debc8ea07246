"""Kind `key_points`: one's own named key points in clips (JHMDB-like joints, BADJA's animals); PCK (spec evaluation_kinds)."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import Field

from cdgmae.propagation.benchmarks.benchmark import Measure, Row, mean_percent
from cdgmae.propagation.benchmarks.track_benchmark import TrackBenchmark
from cdgmae.settings.protocol import ClipProtocol, InputSize, input_size

if TYPE_CHECKING:
    from cdgmae.propagation.tracks.point_clips import PointTracks
    from cdgmae.propagation.tracks.track_predictions import PropagatedTracks

ALPHAS = (0.2, 0.1, 0.05)
"""Shares of the normaliser within which a point counts as found; the first is the headline."""

HITS = tuple(f"hits_{alpha}" for alpha in ALPHAS)

Normaliser = Literal["box_diagonal", "box_side", "size"] | Annotated[float, Field(gt=0)]


class KeyPointProtocol(ClipProtocol):
    """A set of clips with named key points in JSON or Parquet files."""

    kind: Literal["key_points"] = Field(default="key_points", description="Own key points of clips, PCK.")
    input_size: InputSize = input_size((320, 320))
    normaliser: Normaliser = Field(
        default="box_diagonal",
        description="What PCK's limits are shares of, frame by frame. `box_diagonal`: 0.6 times the diagonal of the tight box around the visible "
        "points, as in JHMDB; `box_side`: the longer side of that box; `size`: the frame's `size` in the file (BADJA: square root of the "
        "animal's area); a number: so many pixels.",
    )


class KeyPoints(TrackBenchmark[KeyPointProtocol]):
    """Named key points, measured by the share of those propagated. A row is a point of a clip."""

    kind = "key_points"
    title = "Key points"
    label = "Key points"
    protocol = KeyPointProtocol
    rules = "key points"
    measures = tuple(
        Measure(
            f"key point PCK@{alpha}",
            f"the mean over point names of the share of visible frames in which the point is found, within {alpha} of the normaliser",
            shown=alpha in ALPHAS[:2],
        )
        for alpha in ALPHAS
    )
    columns = dict.fromkeys(("visible", *HITS), int)
    meaning = "the mean over points of the share of frames in which the point is found, within a fifth of the normaliser"

    def track_rows(self, propagated: PropagatedTracks, protocol: KeyPointProtocol) -> list[dict[str, Any]]:
        """One row per point."""
        from cdgmae.propagation.tracks.track_measures import key_point_counts

        visible_P, hits_PA = key_point_counts(propagated.tracks, propagated.points_PT2, protocol.normaliser)
        return [
            {
                "item": item,
                "item_name": name,
                "visible": int(visible_P[item]),
                **dict(zip(HITS, hits_PA[item].tolist(), strict=True)),
            }
            for item, name in enumerate(propagated.tracks.names)
        ]

    def limits(self, tracks: PointTracks, protocol: KeyPointProtocol, frame_size: tuple[int, int]) -> Any:
        """A fifth of the normaliser."""
        from cdgmae.propagation.tracks.track_measures import frame_normalisers

        return ALPHAS[0] * frame_normalisers(tracks, protocol.normaliser)

    def scores(self, rows: Sequence[Row]) -> dict[str, float]:
        """Mean over names of the share of hits among their visible frames of all clips; points never visible again are skipped."""
        scores = {}
        for alpha, column in zip(ALPHAS, HITS, strict=True):
            hits, visible = Counter[str](), Counter[str]()
            for row in rows:
                hits[row["item_name"]] += row[column]
                visible[row["item_name"]] += row["visible"]
            scores[f"key point PCK@{alpha}"] = mean_percent(hits[name] / count for name, count in visible.items() if count)
        return scores
