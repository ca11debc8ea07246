"""Kind `vip`: body parts of VIP, or of any clips in its layout; mIoU (spec label_propagation 3.7)."""

from __future__ import annotations

from collections.abc import Container, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from pydantic import Field

from cdgmae.propagation.benchmarks.benchmark import MASK_PAINTING, ClipBenchmark, Measure, Row, Scorer, mean_percent, totals
from cdgmae.settings.protocol import ClipProtocol, InputSize, input_size

if TYPE_CHECKING:
    from cdgmae.propagation.layouts.labelled_clip import LabelledClip


class VipProtocol(ClipProtocol):
    """A set of clips with part masks in VIP's layout."""

    kind: Literal["vip"] = Field(default="vip", description="VIP: body parts, mIoU.")
    input_size: InputSize = input_size(880)
    top_k: int = Field(default=10, ge=1, description="Keys per query that vote. Paper: 10.")


class Vip(ClipBenchmark[VipProtocol]):
    """Body parts, measured by the mean overlap of classes."""

    kind = "vip"
    title = "VIP"
    label = "VIP"
    layout = ("Images", "Annotations/Category_ids")
    protocol = VipProtocol
    measures = (Measure("mIoU", "the mean over classes of their overlap in all frames of all sequences together"),)
    columns = {"IoU": float, "intersection": int, "union": int}
    meaning = "the mean over the classes that occur in the sequence of their overlap in all its frames together"
    painting = MASK_PAINTING

    def read(self, protocol: VipProtocol) -> list[LabelledClip]:
        """The videos of lists/val_videos.txt, or all."""
        from cdgmae.propagation.layouts.vip_layout import read_vip

        return read_vip(Path(protocol.root))

    def scorer(
        self, clip: LabelledClip, protocol: VipProtocol, sides: tuple[int, int], grid: tuple[int, int], painted: Container[int]
    ) -> Scorer:
        """Counts the pixels of every class in all frames, the first included."""
        from cdgmae.propagation.measures.part_scorer import PartScorer

        return PartScorer(clip, sides, grid, painted)

    def scores(self, rows: Sequence[Row]) -> dict[str, float]:
        """Mean over classes of the IoU of all sequences together; classes that never occur are skipped."""
        intersection, union = totals(rows, "intersection"), totals(rows, "union")
        return {"mIoU": mean_percent(intersection[item] / union[item] for item in union if union[item])}
