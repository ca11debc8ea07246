"""J and F of every object of a clip (spec label_propagation 3.6)."""

from __future__ import annotations

import logging
from collections import defaultdict
from collections.abc import Container
from typing import Any

from torch import Tensor

from cdgmae.propagation.benchmarks.benchmark import size_columns
from cdgmae.propagation.engine.resizing import resize_nearest
from cdgmae.propagation.layouts.labelled_clip import LabelledClip
from cdgmae.propagation.measures.mask_scorer import MaskScorer
from cdgmae.propagation.measures.masks import VOID, Ids, resize_like_pillow, without_void
from cdgmae.propagation.measures.object_measures import boundary_accuracy, frame_statistics, region_similarity

logger = logging.getLogger("cdgmae")


class ObjectScorer(MaskScorer):
    """DAVIS: J and F of every object, first and last frame left out (spec 3.6)."""

    def __init__(
        self,
        clip: LabelledClip,
        sides: tuple[int, int],
        grid: tuple[int, int],
        painted: Container[int],
        at_input_size: bool = False,
    ) -> None:
        """Read the annotation of frame 0.

        Args:
            clip: The clip.
            sides: (H, W) of the encoder's input.
            grid: (rows, columns) of patches.
            painted: Frames whose predictions will be asked for.
            at_input_size: Measure at the encoder's input size, annotations scaled to it as the prepared copy of DAVIS scales them.
        """
        super().__init__(clip, sides, grid, painted)
        ids = self.first.ids_HW
        self.scored_size = sides if at_input_size else self.label_size
        self.later_objects_seen = False
        self.num_objects = int(ids[ids != VOID].max(initial=0))
        self.regions: dict[int, list[float]] = defaultdict(list)
        self.boundaries: dict[int, list[float]] = defaultdict(list)

    def add(self, frame: int, labels_NC: Tensor) -> None:
        """Keep one frame at the size of the annotation of frame 0 and measure it at the scored size."""
        decoded = self.decode(labels_NC)
        if frame in self.painted:
            self.remember(frame, without_void(resize_nearest(decoded, self.label_size)))
        if not 0 < frame < len(self.clip.frames) - 1:
            return
        predicted = resize_nearest(decoded, self.scored_size)
        annotated = self.truth(frame)
        self._mention_later_objects(frame, annotated)
        truth = resize_like_pillow(annotated, self.scored_size)
        for item in range(1, self.num_objects + 1):
            mask, true_mask = predicted == item, truth == item
            self.regions[item].append(region_similarity(mask, true_mask))
            self.boundaries[item].append(boundary_accuracy(mask, true_mask))

    def _mention_later_objects(self, frame: int, ids_HW: Ids) -> None:
        """Say once per clip that objects which appear after its first frame are not measured."""
        if self.later_objects_seen or not ((ids_HW > self.num_objects) & (ids_HW != VOID)).any():
            return
        self.later_objects_seen = True
        logger.info(
            "clip %s: objects that appear after the first frame (e.g. in frame %d) are left out, as officially",
            self.clip.name,
            frame,
        )

    def rows(self) -> list[dict[str, Any]]:
        """One row per object."""
        rows = []
        for item in range(1, self.num_objects + 1):
            row: dict[str, Any] = {"item": item, "item_name": f"object {item}", **size_columns(self.sides, self.scored_size)}
            for letter, values in (("J", self.regions[item]), ("F", self.boundaries[item])):
                row.update({f"{letter}_{name}": value for name, value in frame_statistics(values)._asdict().items()})
            rows.append(row)
        return rows
