"""From the uint8 views of a batch to the model's input, on the training device."""

from __future__ import annotations

from torch import Tensor

from cdgmae.models.normalisation import normalise


def finish_views(batch: dict[str, Tensor], image_size: int) -> Tensor:
    """ImageNet-normalised views (B, 1 + A, 3, S, S), target first."""
    images_BVCHW = batch["views"].permute(0, 1, 4, 2, 3).float().div(255.0)
    return normalise(images_BVCHW.flatten(0, 1)).reshape(images_BVCHW.shape)
