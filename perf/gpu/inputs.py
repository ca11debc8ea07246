"""Inputs of the GPU checks, all drawn: bags with ImageNet's proportions, and batches of them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from cdgmae.pretrain.batches import BagBatches, views_needed
from cdgmae.settings.pretrain import PretrainRunSettings
from cdgmae.storage.bags import Bags
from cdgmae.storage.image_shards import ImageRow, ImageShardWriter
from cdgmae.storage.media.images import encode_jpeg

A1: dict[str, Any] = {"num_anchors": 1}
A3: dict[str, Any] = {"num_anchors": 3, "anchor_masking_ratio": 0.25}
REAL_SIZES = [(341, 256), (384, 256), (256, 341), (256, 256), (386, 256), (256, 384)]
"""(width, height) of photographs at a shorter side of 256 pixels, as often as they are among ImageNet's."""

TINY_MODEL: dict[str, Any] = {
    "image_size": 32, "patch_size": 8, "embed_dim": 48, "num_heads": 3, "depth": 2, "decoder_embed_dim": 32, "decoder_num_heads": 1,
    "decoder_depth": 1,
}  # fmt: skip
"""Keys of a run's settings for toy sizes."""

VIEWS = 4
DRAWN = 48
"""Images that are drawn; bags share them."""


def draw_bags(folder: Path, bags: int) -> Path:
    """Write one shard of real images and one of square views, from noisy clouds that compress like photographs.

    Returns:
        The folder, with `shards/00000.tar` and `views/00000.tar` in it.
    """
    random = np.random.default_rng(0)

    def cloud(size: tuple[int, int]) -> bytes:
        coarse = Image.fromarray(random.integers(0, 256, (24, 24, 3), dtype=np.uint8)).resize(size, Image.Resampling.BICUBIC)
        noisy = np.asarray(coarse, np.int16) + random.integers(-14, 15, (size[1], size[0], 3))
        return encode_jpeg(Image.fromarray(noisy.clip(0, 255).astype(np.uint8)), 95)

    sizes = [REAL_SIZES[number % len(REAL_SIZES)] for number in range(DRAWN)]
    reals, squares = [cloud(size) for size in sizes], [cloud((256, 256)) for _ in range(DRAWN)]
    for name, indices in (("shards", range(1)), ("views", range(1, VIEWS + 1))):
        (folder / name).mkdir(parents=True, exist_ok=True)
        with ImageShardWriter(folder / name / "00000.tar") as writer:
            for bag in range(bags):
                for index in indices:
                    number = bag % DRAWN if index == 0 else (bag * 7 + index) % DRAWN
                    width, height = sizes[number] if index == 0 else (256, 256)
                    row = ImageRow(f"k{bag:05d}", index, extension="jpg", width=width, height=height)
                    writer.add_image(row, reals[number] if index == 0 else squares[number])
            writer.commit(settings_digest="drawn")
    return folder


def batches_of(bags: Path, batch_size: int, **changes: Any) -> BagBatches:
    """The batches of a run on drawn bags; `changes` are keys of the run's settings."""
    settings = PretrainRunSettings(effective_batch_size=batch_size, **changes)
    store = Bags([bags / "shards/00000.tar"], [bags / "views/00000.tar"]).usable(min_views=views_needed(settings))
    return BagBatches(store, settings, 0, cache_bytes=0)
