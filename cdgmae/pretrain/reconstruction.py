"""From a batch of bags to the model's reconstruction and loss: the views are finished on the device and go through the model."""

from __future__ import annotations

from torch import Tensor, nn

from cdgmae.models.cross_view_mae import CrossViewOutput
from cdgmae.pretrain.augment import finish_views


def reconstruct(model: nn.Module, batch: dict[str, Tensor], image_size: int, *, compiled: bool = False) -> CrossViewOutput:
    """Run the model on a batch with the masks that belong to its samples.

    On a CPU dropout belongs to the samples, too, so that a run is the same on any number of processes; a GPU draws it by the batch,
    which its fused attention can do.
    """
    target_BCHW, anchors_BACHW = finish_views(batch, image_size, compiled=compiled)
    seeds = None if target_BCHW.is_cuda else batch["dropout_seeds"]
    output: CrossViewOutput = model(target_BCHW, anchors_BACHW, batch["target_noise"], batch.get("anchor_noise"), seeds)
    return output
