"""Scorers: one per clip, fed frame by frame with soft labels, measuring as it goes.

Shapes: N cells of the grid, C labels of a clip, H W image.
"""

from __future__ import annotations

import io
import logging
from collections import defaultdict
from collections.abc import Container, Iterator
from typing import Any, Protocol

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image
from torch import Tensor

from cdgmae.propagation.benchmarks.labelled_clip import Clip
from cdgmae.propagation.engine.resizing import resize_nearest
from cdgmae.propagation.measures.joints import (
    JOINT_NAMES,
    NUM_JOINTS,
    Coordinates,
    decode_joints,
    first_heat_maps,
    joint_counts,
    read_joints,
    to_pixels,
)
from cdgmae.propagation.measures.masks import (
    VOID,
    Ids,
    decode_labels,
    encode_mask,
    first_labels,
    label_order,
    read_annotation,
    resize_like_pillow,
)
from cdgmae.propagation.measures.object_measures import boundary_accuracy, frame_statistics, region_similarity
from cdgmae.propagation.measures.part_measures import NUM_PARTS, PART_NAMES, part_counts
from cdgmae.propagation.measures.score_schema import HITS, PCK_COLUMNS
from cdgmae.propagation.output.overlays import joint_image, joint_images, mask_image, mask_images
from cdgmae.settings.propagation import ProtocolSettings

logger = logging.getLogger("cdgmae")


class Scorer(Protocol):
    """What evaluating a clip needs of a scorer."""

    @property
    def scored_size(self) -> tuple[int, int]:
        """(height, width) in pixels at which predictions are compared with the truth."""
        ...

    def first_labels(self) -> Tensor:
        """Soft labels (N, C) of frame 0 on the CPU."""
        ...

    def add(self, frame: int, labels_NC: Tensor) -> None:
        """Decode and measure the labels of one frame; frames come in order from 0."""
        ...

    def rows(self) -> list[dict[str, Any]]:
        """Table rows of the clip without encoder and protocol, after the last frame."""
        ...

    def predictions(self) -> dict[str, bytes]:
        """Files of the predictions: path below the output folder -> bytes."""
        ...

    def images(self) -> Iterator[Image.Image]:
        """The frames with the predictions painted over them."""
        ...

    def image(self, frame: int, longer_side: int) -> Image.Image:
        """One frame with its predictions painted over it, `longer_side` pixels large; frame 0 with the labels that were given."""
        ...


class MaskScorer:
    """What DAVIS and VIP share: labels of frame 0 and decoded ids."""

    def __init__(self, clip: Clip, sides: tuple[int, int], grid: tuple[int, int], kept_frames: Container[int]) -> None:
        """Read the annotation of frame 0, the only one that propagation sees.

        Args:
            clip: The clip.
            sides: (H, W) of the encoder's input.
            grid: (rows, columns) of patches.
            kept_frames: Frames whose predictions will be asked for.
        """
        self.clip, self.sides, self.grid, self.kept_frames = clip, sides, grid, kept_frames
        self.first = read_annotation(clip.labels[0])
        self.order = label_order(self.first)
        self.masks: dict[int, bytes] = {}

    def first_labels(self) -> Tensor:
        """Soft labels (N, C) of frame 0 on the CPU."""
        return first_labels(self.first.ids_HW, self.order, self.sides, self.grid)

    def predictions(self) -> dict[str, bytes]:
        """masks/SEQUENCE/00000.png ...: palette PNGs at the size of the annotations, numbered by place in the clip."""
        return {f"masks/{self.clip.name}/{frame:05d}.png": data for frame, data in self.masks.items()}

    def images(self) -> Iterator[Image.Image]:
        """The frames under the predicted ids; all of them must have been kept."""
        return mask_images(self.clip, [self.kept(frame) for frame in range(len(self.clip.frames))])

    def image(self, frame: int, longer_side: int) -> Image.Image:
        """One kept frame under the predicted ids; frame 0 under its annotation."""
        truth_HW = self.truth(frame)
        return mask_image(self.clip, frame, self.kept(frame) if frame else truth_HW, truth_HW, longer_side)

    def kept(self, frame: int) -> Ids:
        """Predicted ids of a kept frame."""
        return np.asarray(Image.open(io.BytesIO(self.masks[frame])))

    @property
    def scored_size(self) -> tuple[int, int]:
        """(height, width) of the annotation of frame 0."""
        height, width = self.first.ids_HW.shape
        return height, width

    def decode(self, labels_NC: Tensor) -> Ids:
        """Predicted ids (H, W) at the encoder's input size."""
        return decode_labels(labels_NC, self.order, self.grid, self.sides)

    def truth(self, frame: int) -> Ids:
        """Annotated ids of a frame."""
        return read_annotation(self.clip.labels[frame]).ids_HW

    def remember(self, frame: int, ids_HW: Ids) -> None:
        """Keep a prediction if it is wanted."""
        if frame in self.kept_frames:
            self.masks[frame] = encode_mask(ids_HW)


