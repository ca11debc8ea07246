"""Cross-view MAE, stated as literally as the spec does: one anchor, one patch at a time."""

from __future__ import annotations

import torch
from torch import Tensor

from cdgmae import CrossViewMAE


def literal_memory(model: CrossViewMAE, anchors: Tensor, noise: Tensor, ratio: float) -> Tensor:
    """Encode every anchor of every sample in its own pass, without its masked patches, and concatenate (paper, eq. 6 and 7)."""
    samples = []
    for views, view_noises in zip(anchors, noise, strict=True):
        tokens = []
        for view, values in zip(views, view_noises, strict=True):
            patches = model.patch_embed(view[None]) + model.pos_embed[:, 1:]
            kept = sorted(range(len(values)), key=lambda place: float(values[place]))[: int(len(values) * (1 - ratio))]
            sequence = torch.cat([model.cls_token + model.pos_embed[:, :1], patches[:, kept]], dim=1)
            for block in model.blocks:
                sequence = block(sequence)
            tokens.append(model.norm(sequence)[0])
        samples.append(torch.cat(tokens))
    return torch.stack(samples)


def literal_loss(images: Tensor, prediction: Tensor, masked: Tensor, patch: int, normalise: bool) -> float:
    """Mean over all masked patches of the batch of each patch's mean squared error (paper, eq. 10)."""
    total, count = 0.0, 0
    grid = images.shape[-1] // patch
    for sample in range(images.shape[0]):
        for place in range(grid * grid):
            if masked[sample, place] == 0:
                continue
            row, column = divmod(place, grid)
            cell = images[sample, :, row * patch : (row + 1) * patch, column * patch : (column + 1) * patch]
            values = cell.permute(1, 2, 0).reshape(-1).double()
            if normalise:
                values = (values - values.mean()) / torch.sqrt(values.var(unbiased=True) + 1e-6)
            total += float((prediction[sample, place].double() - values).square().mean())
            count += 1
    return total / count
