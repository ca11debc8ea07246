"""Kind `spair`: semantic correspondence between two images, SPair-71k; PCK with the box normaliser (spec evaluation_kinds)."""

from __future__ import annotations

from collections.abc import Container, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from pydantic import Field

from cdgmae.propagation.benchmarks.benchmark import Benchmark, Measure, Predictions, Row, mean_percent
from cdgmae.settings.protocol import InputSize, ProtocolSettings, input_size

if TYPE_CHECKING:
    import torch

    from cdgmae.models.encoders.frozen_encoder import Encoder
    from cdgmae.propagation.measures.key_point_pairs import PairGroup

ALPHAS = (0.1, 0.05, 0.01)
"""Shares of the target's box within which a point counts as found; the first is the headline."""

MEANINGS = {
    "per image": "the mean over image pairs of the share of their key points that are found",
    "per point": "the share of all key points that are found",
}


class SpairProtocol(ProtocolSettings):
    """A set of image pairs with key points in SPair-71k's layout."""

    kind: Literal["spair"] = Field(default="spair", description="SPair-71k: key points of image pairs, PCK.")
    input_size: InputSize = input_size((448, 448))
    split: Literal["test", "val", "trn"] = Field(default="test", description="Which pairs; published numbers are those of test.")
    layout: Literal["large", "small"] = Field(default="large", description="Which list of pairs: Layout/large or Layout/small.")


class Spair(Benchmark[SpairProtocol, "PairGroup"]):
    """Key points of one image looked for in another: each goes to the nearest patch. A sequence is a category with all its pairs."""

    kind = "spair"
    title = "SPair-71k"
    label = "SPair"
    layout = ("JPEGImages", "PairAnnotation", "Layout")
    protocol = SpairProtocol
    rules = "spair nearest patch"
    measures = tuple(
        Measure(
            f"PCK@{alpha} {mean}", f"{meaning}, within {alpha} of the longer side of the target's box", shown=alpha == ALPHAS[0]
        )
        for alpha in ALPHAS
        for mean, meaning in MEANINGS.items()
    )
    columns = dict.fromkeys(("points", *(f"hits_{alpha}" for alpha in ALPHAS)), int)
    meaning = f"{MEANINGS['per image']}, within a tenth of the longer side of the target's box"
    painting = (
        "Image pairs of the category, at equal distances in its list: left the given key points, right where they are found; a white line "
        "leads from a point that PCK@0.1 counts as missed to its true place."
    )

    def read(self, protocol: SpairProtocol) -> list[PairGroup]:
        """The categories of Layout/{layout}/{split}.txt with their pairs."""
        from cdgmae.propagation.measures.key_point_pairs import read_pairs

        return read_pairs(Path(protocol.root), protocol.layout, protocol.split)

    def check_input(self, sequences: Sequence[PairGroup], protocol: SpairProtocol, patch_size: int) -> None:
        """Every image may have its own size."""
        from cdgmae.propagation.engine.frames import grid_of, input_sides

        for size in {size for group in sequences for size in group.sizes}:
            grid_of(input_sides(protocol.input_size, *size), patch_size, f"an image of {size[1]}x{size[0]} pixels")

    def evaluate(
        self, sequence: PairGroup, protocol: SpairProtocol, encoder: Encoder, device: torch.device, painted: Container[int] = ()
    ) -> Predictions:
        """Embeds every image of a category once and looks up the key points of all its pairs."""
        from cdgmae.propagation.measures.key_point_pairs import find_points

        return find_points(sequence, protocol, encoder, device)

    def scores(self, rows: Sequence[Row]) -> dict[str, float]:
        """Both means over all pairs and points given, not over categories."""
        scores = {}
        for alpha in ALPHAS:
            hits, points = ([row[column] for row in rows] for column in (f"hits_{alpha}", "points"))
            scores[f"PCK@{alpha} per image"] = mean_percent(hit / count for hit, count in zip(hits, points, strict=True))
            scores[f"PCK@{alpha} per point"] = 100 * sum(hits) / sum(points) if points else float("nan")
        return scores
