"""Kind `davis`: objects of DAVIS-2017, or of any clips in its layout; J and F (spec label_propagation 3.6)."""

from __future__ import annotations

from collections.abc import Container, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Literal, Self

from pydantic import Field, model_validator

from cdgmae.propagation.benchmarks.benchmark import MASK_PAINTING, ClipBenchmark, Measure, Row, Scorer, mean_percent
from cdgmae.settings.protocol import ClipProtocol, InputSize, input_size

if TYPE_CHECKING:
    from cdgmae.propagation.layouts.labelled_clip import LabelledClip


class DavisProtocol(ClipProtocol):
    """A set of clips with object masks in DAVIS's layout."""

    kind: Literal["davis"] = Field(default="davis", description="DAVIS-2017: objects, J and F.")
    input_size: InputSize = input_size((480, 880))
    resolution: Literal["480p", "Full-Resolution"] = Field(
        default="480p", description="Which images and annotations are used; J and F are measured at their size."
    )
    protocol: Literal["native", "published"] = Field(
        default="native",
        description="`native`: the data as they are. `published`: the copy at 480x880 that published numbers were measured on, which the workflow "
        "makes in results/evaluation_sets; by hand, `root` must be such a copy (`cdgmae propagation prepare-davis`). J and F differ by "
        "about a point.",
    )
    scored_size: Literal["annotation", "input"] = Field(
        default="annotation",
        description="J and F at the size of the annotations, or with the annotations scaled to the encoder's input (480x880).",
    )

    @property
    def reads_prepared_copy(self) -> bool:
        """As `protocol` says."""
        return self.protocol == "published"

    @model_validator(mode="after")
    def _copy_is_of_480p(self) -> Self:
        if self.reads_prepared_copy and self.resolution != "480p":
            raise ValueError(f"protocol published is measured at 480p, found resolution = {self.resolution!r}; leave it out")
        return self


class Davis(ClipBenchmark[DavisProtocol]):
    """Objects, measured by region overlap and contour accuracy."""

    kind = "davis"
    title = "DAVIS-2017"
    label = "DAVIS"
    layout = ("JPEGImages", "Annotations", "ImageSets/2017/val.txt")
    protocol = DavisProtocol
    measures = (
        Measure("J&F", "the mean of region overlap J and contour accuracy F over objects"),
        Measure("J", "the mean overlap of predicted and true region over objects"),
        Measure("F", "the mean accuracy of contours over objects"),
    )
    columns = dict.fromkeys(("J_mean", "J_recall", "J_decay", "F_mean", "F_recall", "F_decay"), float)
    meaning = "the mean of region overlap J and contour accuracy F over the objects of the sequence"
    painting = MASK_PAINTING

    def read(self, protocol: DavisProtocol) -> list[LabelledClip]:
        """Every sequence of ImageSets/2017/val.txt."""
        from cdgmae.propagation.layouts.davis_layout import read_davis
        from cdgmae.propagation.layouts.prepare_davis import check_prepared

        if protocol.reads_prepared_copy:
            check_prepared(Path(protocol.root))
        return read_davis(Path(protocol.root), protocol.resolution)

    def scorer(
        self, clip: LabelledClip, protocol: DavisProtocol, sides: tuple[int, int], grid: tuple[int, int], painted: Container[int]
    ) -> Scorer:
        """Measures J and F of every object in all frames but the first and the last."""
        from cdgmae.propagation.measures.object_scorer import ObjectScorer

        return ObjectScorer(clip, sides, grid, painted, protocol.scored_size == "input")

    def scores(self, rows: Sequence[Row]) -> dict[str, float]:
        """Mean J and F over objects, not sequences, and their mean."""
        region, boundary = (mean_percent(row[column] for row in rows) for column in ("J_mean", "F_mean"))
        return {"J&F": (region + boundary) / 2, "J": region, "F": boundary}
