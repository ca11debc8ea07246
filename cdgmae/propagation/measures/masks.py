"""Segmentation labels: reading annotations, soft labels of frame 0, decoding, palette PNGs (spec label_propagation 3.5).

Shapes: H W image, N cells of the grid, C labels of a clip.
"""

from __future__ import annotations

import io
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image
from torch import Tensor

from cdgmae.propagation.engine.resizing import resize_bilinear, resize_nearest
from cdgmae.storage.media.images import ImageError, open_image, upright

Ids = npt.NDArray[np.uint8]
INDEXED_MODES = ("P", "L")
VOID = 255
"""Id of pixels that belong to nobody."""


def davis_palette() -> npt.NDArray[np.uint8]:
    """The 256 RGB colours (256, 3) of DAVIS and PASCAL VOC: bit j of each channel's share of the id becomes bit 7 - j."""
    ids = np.arange(256)
    palette = np.zeros((256, 3), dtype=np.uint8)
    for bit in range(8):
        for channel in range(3):
            palette[:, channel] |= (((ids >> (3 * bit + channel)) & 1) << (7 - bit)).astype(np.uint8)
    return palette


@dataclass(frozen=True, slots=True)
class Annotation:
    """An indexed annotation: ids (H, W), and the palette (256, 3) that its file shows them with (grey if it has none)."""

    ids_HW: Ids
    palette: npt.NDArray[np.uint8]


def read_annotation(path: Path) -> Annotation:
    """Read a palette or grey PNG as ids.

    Raises:
        ValueError: if the file is missing, broken, or holds colours instead of ids.
    """
    try:
        with open_image(path) as stored:
            stored.load()
            image = upright(stored)
    except (OSError, ImageError) as error:
        raise ValueError(f"annotation {path} cannot be read ({error}); copy it again from the data set's archive") from None
    return to_annotation(image, f"annotation {path}")


def to_annotation(image: Image.Image, what: str) -> Annotation:
    """The ids that a palette or grey image holds.

    Args:
        image: The image.
        what: What it is, for the message.

    Raises:
        ValueError: if it holds colours instead of ids.
    """
    if image.mode not in INDEXED_MODES:
        raise ValueError(f"{what} holds {image.mode} pixels; annotations are indexed (palette) or grey 8-bit PNGs of ids")
    palette = np.repeat(np.arange(256, dtype=np.uint8)[:, None], 3, axis=1)
    if image.mode == "P":
        colours = np.array(image.getpalette("RGB"), dtype=np.uint8).reshape(-1, 3)
        palette = np.zeros((256, 3), dtype=np.uint8)
        palette[: len(colours)] = colours
    return Annotation(np.asarray(image, dtype=np.uint8), palette)


def label_order(annotation: Annotation) -> Ids:
    """The ids present, sorted by blue, green, red of their palette colour: the order that decides ties."""
    ids = np.unique(annotation.ids_HW)
    red, green, blue = (annotation.palette[ids, channel] for channel in range(3))
    return ids[np.lexsort((ids, red, green, blue))]


def first_labels(ids_HW: Ids, order: Ids, sides: tuple[int, int], grid: tuple[int, int]) -> Tensor:
    """Soft labels (N, C) of frame 0: ids to the input size (nearest), one-hot, bilinear to the grid.

    Args:
        ids_HW: Annotation at its own size.
        order: The ids that become channels, in this order.
        sides: (H, W) of the encoder's input.
        grid: (rows, columns) of patches.
    """
    resized = resize_nearest(ids_HW, sides)
    one_hot_CHW = torch.from_numpy(resized[None] == order[:, None, None]).float()
    return resize_bilinear(one_hot_CHW, grid).flatten(1).T.contiguous()


def decode_labels(labels_NC: Tensor, order: Ids, grid: tuple[int, int], sides: tuple[int, int]) -> Ids:
    """Ids at the input size: bilinear from the grid, then the strongest label; ties go to the first in `order`."""
    planes_CHW = resize_bilinear(labels_NC.T.unflatten(1, grid), sides)
    ids_HW: Ids = order[_strongest(planes_CHW).cpu().numpy()]
    return ids_HW


def _strongest(planes_CHW: Tensor) -> Tensor:
    """The first of the largest channels of every pixel, as bytes; on a CPU plane by plane, many times faster than along the channels."""
    if planes_CHW.device.type != "cpu":
        return planes_CHW.argmax(dim=0).to(torch.uint8)
    best_HW, place_HW = planes_CHW[0].clone(), torch.zeros(planes_CHW.shape[1:], dtype=torch.uint8)
    for place in range(1, len(planes_CHW)):
        above_HW = planes_CHW[place] > best_HW
        place_HW[above_HW] = place
        torch.maximum(best_HW, planes_CHW[place], out=best_HW)
    return place_HW


def resize_like_pillow(ids_HW: Ids, sides: tuple[int, int]) -> Ids:
    """Nearest neighbour by Pillow's rule (half-pixel centres), which VIP's measure uses."""
    if ids_HW.shape == sides:
        return ids_HW
    return np.asarray(Image.fromarray(ids_HW).resize((sides[1], sides[0]), Image.Resampling.NEAREST))


def without_void(ids_HW: Ids) -> Ids:
    """Predicted ids with void as background; the official toolkits refuse masks with void."""
    return np.where(ids_HW == VOID, np.uint8(0), ids_HW)


def encode_mask(ids_HW: Ids) -> bytes:
    """A palette PNG with DAVIS's colours."""
    image = Image.fromarray(ids_HW)
    image.putpalette(davis_palette().tobytes())
    buffer = io.BytesIO()
    image.save(buffer, format="PNG")
    return buffer.getvalue()
