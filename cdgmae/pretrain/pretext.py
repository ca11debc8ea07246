"""Pretext tasks: which views of a bag are target and anchors, and how they are cropped, decided before anything is decoded.

Every draw of one sample comes from one generator seeded by (seed, key, epoch), so a sample is the same whatever the batch,
worker or number of interruptions.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from cdgmae.settings.pretrain import PretrainRunSettings
from cdgmae.storage.bags import Bag
from cdgmae.storage.media.crop_boxes import PixelBox, SamplePlan, central_square, draw_crop, draw_flip, plan_crop_pair


def plan_sample(settings: PretrainRunSettings, generator: np.random.Generator, bag: Bag) -> SamplePlan:
    """Draw one sample of a bag.

    Args:
        settings: The run.
        generator: The sample's own source of randomness.
        bag: Sizes and weights of the bag's views.

    Raises:
        ValueError: if pretext video_pairs meets a clip of a single frame.
    """
    if settings.crop_share:
        return _plan_mixed(settings, generator, bag)
    if settings.pretext == "crops":
        place = _choose_target(settings, generator, len(bag.sizes))
        drawn = plan_crop_pair(settings, generator, bag.sizes[place], settings.image_size)
        return drawn._replace(images=[place] * len(drawn.images))
    if settings.pretext == "video_pairs":
        chosen = choose_frames(settings, generator, len(bag.sizes))
        return _plan_views(settings, generator, chosen, [PixelBox(0, 0, *size) for size in bag.sizes])
    return _plan_bag(settings, generator, bag)


def _plan_bag(settings: PretrainRunSettings, generator: np.random.Generator, bag: Bag) -> SamplePlan:
    """Target and anchors from the views of a bag."""
    chosen = choose_views(settings, generator, len(bag.sizes), bag.weights)
    regions = [PixelBox(0, 0, *size) for size in bag.sizes]
    if settings.pretext == "cross_view" and settings.views_show == "central_square":
        regions[0] = central_square(bag.sizes[0])
    return _plan_views(settings, generator, chosen, regions)


def _plan_mixed(settings: PretrainRunSettings, generator: np.random.Generator, bag: Bag) -> SamplePlan:
    """Two crops of the real image in a share of the samples, else two views; both as two regions with nested parts, which one batch needs."""
    whole = PixelBox(0, 0, settings.image_size, settings.image_size)
    if generator.random() < settings.crop_share:
        drawn = plan_crop_pair(settings, generator, bag.sizes[0], settings.image_size)
        drawn = drawn._replace(images=[0, 0], regions=drawn.regions * (2 // len(drawn.regions)))
    else:
        drawn = _plan_bag(settings, generator, bag)
    return drawn._replace(nested=drawn.nested or [whole, whole])


def choose_views(
    settings: PretrainRunSettings, generator: np.random.Generator, count: int, weights: npt.NDArray[np.float32] | None = None
) -> list[int]:
    """Places in the bag of the target, then of `num_anchors` distinct other views (paper, section 4).

    The target is the real image (place 0), a generated view, or any of them (paper, Table 3), by `target_view`.

    Args:
        settings: The run.
        generator: The sample's own source of randomness.
        count: Views in the bag, the real image included.
        weights: Views are drawn with probability proportional to these; None draws all alike.
    """
    if weights is None:
        target = _choose_target(settings, generator, count)
        anchors = generator.permutation([place for place in range(count) if place != target])
    else:
        target = int(_weighted_order(generator, _target_places(settings, count), weights)[0])
        anchors = _weighted_order(generator, [place for place in range(count) if place != target], weights)
    return [target, *anchors[: settings.num_anchors].tolist()]


def _target_places(settings: PretrainRunSettings, count: int) -> list[int]:
    """Places in the bag that the target may have."""
    return {"real": [0], "generated": list(range(1, count)), "random": list(range(count))}[settings.target_view]


def _choose_target(settings: PretrainRunSettings, generator: np.random.Generator, count: int) -> int:
    places = _target_places(settings, count)
    return places[int(generator.integers(len(places)))]


def _weighted_order(
    generator: np.random.Generator, places: Sequence[int], weights: npt.NDArray[np.float32]
) -> npt.NDArray[np.int64]:
    """`places` as drawn one after the other with probability proportional to weight.

    Waiting times at rates `weights` come in that order (exponential races; Efraimidis and Spirakis 2006).
    """
    order = np.asarray(places)
    return order[np.argsort(generator.standard_exponential(len(order)) / weights[order])]


def choose_frames(settings: PretrainRunSettings, generator: np.random.Generator, count: int) -> list[int]:
    """Places of the target, the later frame, and of its anchor, the earlier one (SiamMAE; spec cross_view_mae 2.3).

    The gap is uniform in `frame_gap`, both ends included and cut to the clip, and the start uniform among those that fit.
    """
    if count < 2:
        raise ValueError("pretext video_pairs needs clips of at least two frames")
    low, high = (min(gap, count - 1) for gap in settings.frame_gap)
    gap = int(generator.integers(low, high + 1))
    start = int(generator.integers(0, count - gap))
    return [start + gap, start]


def _plan_views(
    settings: PretrainRunSettings, generator: np.random.Generator, chosen: list[int], shown: Sequence[PixelBox]
) -> SamplePlan:
    """SiamMAE's augmentation: one crop and one flip for all views of the bag, or one each.

    Args:
        settings: The run.
        generator: The sample's own source of randomness.
        chosen: Places in the bag, the target first.
        shown: The part of each image of the bag that is cropped.
    """
    regions, flips, box, flip = [], [], None, False
    for place in chosen:
        if box is None or not settings.shared_crop:
            box = draw_crop(generator, shown[place].size, settings.crop_scale, settings.crop_ratio)
            flip = draw_flip(generator)
        regions.append(box.pixels(shown[place].size).moved(shown[place].left, shown[place].top))
        flips.append(flip)
    return SamplePlan(chosen, regions, flips)
