"""Batches of bags: order, reading and augmentation as a pure function of (seed, step)."""

from __future__ import annotations

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from cdgmae.pretrain.pretext import make_sample
from cdgmae.runtime.seeds import numpy_generator
from cdgmae.settings.pretrain import PretrainRunSettings
from cdgmae.storage.bags import Bag, BagStore, ViewLocation
from cdgmae.storage.images import decode_rgb

CACHE_BYTES = 1 << 29
"""Decoded pictures are kept up to this many bytes; a data set that fits (demo, small studies) is decoded once."""


class BagBatches:
    """Turns (seed, step) into batches of uint8 views (B, 1 + A, H, W, 3), target first, with the masks of each sample."""

    def __init__(self, store: BagStore, settings: PretrainRunSettings, seed: int) -> None:
        """Prepare the order of bags.

        Raises:
            ValueError: if there are fewer bags than one batch needs.
        """
        if len(store) < settings.effective_batch_size:
            raise ValueError(
                f"effective_batch_size = {settings.effective_batch_size}, but there are only {len(store)} bags; "
                "lower it in the run's settings or add pictures"
            )
        self.store, self.settings, self.seed = store, settings, seed
        self.batch_size = settings.effective_batch_size
        self.steps_per_epoch = len(store) // settings.effective_batch_size
        self._cache: dict[ViewLocation, Image.Image] = {}
        self._cached_bytes = 0

    @property
    def num_steps(self) -> int:
        """Optimiser steps of the whole run; the last partial batch of an epoch is dropped."""
        return self.steps_per_epoch * self.settings.epochs

    def keys(self, step: int) -> tuple[int, np.ndarray]:
        """(epoch, positions in the store) of one step: each epoch is a fresh permutation seeded by (seed, epoch)."""
        epoch, place = divmod(step, self.steps_per_epoch)
        order = numpy_generator(self.seed, "pretrain/order", epoch).permutation(len(self.store))
        size = self.settings.effective_batch_size
        return epoch, order[place * size : (place + 1) * size]

    def bag_keys(self, step: int) -> list[str]:
        """Keys of the bags in the global batch of a step."""
        return [self.store.bags[position].key for position in self.keys(step)[1]]

    def batch(self, step: int, samples: range) -> dict[str, Tensor]:
        """The samples at these positions of the global batch of `step`.

        Returns:
            views (B, 1 + A, H, W, 3) uint8; target_noise (B, N) and, if anchors are masked, anchor_noise (B, A, N): masking noise,
            drawn per sample, so that masks are the same however a batch is split.
        """
        epoch, positions = self.keys(step)
        bags = [self.store.bags[position] for position in positions[samples.start : samples.stop]]
        batch = {"views": torch.from_numpy(np.stack([self._sample(bag, epoch) for bag in bags]))}
        noise = torch.from_numpy(np.stack([self._noise(bag, epoch) for bag in bags]))
        batch["target_noise"] = noise[:, 0]
        if self.settings.anchor_masking_ratio > 0:
            batch["anchor_noise"] = noise[:, 1:]
        return batch

    def _noise(self, bag: Bag, epoch: int) -> np.ndarray:
        generator = numpy_generator(self.seed, "pretrain/masks", bag.key, epoch)
        num_patches = (self.settings.image_size // self.settings.patch_size) ** 2
        return generator.random((1 + self.settings.num_anchors, num_patches), dtype=np.float32)

    def _sample(self, bag: Bag, epoch: int) -> np.ndarray:
        generator = numpy_generator(self.seed, "pretrain/views", bag.key, epoch)
        places = {0: bag.real, **bag.generated}
        pictures = make_sample(self.settings, generator, sorted(bag.generated), lambda index: self._picture(places[index]))
        return np.stack([np.asarray(picture) for picture in pictures])

    def _picture(self, location: ViewLocation) -> Image.Image:
        found = self._cache.get(location)
        if found is None:
            found = decode_rgb(self.store.read(location))
            size = 3 * found.width * found.height
            if self._cached_bytes + size <= CACHE_BYTES:
                self._cache[location] = found
                self._cached_bytes += size
        return found
