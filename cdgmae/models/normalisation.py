"""Image tensors: from Pillow to float, and ImageNet normalisation.

Shapes: B batch, C = 3 channels (RGB), H W image.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from cdgmae.storage.media.images import center_crop, resize_shorter_side

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)


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


def square(image: Image.Image, side: int) -> Image.Image:
    """An image scaled by its shorter side and cropped to the centre."""
    return center_crop(resize_shorter_side(image, side), side)


def squares(images: Sequence[Image.Image], side: int) -> Tensor:
    """Images as `square` gives them: (B, 3, side, side) in 0..1."""
    return pixels_to_tensor([square(image, side) for image in images])
