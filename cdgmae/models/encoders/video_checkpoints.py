"""Video encoders with tubelets (VideoMAE and its kin) as image encoders: the frame is repeated for the length of a tubelet.

Shapes: D width, C = 3 channels, L frames of a tubelet, P patch side, N patches of a frame.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

TRAINED_SIDE = 224
"""Side in pixels of the frames that VideoMAE's position table, which its files leave out, is made for."""

KERNEL = "patch_embed.proj.weight"


def is_video_state(state: Mapping[str, Tensor]) -> bool:
    """Whether patches are embedded by a three-dimensional kernel (D, C, L, P, P)."""
    return KERNEL in state and state[KERNEL].ndim == 5


def image_state(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The state dict of the Vision Transformer that sees one tubelet of a repeated frame.

    A tubelet of L equal frames is embedded by the kernel summed over its frames, which is exact. Positions are those of the first
    tubelet: the first N rows of the file's table, or of VideoMAE's sinusoid table if the file has none. BEiT-style attention
    biases (queries and values only) become the usual joint one.
    """
    kernel_DCLPP = state[KERNEL]
    image = {key: tensor for key, tensor in state.items() if not key.endswith((".q_bias", ".v_bias"))}
    image[KERNEL] = kernel_DCLPP.sum(dim=2)
    for key, query_bias in state.items():
        if key.endswith(".q_bias"):
            block = key.removesuffix("q_bias")
            image[f"{block}qkv.bias"] = torch.cat([query_bias, torch.zeros_like(query_bias), state[f"{block}v_bias"]])
    width, side = kernel_DCLPP.shape[0], kernel_DCLPP.shape[-1]
    num_patches, prefix = (TRAINED_SIDE // side) ** 2, int("cls_token" in state)
    table = state.get("pos_embed", sinusoid_positions(prefix + num_patches, width))
    image["pos_embed"] = table[:, : prefix + num_patches]
    return image


def sinusoid_positions(length: int, width: int) -> Tensor:
    """The one-dimensional table (1, length, width) of VideoMAE: sine at even channels, cosine at odd ones, base 10000."""
    channels = torch.arange(width, dtype=torch.float64)
    angles = torch.arange(length, dtype=torch.float64)[:, None] / 10000 ** (2 * (channels // 2) / width)
    return torch.where(channels % 2 == 0, angles.sin(), angles.cos()).float()[None]
