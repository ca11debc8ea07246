"""What an encoder looks at: the CLS token's attention per head (CropMAE's Figure 5), and its patch features as colours.

Shapes: B images, H heads, T tokens, R prefix tokens (CLS, registers), N = h w patches, D width.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import matplotlib as mpl
import numpy as np
import numpy.typing as npt
import torch
from PIL import Image
from torch import Tensor

from cdgmae.models.encoders.by_name import Encoder
from cdgmae.models.normalisation import normalise, square, squares
from cdgmae.storage.media.image_sheet import join_columns

COLOURS = "inferno"
LARGEST_SIDE = 224


def attention_sheet(encoder: Encoder, images: Sequence[Image.Image]) -> Image.Image:
    """One row per image: the image, its patch features as colours, the attention of every head, and their mean.

    Each map is scaled by its own largest value. An encoder without attention has features alone.

    Args:
        encoder: The encoder, on any device.
        images: What it sees, each its central square, all at the shorter side of the smallest one, at most `LARGEST_SIDE` pixels and in whole
            patches.
    """
    smallest = min(LARGEST_SIDE, *(min(image.size) for image in images))
    side = max(1, round(smallest / encoder.patch_size)) * encoder.patch_size
    device = next((tensor.device for tensor in encoder.state_dict().values()), torch.device("cpu"))
    images_BCHW = normalise(squares(images, side)).to(device)
    columns = {"image": [square(image, side) for image in images]}
    columns["features"] = [_enlarged(colours, side) for colours in feature_colours(encoder, images_BCHW)]
    attention_BHhw = cls_attention(encoder, images_BCHW)
    if attention_BHhw is not None:
        maps = {f"head {head + 1}": attention_BHhw[:, head] for head in range(attention_BHhw.shape[1])}
        maps["mean of heads"] = attention_BHhw.mean(dim=1)
        columns |= {
            caption: [_enlarged(_heat(image), side) for image in of_images.cpu().numpy()] for caption, of_images in maps.items()
        }
    return join_columns(columns)


def cls_attention(encoder: Encoder, images_BCHW: Tensor) -> Tensor | None:
    """Softmaxed attention (B, H, h, w) of the last block from the CLS token to every patch.

    A network without CLS token gives the mean over its patches' attention. What goes to CLS and registers is left out, so a map sums to
    less than 1.

    Args:
        encoder: The encoder.
        images_BCHW: ImageNet-normalised images.

    Returns:
        The maps, or None for an encoder without attention of timm's form.
    """
    layers: list[Any] = [module for module in encoder.modules() if hasattr(module, "attn_drop") and hasattr(module, "fused_attn")]
    networks: list[Any] = [module for module in encoder.modules() if hasattr(module, "num_prefix_tokens")]
    if not layers or not networks:
        return None
    last, network, weights = layers[-1], networks[0], list[Tensor]()
    fused, last.fused_attn = last.fused_attn, False  # the fused kernel never holds the attention
    hook = last.attn_drop.register_forward_hook(lambda _module, _given, output: weights.append(output))
    try:
        encoder.tokens(images_BCHW)
    finally:
        hook.remove()
        last.fused_attn = fused
    prefix: int = network.num_prefix_tokens
    rows_BHRN = weights[0][:, :, :, prefix:]
    has_cls = getattr(network, "cls_token", None) is not None
    maps_BHN = rows_BHRN[:, :, 0] if has_cls else rows_BHRN[:, :, prefix:].mean(dim=2)
    height, width = (length // encoder.patch_size for length in images_BCHW.shape[-2:])
    return maps_BHN.reshape(*maps_BHN.shape[:2], height, width).float()


def feature_colours(encoder: Encoder, images_BCHW: Tensor) -> npt.NDArray[np.uint8]:
    """The three principal components of all patch features, as red, green and blue (B, h, w, 3): equal colours are alike features.

    Components are those of all images together, each scaled to its range and signed so that its largest loading is positive.
    """
    patches_BND = encoder.tokens(images_BCHW)[:, 1:].double().cpu()
    centred_PD = (patches_BND - patches_BND.mean(dim=(0, 1))).flatten(0, 1)
    directions_DK = torch.linalg.eigh(centred_PD.T @ centred_PD).eigenvectors[:, -3:].flip(1)
    largest_K = directions_DK.gather(0, directions_DK.abs().argmax(dim=0, keepdim=True))[0]
    components_PK = centred_PD @ (directions_DK * largest_K.sign())
    low_K, high_K = components_PK.amin(dim=0), components_PK.amax(dim=0)
    shares_PK = (components_PK - low_K) / (high_K - low_K).clamp(min=1e-12)
    grid = tuple(length // encoder.patch_size for length in images_BCHW.shape[-2:])
    colours: npt.NDArray[np.uint8] = (255 * shares_PK).round().byte().reshape(len(images_BCHW), *grid, 3).numpy()
    return colours


def _heat(values_hw: npt.NDArray[np.float32]) -> npt.NDArray[np.uint8]:
    coloured: npt.NDArray[np.uint8] = mpl.colormaps[COLOURS](values_hw / max(float(values_hw.max()), 1e-12), bytes=True)[..., :3]
    return coloured


def _enlarged(pixels: npt.NDArray[np.uint8], side: int) -> Image.Image:
    return Image.fromarray(pixels).resize((side, side), Image.Resampling.NEAREST)
