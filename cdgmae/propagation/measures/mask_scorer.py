"""What the scorers of masks share: labels of frame 0, decoded ids, palette PNGs and painted frames.

Shapes: N cells of the grid, C labels of a clip, H W image.
"""

from __future__ import annotations

import io
from collections.abc import Container, Iterator

import numpy as np
from PIL import Image
from torch import Tensor

from cdgmae.propagation.layouts.labelled_clip import LabelledClip
from cdgmae.propagation.measures.masks import Ids, decode_labels, encode_mask, first_labels, label_order, read_annotation
from cdgmae.propagation.output.overlays import mask_image, mask_images


class MaskScorer:
    """A scorer of masks without its measure."""

    def __init__(self, clip: LabelledClip, sides: tuple[int, int], grid: tuple[int, int], painted: Container[int]) -> None:
        """Read the annotation of frame 0, the only one that propagation sees.

        Args:
            clip: The clip.
            sides: (H, W) of the encoder's input.
            grid: (rows, columns) of patches.
            painted: Frames whose predictions will be asked for.
        """
        self.clip, self.sides, self.grid, self.painted = clip, sides, grid, painted
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
    def label_size(self) -> tuple[int, int]:
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
        if frame in self.painted:
            self.masks[frame] = encode_mask(ids_HW)
