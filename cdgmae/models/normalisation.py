"""Image tensors: from Pillow to float, and ImageNet normalisation.

Shapes: B batch, C = 3 channels (RGB), H W image.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, TypeAlias

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from cdgmae.storage.media.images import center_crop, resize_shorter_side, to_rgb

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)

Images: TypeAlias = Image.Image | Tensor | Sequence[Image.Image | Tensor]
"""What the Python interface takes as images: PIL images of any mode, tensors (3, H, W) of floats in 0..1 or of bytes, one or several of
either, or a batch (B, 3, H, W). All go on as 8-bit RGB, as if they had been read from a file."""


def normalise(images_BCHW: Tensor) -> Tensor:
    """Map images in 0..1 to ImageNet-normalised values, the input of every encoder."""
    mean_C11, std_C11 = (channel_values(values, images_BCHW) for values in (IMAGENET_MEAN, IMAGENET_STD))
    return (images_BCHW - mean_C11) / std_C11


def channel_values(values: Sequence[float], like: Tensor) -> Tensor:
    """One value per channel (C, 1, 1) in the dtype and on the device of `like`.

    Filled in there: a copy from the host would wait for all that a GPU has been given to do before.
    """
    return torch.stack([like.new_full((1, 1), value) for value in values])


def pixels_to_tensor(images: Sequence[Image.Image], device: torch.device | None = None) -> Tensor:
    """RGB images of equal size as one float32 tensor (B, 3, H, W) in 0..1, moved to `device` as bytes."""
    pixels_BHWC = np.stack([np.asarray(image, dtype=np.uint8) for image in images])
    return torch.from_numpy(pixels_BHWC).to(device).permute(0, 3, 1, 2).contiguous().float().div_(255.0)


def to_images(given: Images, what: str) -> list[Image.Image]:
    """Images in any accepted form as 8-bit RGB images, upright.

    Args:
        given: See `Images`.
        what: What they are, for messages.

    Raises:
        ValueError: if there is none, or one has another type, shape or range than `Images` allows.
    """
    if not isinstance(given, Iterable) or isinstance(given, str) or (isinstance(given, Tensor) and given.ndim != 4):
        given = [given]
    images = [_to_image(one, what) for one in given]
    if not images:
        raise ValueError(f"{what}: no image given; give at least one")
    return images


def _to_image(given: Any, what: str) -> Image.Image:
    if isinstance(given, Image.Image) and 0 not in given.size:
        return to_rgb(given)
    allowed = "PIL images, or tensors (3, H, W) of floats in 0..1 or of bytes"
    if not isinstance(given, Tensor):
        described = "an image without pixels" if isinstance(given, Image.Image) else type(given).__name__
        hint = "; PIL.Image.fromarray makes an image of an array" if isinstance(given, np.ndarray) else ""
        raise ValueError(f"{what}: found {described}; allowed are {allowed}{hint}")
    if given.ndim != 3 or given.shape[0] != 3 or 0 in given.shape:
        raise ValueError(f"{what}: a tensor of shape {tuple(given.shape)}; allowed are {allowed}")
    if given.dtype != torch.uint8:
        if not given.is_floating_point():
            raise ValueError(f"{what}: a tensor of {given.dtype}; allowed are {allowed}")
        if not bool(((given >= 0) & (given <= 1)).all()):
            low, high = given.min().item(), given.max().item()
            raise ValueError(
                f"{what}: {given.dtype} values from {low:g} to {high:g}; allowed are {allowed}. Undo a normalisation before, or "
                "divide by 255"
            )
        given = (given.detach().float() * 255).round().to(torch.uint8)
    return Image.fromarray(given.permute(1, 2, 0).cpu().numpy())


def square(image: Image.Image, side: int) -> Image.Image:
    """An image scaled by its shorter side and cropped to the centre."""
    return center_crop(resize_shorter_side(image, side), side)


def squares(images: Sequence[Image.Image], side: int) -> Tensor:
    """Images as `square` gives them: (B, 3, side, side) in 0..1."""
    return pixels_to_tensor([square(image, side) for image in images])
