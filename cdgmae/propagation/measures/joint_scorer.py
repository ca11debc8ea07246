"""Joints of a clip and the counts behind PCK (spec label_propagation 3.8).

Shapes: J = 15 joints, T frames, N cells of the grid.
"""

from __future__ import annotations

import io
from collections.abc import Iterator
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image
from torch import Tensor

from cdgmae.propagation.benchmarks.benchmark import size_columns
from cdgmae.propagation.benchmarks.jhmdb import HITS, PCK_COLUMNS
from cdgmae.propagation.layouts.labelled_clip import LabelledClip
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
from cdgmae.propagation.output.overlays import joint_image, joint_images


class JointScorer:
    """JHMDB: coordinates of 15 joints and the counts behind PCK (spec 3.8)."""

    def __init__(self, clip: LabelledClip, sides: tuple[int, int], grid: tuple[int, int]) -> None:
        """Read the joints; arguments as in `cdgmae.propagation.measures.mask_scorer`."""
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

    def rows(self) -> list[dict[str, Any]]:
        """One row per joint; a joint that was never visible has no PCK."""
        visible_J, hits_JA = joint_counts(self.cells_2JT, self.truth_2JT, self.clip.frame_size, self.grid)
        rows = []
        for item, name in enumerate(JOINT_NAMES):
            visible, hits = int(visible_J[item]), hits_JA[item].tolist()
            shares = dict(zip(PCK_COLUMNS, (count / visible if visible else None for count in hits), strict=True))
            counts = {"visible": visible, **dict(zip(HITS, hits, strict=True))}
            sizes = size_columns(self.sides, self.clip.frame_size)
            rows.append({"item": item, "item_name": name, **shares, **counts, **sizes})
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
