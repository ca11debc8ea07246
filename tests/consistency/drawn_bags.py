"""Drawn image shards for the tests of scoring."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
from PIL import Image

from cdgmae.settings.encoder import VitSettings
from cdgmae.storage.image_shards import BAD, ImageRow, ImageShardWriter

SIZE, PATCH = 48, 8
TINY_VIT = "random:" + VitSettings(image_size=SIZE, patch_size=PATCH, embed_dim=24, depth=2, num_heads=2).canonical_json()
Images = dict[tuple[str, int], bytes | str]


def draw_image(seed: int, size: int = SIZE + 2 * PATCH) -> Image.Image:
    """A smooth random image: neighbouring patches resemble each other, other seeds do not."""
    coarse = np.random.default_rng(seed).integers(0, 256, (5, 5, 3), dtype=np.uint8)
    return Image.fromarray(coarse).resize((size, size), Image.Resampling.BICUBIC)


def shifted(image: Image.Image, patches: int) -> Image.Image:
    """The central square moved by whole patches."""
    left = PATCH + patches * PATCH
    return image.crop((left, PATCH, left + SIZE, PATCH + SIZE))


def png(image: Image.Image) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, format="PNG")
    return buffer.getvalue()


def write_shard(path: Path, images: Images) -> Path:
    """An image shard; a string instead of bytes is a bad row with that reason."""
    with ImageShardWriter(path) as writer:
        for (key, view_index), data in images.items():
            if isinstance(data, str):
                writer.add_failure(ImageRow(key, view_index, status=BAD, reason=data))
            else:
                class_name = "beetle" if key == "k1" else None
                writer.add_image(ImageRow(key, view_index, class_name=class_name, extension="png", width=SIZE, height=SIZE), data)
        writer.commit(settings_digest="test")
    return path


def bags(num_keys: int, num_views: int) -> tuple[Images, Images]:
    """Keys out of order, views of random strangers."""
    keys = [f"k{(7 * index) % num_keys}" for index in range(num_keys)]
    real: Images = {(key, 0): png(draw_image(index)) for index, key in enumerate(keys)}
    views: Images = {
        (key, view): png(draw_image(100 + 10 * index + view))
        for index, key in enumerate(keys)
        for view in range(num_views, 0, -1)
    }
    return real, views
