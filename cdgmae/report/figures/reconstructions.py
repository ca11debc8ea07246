"""What a finished model reconstructs of any images (CropMAE's Figure 3): anchor, masked target, prediction, target.

The column `true patch mean and sd` gives a model of normalised patches the brightness and contrast that it never predicts
(see `cdgmae.pretrain.panels`); the column `prediction` takes them from the visible patches alone.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from cdgmae.consistency.scoring.pair_images import cut_crops
from cdgmae.models.cross_view_mae import CrossViewMAE
from cdgmae.pretrain.batches import draw_masks
from cdgmae.pretrain.export import run_settings
from cdgmae.pretrain.panels import paint_panel
from cdgmae.runtime.seeds import numpy_generator
from cdgmae.settings.pretrain import PretrainRunSettings
from cdgmae.storage.media.crop_boxes import plan_crop_pair

STREAM = "report/reconstructions"


def load_model(place: Path, settings: PretrainRunSettings) -> tuple[CrossViewMAE, PretrainRunSettings]:
    """A model with its decoder, and how it was trained.

    Args:
        place: Folder of a finished run (its own settings count), or a checkpoint of the whole model, such as CropMAE's.
        settings: What a checkpoint was trained with.

    Raises:
        ValueError: if the folder holds no finished run, or the weights do not fit.
    """
    file = place
    if place.is_dir():
        settings, file = run_settings(place), place / "model.safetensors"
    model = CrossViewMAE.from_settings(settings)
    model.load_checkpoint(file)
    return model, settings


def reconstruction_sheet(
    model: CrossViewMAE, settings: PretrainRunSettings, images: Mapping[str, Image.Image], seed: int = 0
) -> Image.Image:
    """One row per image: two crops of it, drawn as CropMAE draws them; the target is masked and predicted from the anchor.

    Views of a generator are not needed: an anchor that shows the same things from elsewhere is another crop.

    Args:
        model: With its decoder, on any device.
        settings: How it was trained: crops, image size, masking. Its number of anchors becomes 1, or 0 for a plain MAE.
        images: By name, which seeds crops and masks.
        seed: Another one draws others.
    """
    with_anchor = settings.num_anchors > 0
    settings = settings.model_copy(update={"num_anchors": int(with_anchor), "anchor_masking_ratio": 0.0})
    side, views = settings.image_size, []
    for name, image in images.items():
        plan = plan_crop_pair(settings, numpy_generator(seed, STREAM, name), image.size, side)
        views.append(cut_crops(image, plan, side)[: 1 + with_anchor])
    pixels_BVHWC = np.stack([np.stack([np.asarray(view) for view in of_image]) for of_image in views])
    batch = {
        "pixels": torch.from_numpy(pixels_BVHWC.reshape(-1)),
        "region_sizes": torch.full((*pixels_BVHWC.shape[:2], 2), side, dtype=torch.int32),
        "flips": torch.zeros(pixels_BVHWC.shape[:2], dtype=torch.bool),
    }
    return paint_panel(model, {**batch, **draw_masks(settings, seed, 0, list(images))}, side)
