"""Random patch masking (spec cross_view_mae 1.5).

Shapes: B batch, N patches, V visible patches, D width.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


def count_visible(num_patches: int, masking_ratio: float) -> int:
    """Patches that stay visible: int(N * (1 - ratio)), truncated as the published code does."""
    return int(num_patches * (1 - masking_ratio))


@dataclass(frozen=True, slots=True)
class PatchMask:
    """Which patches of each sample are visible.

    Attributes:
        visible_BV: Indices of the visible patches, in noise order.
        restore_BN: Place of each patch in [visible, masked] order.
        masked_BN: 1.0 where a patch is masked, 0.0 where it is visible.
    """

    visible_BV: Tensor
    restore_BN: Tensor
    masked_BN: Tensor

    def keep(self, patches_BND: Tensor) -> Tensor:
        """The visible patches (B, V, D)."""
        return patches_BND.gather(1, self.visible_BV[..., None].expand(-1, -1, patches_BND.shape[-1]))


def draw_mask(noise_BN: Tensor, masking_ratio: float) -> PatchMask:
    """Mask by noise: the patches with the lowest values stay visible, independently per sample.

    Args:
        noise_BN: One value per patch, uniform in [0, 1) in training; injectable for tests and replays.
        masking_ratio: Share of patches to mask, 0..1.
    """
    num_visible = count_visible(noise_BN.shape[1], masking_ratio)
    order_BN = noise_BN.argsort(dim=1, stable=True)
    restore_BN = order_BN.argsort(dim=1, stable=True)
    masked_BN = (restore_BN >= num_visible).to(torch.float32)
    return PatchMask(order_BN[:, :num_visible], restore_BN, masked_BN)
