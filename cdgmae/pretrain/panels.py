"""Reconstruction panels: what the model sees, predicts and should have predicted, as images over the course of a run.

A model trained on normalised patches (`norm_pix_loss`) predicts each patch up to its brightness and contrast. The panel shows the
prediction with the statistics of the *visible* patches, and, in a column named so, with the true statistics of each masked patch: that
one looks better because it leaks the answer.
Shapes: B batch, A anchors, C = 3, H W image, N patches, P values of a patch.
"""

from __future__ import annotations

from pathlib import Path

import torch
from PIL import Image
from torch import Tensor, nn

from cdgmae.models.cross_view_mae import CrossViewMAE, CrossViewOutput
from cdgmae.models.masking import draw_mask
from cdgmae.models.normalisation import IMAGENET_MEAN, IMAGENET_STD
from cdgmae.pretrain.augment import finish_views
from cdgmae.pretrain.reconstruction import reconstruct
from cdgmae.pretrain.task import PretrainTask
from cdgmae.storage.files.atomic import atomic_file
from cdgmae.storage.media.image_sheet import join_columns

NUM_SAMPLES = 4
"""Rows of a panel: the first samples of the run's first batch, the same in all panels."""

MASKED_GREY = 0.5


class PanelPainter:
    """Paints `step{n}.png` files while a run trains; an observer of the training loop."""

    def __init__(self, task: PretrainTask, num_steps: int, num_panels: int, folder: Path) -> None:
        """Plan the panels.

        Args:
            task: Where the samples come from.
            num_steps: Steps of the whole run.
            num_panels: Panels over the run, evenly spaced, the last after the last step; 0 paints none.
            folder: Where to write; panels of an interrupted attempt stay.
        """
        self.task, self.folder = task, folder
        self.due = {round(num_steps * (number + 1) / num_panels) for number in range(num_panels)}
        self._batch: dict[str, Tensor] | None = None

    def __call__(self, steps_done: int, model: nn.Module) -> None:
        """Paint a panel if one is due after this step."""
        if steps_done not in self.due or not isinstance(model, CrossViewMAE):
            return
        if self._batch is None:
            self._batch = self.task.batch(0, range(min(NUM_SAMPLES, self.task.batch_size)))
        panel = paint_panel(model, self._batch, self.task.batches.settings.image_size)
        with atomic_file(self.folder / f"step{steps_done:08d}.png") as temporary:
            panel.save(temporary, format="PNG")


@torch.no_grad()
def paint_panel(model: CrossViewMAE, batch: dict[str, Tensor], image_size: int) -> Image.Image:
    """One row per sample: anchors as seen, the target as seen, the prediction, the target.

    Args:
        model: The model, in any mode and on any device; both are left as they are.
        batch: Samples with their masks, see `BagBatches.batch`.
        image_size: Side of the views in pixels.
    """
    device, was_training = model.cls_token.device, model.training
    batch = {name: tensor.to(device) for name, tensor in batch.items()}
    target_BCHW, anchors_BACHW = finish_views(batch, image_size)
    model.eval()
    output = reconstruct(model, batch, image_size)
    model.train(was_training)
    columns = {} if anchors_BACHW is None else _anchor_columns(model, anchors_BACHW, batch.get("anchor_noise"))
    columns["target, as seen"] = _fill(model, target_BCHW, output.masked_BN, None)
    for caption, patches_BNP in _predictions(model, target_BCHW, output).items():
        columns[caption] = _fill(model, target_BCHW, output.masked_BN, patches_BNP)
    columns["target"] = target_BCHW
    return join_columns({caption: _to_pixels(images) for caption, images in columns.items()})


def _anchor_columns(model: CrossViewMAE, anchors_BACHW: Tensor, noise_BAN: Tensor | None) -> dict[str, Tensor]:
    columns = {}
    for number in range(anchors_BACHW.shape[1]):
        shown = anchors_BACHW[:, number]
        if noise_BAN is not None and model.anchor_masking_ratio > 0:
            shown = _fill(model, shown, draw_mask(noise_BAN[:, number], model.anchor_masking_ratio).masked_BN, None)
        columns[f"anchor {number + 1}"] = shown
    return columns


def _predictions(model: CrossViewMAE, target_BCHW: Tensor, output: CrossViewOutput) -> dict[str, Tensor]:
    """Predicted patches in the scale of the normalised image, by caption."""
    predicted_BNP = output.prediction_BNP.float()
    if not model.norm_pix_loss:
        return {"prediction": predicted_BNP}
    patches_BNP = model.patchify(target_BCHW).float()
    mean, spread = patches_BNP.mean(dim=-1, keepdim=True), patches_BNP.std(dim=-1, keepdim=True)
    visible = (1 - output.masked_BN)[..., None]
    usual_mean, usual_spread = (
        (values * visible).sum(dim=1, keepdim=True) / visible.sum(dim=1, keepdim=True) for values in (mean, spread)
    )
    return {"prediction": predicted_BNP * usual_spread + usual_mean, "true patch mean and sd": predicted_BNP * spread + mean}


def _fill(model: CrossViewMAE, images_BCHW: Tensor, masked_BN: Tensor, patches_BNP: Tensor | None) -> Tensor:
    """Images whose masked patches are replaced by `patches_BNP`, or by grey."""
    seen_BNP = model.patchify(images_BCHW).float()
    if patches_BNP is None:
        grey = [(MASKED_GREY - mean) / std for mean, std in zip(IMAGENET_MEAN, IMAGENET_STD, strict=True)]
        patches_BNP = seen_BNP.new_tensor(grey).repeat(seen_BNP.shape[-1] // 3).expand_as(seen_BNP)
    filled_BNP = torch.where(masked_BN[..., None] > 0, patches_BNP, seen_BNP)
    p, grid = model.patch_size, images_BCHW.shape[-1] // model.patch_size
    cells = filled_BNP.reshape(-1, grid, grid, p, p, 3).permute(0, 5, 1, 3, 2, 4)
    return cells.reshape(images_BCHW.shape)


def _to_pixels(images_BCHW: Tensor) -> list[Image.Image]:
    mean, std = (images_BCHW.new_tensor(values).view(1, 3, 1, 1) for values in (IMAGENET_MEAN, IMAGENET_STD))
    pixels_BHWC = ((images_BCHW * std + mean).clamp(0, 1) * 255).round().byte().permute(0, 2, 3, 1).cpu().numpy()
    return [Image.fromarray(pixels) for pixels in pixels_BHWC]
