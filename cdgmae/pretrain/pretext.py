"""Pretext tasks: which views of a bag are target and anchors, and how they are cropped.

Every draw of one sample comes from one generator seeded by (seed, key, epoch), so a sample is the same whatever the batch,
worker or number of interruptions.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from PIL import Image

from cdgmae.pretrain.crops import draw_crop, flip_if, take_crop
from cdgmae.settings.pretrain import PretrainRunSettings

LoadView = Callable[[int], Image.Image]
"""Decodes one view of the bag by view_index (0 = real)."""


def make_sample(
    settings: PretrainRunSettings, generator: np.random.Generator, generated: list[int], load_view: LoadView
) -> list[Image.Image]:
    """The pictures of one sample, all image_size x image_size: the target first, then the anchors.

    Args:
        settings: The run.
        generator: The sample's own source of randomness.
        generated: view_index of the bag's generated views.
        load_view: Decodes a view; only the drawn ones are asked for.
    """
    if settings.pretext == "crops":
        return _crop_pair(settings, generator, load_view(0))
    chosen = choose_views(settings, generator, generated)
    return _crop_views(settings, generator, [load_view(index) for index in chosen])


def choose_views(settings: PretrainRunSettings, generator: np.random.Generator, generated: list[int]) -> list[int]:
    """view_index of the target, then of `num_anchors` distinct other views of the bag (paper, section 4).

    The target is the real image, a generated view, or any of them (paper, Table 2), by `target_view`.
    """
    bag = [0, *generated]
    candidates = {"real": [0], "generated": generated, "random": bag}[settings.target_view]
    target = candidates[int(generator.integers(len(candidates)))]
    others = [index for index in bag if index != target]
    anchors = generator.permutation(others)[: settings.num_anchors]
    return [target, *(int(index) for index in anchors)]


def _crop_views(settings: PretrainRunSettings, generator: np.random.Generator, views: list[Image.Image]) -> list[Image.Image]:
    """SiamMAE's augmentation: one crop and one flip for all views of the bag, or one each."""
    pictures, box, flip = [], None, False
    for view in views:
        if box is None or not settings.shared_crop:
            box = draw_crop(generator, view.size, settings.crop_scale, settings.crop_ratio)
            flip = bool(generator.random() < 0.5)
        pictures.append(flip_if(take_crop(view, box, settings.image_size), flip))
    return pictures


def _crop_pair(settings: PretrainRunSettings, generator: np.random.Generator, image: Image.Image) -> list[Image.Image]:
    """CropMAE's four strategies: [target, anchor] from one picture, flips drawn independently unless the views are the same."""
    size, ratio = settings.image_size, settings.crop_ratio
    first = take_crop(image, draw_crop(generator, image.size, settings.global_crop_scale, ratio), size)
    if settings.crop_strategy == "same_views":
        view = flip_if(first, bool(generator.random() < 0.5))
        return [view, view]
    if settings.crop_strategy == "random_views":
        second = take_crop(image, draw_crop(generator, image.size, settings.global_crop_scale, ratio), size)
    else:  # the local crop is nested: cut from the already scaled global one
        second = take_crop(first, draw_crop(generator, first.size, settings.local_crop_scale, ratio), size)
    first, second = (flip_if(view, bool(generator.random() < 0.5)) for view in (first, second))
    return [first, second] if settings.crop_strategy == "local_to_global" else [second, first]
