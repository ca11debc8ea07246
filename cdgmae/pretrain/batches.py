"""Batches of bags: order, reading, decoding and masks as a pure function of (seed, step)."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from cdgmae.names import how_to_remake
from cdgmae.pretrain.augment import MAX_ENLARGED, resize_pixels
from cdgmae.pretrain.pretext import plan_sample
from cdgmae.runtime.seeds import numpy_generator
from cdgmae.settings.pretrain import PretrainRunSettings
from cdgmae.storage.bags import Bag, Bags
from cdgmae.storage.files.local_copy import copy_to_local_disk
from cdgmae.storage.media.crop_boxes import PixelBox, SamplePlan
from cdgmae.storage.media.images import ImageError
from cdgmae.storage.media.pixels import decode_pixels
from cdgmae.storage.view_weights import ViewWeights

CACHE_BYTES = 1 << 29
"""A data set whose decoded images fit into this many bytes (demo, small studies) is decoded once."""

Pixels = npt.NDArray[np.uint8]


class BagBatches:
    """Turns (seed, step) into batches; picklable, and safe in worker processes and one background thread.

    Attributes:
        batch_size: Samples per step over all devices.
        steps_per_epoch: Steps in one pass over the bags; the last partial batch is dropped.
        num_steps: Steps of the whole run.
    """

    def __init__(self, store: Bags, settings: PretrainRunSettings, seed: int, *, cache_bytes: int = CACHE_BYTES) -> None:
        """Prepare the order of bags.

        Args:
            store: The bags.
            settings: The run.
            seed: Root of order, views and masks.
            cache_bytes: Decoded images are kept if all of them fit into this many bytes (in each process), else none.

        Raises:
            ValueError: if there are fewer bags than one batch needs.
        """
        self.batch_size = settings.effective_batch_size
        if len(store) < self.batch_size:
            raise ValueError(
                f"effective_batch_size = {self.batch_size}, but there are only {len(store)} bags; "
                "lower it in the run's settings or add images"
            )
        self.store, self.settings, self.seed = store, settings, seed
        self.steps_per_epoch = len(store) // self.batch_size
        self.num_steps = self.steps_per_epoch * settings.epochs
        self._cache: dict[int, Pixels] | None = {} if store.decoded_bytes <= cache_bytes else None
        self._order: tuple[int, npt.NDArray[np.int64]] = (-1, np.empty(0, np.int64))

    def keys(self, step: int) -> tuple[int, npt.NDArray[np.int64]]:
        """(epoch, positions in the store) of one step: each epoch is a fresh permutation seeded by (seed, epoch)."""
        epoch, place = divmod(step, self.steps_per_epoch)
        known, order = self._order
        if known != epoch:
            order = numpy_generator(self.seed, "pretrain/order", epoch).permutation(len(self.store))
            self._order = (epoch, order)
        return epoch, order[place * self.batch_size : (place + 1) * self.batch_size]

    def bag_keys(self, step: int) -> list[str]:
        """Keys of the bags in the global batch of a step."""
        return [self.store.bag(position).key for position in self.keys(step)[1].tolist()]

    def batch(self, step: int, samples: range) -> dict[str, Tensor]:
        """Samples at these positions of the global batch of a step, as CPU tensors; a pure function.

        Returns:
            What `cdgmae.pretrain.augment.finish_views` makes images of (`pixels`, `region_sizes`, `flips`, and `nested` where
            views show parts of a region), and `target_noise` (B, patches) and `anchor_noise` (B, anchors, patches; only if anchors are
            masked), float32 in [0, 1), and `dropout_seeds` (B,) int64. Batches of consecutive samples, concatenated tensor by tensor,
            are the batch of all of them.

        Raises:
            ValueError: if an image cannot be read or is not as its index says.
        """
        epoch, positions = self.keys(step)
        bags = [self.store.bag(position) for position in positions[samples.start : samples.stop : samples.step].tolist()]
        plans = [plan_sample(self.settings, numpy_generator(self.seed, "pretrain/views", bag.key, epoch), bag) for bag in bags]
        batch = {**self._regions(bags, plans), "flips": torch.tensor([plan.flips for plan in plans])}
        if plans[0].nested is not None:
            batch["nested"] = torch.tensor([plan.nested for plan in plans], dtype=torch.int32)
        return {**batch, **draw_masks(self.settings, self.seed, epoch, [bag.key for bag in bags])}

    def _regions(self, bags: Sequence[Bag], plans: Sequence[SamplePlan]) -> dict[str, Tensor]:
        """The cut-out regions, one after the other without padding, and their sizes.

        Each is copied to its place as soon as its image is decoded, while the pixels are in the processor's cache.
        """
        sizes = np.array([[self._shipped_size(box) for box in plan.regions] for plan in plans], np.int32)
        places = iter(np.cumsum(3 * sizes.prod(axis=2, dtype=np.int64)).tolist())
        pixels, start = np.empty(3 * int(sizes.prod(axis=2, dtype=np.int64).sum()), np.uint8), 0
        for bag, plan in zip(bags, plans, strict=True):
            images: dict[int, Pixels] = {}
            for place, box in zip(plan.images, plan.regions, strict=True):
                if place not in images:
                    images[place] = self._image(bag, place)
                region, end = self._cut(images[place], box), next(places)
                pixels[start:end].reshape(region.shape)[:] = region
                start = end
        return {"pixels": torch.from_numpy(pixels), "region_sizes": torch.from_numpy(sizes)}

    def _shipped_size(self, box: PixelBox) -> tuple[int, int]:
        """(height, width) in which a region leaves the loader."""
        side, height, width = self.settings.image_size, box.bottom - box.top, box.right - box.left
        return (height, width) if max(height, width) <= MAX_ENLARGED * side else (side, side)

    def _cut(self, image: Pixels, box: PixelBox) -> Pixels:
        region = image[box.top : box.bottom, box.left : box.right]
        if self._shipped_size(box) == region.shape[:2]:
            return region
        scaled_CHW = resize_pixels(torch.from_numpy(region).permute(2, 0, 1), self.settings.image_size)
        return scaled_CHW.permute(1, 2, 0).numpy()

    def _image(self, bag: Bag, place: int) -> Pixels:
        row = bag.rows[place]
        pixels = self._cache.get(row) if self._cache is not None else None
        if pixels is None:
            pixels = self._decode(row, bag.sizes[place])
            if self._cache is not None:
                self._cache[row] = pixels
        return pixels

    def _decode(self, row: int, size: tuple[int, int]) -> Pixels:
        try:
            pixels = decode_pixels(self.store.read(row))
        except ImageError as error:
            raise ValueError(f"{self.store.describe(row)}: {error}; {how_to_remake(self.store.path(row))}") from None
        if pixels.shape[1::-1] != size:
            actual, said = (f"{width} x {height}" for width, height in (pixels.shape[1::-1], size))
            raise ValueError(
                f"{self.store.describe(row)} has {actual} pixels, its index says {said}; {how_to_remake(self.store.path(row))}"
            )
        return pixels


def draw_masks(settings: PretrainRunSettings, seed: int, epoch: int, keys: Sequence[str]) -> dict[str, Tensor]:
    """Masking noise and dropout seeds of samples, each drawn from (seed, key, epoch) alone."""
    patches = (settings.image_size // settings.patch_size) ** 2
    noise = np.empty((len(keys), 1 + settings.num_anchors, patches), np.float32)
    seeds = np.empty(len(keys), np.int64)
    for sample, key in enumerate(keys):
        generator = numpy_generator(seed, "pretrain/masks", key, epoch)
        generator.random(dtype=np.float32, out=noise[sample])
        seeds[sample] = generator.integers(1 << 63)
    batch = {"target_noise": torch.from_numpy(noise[:, 0]), "dropout_seeds": torch.from_numpy(seeds)}
    if settings.anchor_masking_ratio > 0 and settings.num_anchors:
        batch["anchor_noise"] = torch.from_numpy(noise[:, 1:])
    return batch


def open_bags(
    settings: PretrainRunSettings,
    shard_tars: Sequence[Path],
    view_tars: Sequence[Path],
    score_tables: Sequence[Path] = (),
    local_folder: Path | None = None,
) -> Bags:
    """The bags that a run trains on; those with too few views, or too few that pass `view_filter`, are left out.

    Args:
        settings: The run.
        shard_tars: Shards of the real images.
        view_tars: Shards of the view source; empty for sources without files.
        score_tables: Tables of stage `consistency` for the view source, if the run filters or weighs views.
        local_folder: Folder on a node-local disk to copy the shards to and to read them from; None reads them where they are.

    Raises:
        ValueError: if shards do not belong together, scores are needed and not given, or no bag is left.
    """
    weights = None
    if settings.needs_scores:
        if not score_tables:
            raise ValueError("view_filter and view_weight need --consistency FOLDER, the score tables of the view source")
        weights = ViewWeights(tuple(score_tables), settings.view_filter, settings.view_weight)
    if local_folder is not None:
        local = copy_to_local_disk([*shard_tars, *view_tars], local_folder)
        shard_tars, view_tars = local[: len(shard_tars)], local[len(shard_tars) :]
    return Bags(shard_tars, view_tars).usable(min_views=views_needed(settings), weights=weights)


def views_needed(settings: PretrainRunSettings) -> int:
    """Generated views a bag must have to serve a run: its anchors, plus one if the target is always generated."""
    if settings.pretext == "video_pairs":
        return 1
    anchors = settings.num_anchors if settings.pretext == "cross_view" else 0
    return anchors + (settings.target_view == "generated")
