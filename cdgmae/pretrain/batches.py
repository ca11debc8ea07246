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
    """Turns (seed, step) into a batch of uint8 views, shape (B, 1 + A, H, W, 3), target first."""

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

    def views(self, step: int) -> Tensor:
        """The batch of one step as uint8 pixels (B, 1 + A, H, W, 3)."""
        epoch, positions = self.keys(step)
        samples = [self._sample(self.store.bags[position], epoch) for position in positions]
        return torch.from_numpy(np.stack(samples))

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