class ObjectScorer(MaskScorer):
    """DAVIS: J and F of every object, first and last frame left out (spec 3.6)."""

    def __init__(
        self,
        clip: Clip,
        sides: tuple[int, int],
        grid: tuple[int, int],
        kept_frames: Container[int],
        at_input_size: bool = False,
    ) -> None:
        """Read the annotation of frame 0.

        Args:
            clip: The clip.
            sides: (H, W) of the encoder's input.
            grid: (rows, columns) of patches.
            kept_frames: Frames whose predictions will be asked for.
            at_input_size: Measure at the encoder's input size, annotations scaled to it as the prepared copy of DAVIS scales them.
        """
        super().__init__(clip, sides, grid, kept_frames)
        ids = self.first.ids_HW
        self.at_input_size = at_input_size
        self.later_objects_seen = False
        self.num_objects = int(ids[ids != VOID].max(initial=0))
        self.regions: dict[int, list[float]] = defaultdict(list)
        self.boundaries: dict[int, list[float]] = defaultdict(list)

    @property
    def scored_size(self) -> tuple[int, int]:
        """(height, width) at which J and F are measured."""
        return self.sides if self.at_input_size else super().scored_size

    def add(self, frame: int, labels_NC: Tensor) -> None:
        """Keep one frame at the size of the annotation of frame 0 and measure it at the scored size."""
        decoded = self.decode(labels_NC)
        if frame in self.kept_frames:
            self.remember(frame, resize_nearest(decoded, self.first.ids_HW.shape))
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
            row: dict[str, Any] = {"item": item, "item_name": f"object {item}"}
            for letter, values in (("J", self.regions[item]), ("F", self.boundaries[item])):
                row.update({f"{letter}_{name}": value for name, value in frame_statistics(values)._asdict().items()})
            rows.append(row)
        return rows


class PartScorer(MaskScorer):
    """VIP: pixel counts of every class over all frames, frame 0 included (spec 3.7)."""

    def __init__(self, clip: Clip, sides: tuple[int, int], grid: tuple[int, int], kept_frames: Container[int]) -> None:
        super().__init__(clip, sides, grid, kept_frames)
        self.counts = np.zeros((2, NUM_PARTS), dtype=np.int64)

    def add(self, frame: int, labels_NC: Tensor) -> None:
        """Count one frame at the size of its annotation."""
        truth = self.truth(frame)
        predicted = resize_like_pillow(self.decode(labels_NC), truth.shape)
        self.remember(frame, predicted)
        self.counts += part_counts(predicted, truth)

    def rows(self) -> list[dict[str, Any]]:
        """One row per class, classes that never occur included with zero counts and no IoU."""
        rows = []
        for item, name in enumerate(PART_NAMES):
            intersection, union = (int(count) for count in self.counts[:, item])
            share = intersection / union if union else None
            rows.append({"item": item, "item_name": name, "IoU": share, "intersection": intersection, "union": union})
        return rows


