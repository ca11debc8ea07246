"""Kind `jhmdb`: joints of JHMDB, or of any clips in its layout; PCK (spec label_propagation 3.8)."""

from __future__ import annotations

from collections.abc import Container, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from pydantic import Field

from cdgmae.propagation.benchmarks.benchmark import FIRST_FRAME, ClipBenchmark, Measure, Row, Scorer, mean_percent, totals
from cdgmae.settings.protocol import ClipProtocol, InputSize, input_size

if TYPE_CHECKING:
    from cdgmae.propagation.layouts.labelled_clip import LabelledClip

ALPHAS = (0.1, 0.2, 0.3, 0.4, 0.5)
"""Shares of the person's size within which a joint counts as found."""

PCK_COLUMNS = tuple(f"PCK@{alpha}" for alpha in ALPHAS)
HITS = tuple(f"hits_{alpha}" for alpha in ALPHAS)


class JhmdbProtocol(ClipProtocol):
    """A set of clips with joints in JHMDB's layout."""

    kind: Literal["jhmdb"] = Field(default="jhmdb", description="JHMDB: 15 joints, PCK.")
    input_size: InputSize = input_size((320, 320))


def _measure(alpha: float) -> Measure:
    meaning = f"the mean over joints of the share of frames in which the joint is found, within {alpha} of the person's size"
    return Measure(f"PCK@{alpha}", meaning, shown=alpha in ALPHAS[:2])


class Jhmdb(ClipBenchmark[JhmdbProtocol]):
    """Joints, measured by the share of those found."""

    kind = "jhmdb"
    title = "JHMDB"
    label = "JHMDB"
    layout = ("Rename_Images", "joint_positions")
    protocol = JhmdbProtocol
    measures = tuple(map(_measure, ALPHAS))
    columns = {**dict.fromkeys(PCK_COLUMNS, float), **dict.fromkeys(("visible", *HITS), int)}
    meaning = "the mean over joints of the share of frames in which the joint is found, within a tenth of the person's size"
    painting = (
        f"{FIRST_FRAME}Left limbs are orange, right ones blue, the middle yellow; a white line leads from a joint that PCK@0.2 counts as missed "
        "to its true place."
    )

    def read(self, protocol: JhmdbProtocol) -> list[LabelledClip]:
        """The test videos of splits/*_test_split1.txt, or all."""
        from cdgmae.propagation.layouts.jhmdb_layout import read_jhmdb

        return read_jhmdb(Path(protocol.root))

    def scorer(
        self, clip: LabelledClip, protocol: JhmdbProtocol, sides: tuple[int, int], grid: tuple[int, int], painted: Container[int]
    ) -> Scorer:
        """Decodes the joints of every frame and counts those found, the first frame left out."""
        from cdgmae.propagation.measures.joint_scorer import JointScorer

        return JointScorer(clip, sides, grid)

    def scores(self, rows: Sequence[Row]) -> dict[str, float]:
        """Mean over joints of the share of hits among their visible frames of all clips; joints never visible are skipped."""
        visible = totals(rows, "visible")
        shares = {}
        for column, hits_column in zip(PCK_COLUMNS, HITS, strict=True):
            hits = totals(rows, hits_column)
            shares[column] = mean_percent(hits[item] / visible[item] for item in visible if visible[item])
        return shares