class JointScorer:
    """JHMDB: coordinates of 15 joints and the counts behind PCK (spec 3.8)."""

    def __init__(self, clip: Clip, sides: tuple[int, int], grid: tuple[int, int], kept_frames: Container[int]) -> None:
        """Read the joints; arguments as in `MaskScorer`."""
        self.clip, self.sides, self.grid = clip, sides, grid
        self.truth_2JT = read_joints(clip.labels[0])
        self.cells_2JT: Coordinates = np.full((2, NUM_JOINTS, len(clip.frames)), -1.0)

    def first_labels(self) -> Tensor:
        """Heat maps (N, 16) of frame 0 on the CPU."""
        patch_size = self.sides[0] // self.grid[0]
        return first_heat_maps(self.truth_2JT[:, :, 0], self.clip.frame_size, self.sides, patch_size)

    def add(self, frame: int, labels_NC: Tensor) -> None:
        """Decode one frame."""
        self.cells_2JT[:, :, frame] = decode_joints(labels_NC, self.grid[1])

    @property
    def scored_size(self) -> tuple[int, int]:
        """(height, width) of the frames."""
        return self.clip.frame_size

    def rows(self) -> list[dict[str, Any]]:
        """One row per joint; a joint that was never visible has no PCK."""
        visible_J, hits_JA = joint_counts(self.cells_2JT, self.truth_2JT, self.clip.frame_size, self.grid)
        rows = []
        for item, name in enumerate(JOINT_NAMES):
            visible, hits = int(visible_J[item]), hits_JA[item].tolist()
            shares = dict(zip(PCK_COLUMNS, (count / visible if visible else None for count in hits), strict=True))
            rows.append({"item": item, "item_name": name, **shares, "visible": visible, **dict(zip(HITS, hits, strict=True))})
        return rows

    def images(self) -> Iterator[Image.Image]:
        """The frames with joints and limbs."""
        pixels_2JT = to_pixels(self.cells_2JT, self.clip.frame_size, self.grid)
        return joint_images(self.clip, pixels_2JT, self.cells_2JT[0] >= 0, self.truth_2JT)

    def image(self, frame: int, longer_side: int) -> Image.Image:
        """One frame with joints and limbs; frame 0 with the true ones."""
        truth_2J, found_J = self.truth_2JT[:, :, frame], self.cells_2JT[0, :, frame] >= 0
        if frame == 0:
            return joint_image(self.clip, 0, truth_2J, np.ones_like(found_J), truth_2J, longer_side)
        pixels_2JT = to_pixels(self.cells_2JT, self.clip.frame_size, self.grid)
        return joint_image(self.clip, frame, pixels_2JT[:, :, frame], found_J, truth_2J, longer_side)

    def predictions(self) -> dict[str, bytes]:
        """joints/CLIP.parquet: a row per frame and joint.

        Columns: frame and joint (from 0), joint_name, x and y in pixels of the frame (from 0; JHMDB's own files count from 1),
        cell_x and cell_y in cells of the grid, found; a lost joint has cells -1 and `found` false.
        """
        pixels_2JT = to_pixels(self.cells_2JT, self.clip.frame_size, self.grid)
        frames, joints = np.meshgrid(np.arange(self.cells_2JT.shape[2]), np.arange(NUM_JOINTS), indexing="ij")
        columns = {
            "frame": frames.ravel().astype(np.int32),
            "joint": joints.ravel().astype(np.int32),
            "joint_name": [JOINT_NAMES[joint] for joint in joints.ravel()],
        }
        for name, values_JT in zip(("x", "y", "cell_x", "cell_y"), (*pixels_2JT, *self.cells_2JT), strict=True):
            columns[name] = values_JT.T.ravel()
        columns["found"] = (self.cells_2JT[0] >= 0).T.ravel()
        buffer = io.BytesIO()
        pq.write_table(pa.table(columns), buffer)
        return {f"joints/{self.clip.name}.parquet": buffer.getvalue()}


def make_scorer(
    clip_set: str,
    clip: Clip,
    sides: tuple[int, int],
    grid: tuple[int, int],
    protocol: ProtocolSettings,
    kept_frames: Container[int],
) -> Scorer:
    """The scorer of one clip of a clip set (davis, vip or jhmdb); arguments as in `ObjectScorer`."""
    if clip_set == "davis":
        return ObjectScorer(clip, sides, grid, kept_frames, protocol.scored_size == "input")
    return (PartScorer if clip_set == "vip" else JointScorer)(clip, sides, grid, kept_frames)
