"""View source `random`: other images of the data set, drawn at random (paper, Table 1: the floor of consistency)."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from cdgmae.runtime.seeds import integer_seed
from cdgmae.storage.image_shards import OK, ImageShard
from cdgmae.views.gathering.copying import DataSetImages, GatheredView, write_gathered
from cdgmae.views.sources.random import RandomViews

SEED_STREAM = "views/random"


def gather_random(settings: RandomViews, seed: int, shard_tar: Path, images: DataSetImages, output_tar: Path) -> dict[str, Any]:
    """Fill the bags of one shard with M other images each.

    View k of image x is a function of (seed, key, k) and the data set's images, whatever its shards. No file appears twice in a bag.

    Args:
        settings: Number of views.
        seed: Root of every random draw.
        shard_tar: Image shard with the real images.
        images: All images of the data set.
        output_tar: View shard to write; its index goes beside it.

    Returns:
        The job's result: output, images, views.

    Raises:
        ValueError: if the data set has too few different images.
    """
    different = len(set(images.sha256))
    if different <= settings.num_views:
        raise ValueError(
            f"num_views = {settings.num_views}, but the data set has only {different} different image(s), the real image included; "
            "lower views.sources.NAME.num_views or add images"
        )
    keys = sorted(row.key for row in ImageShard(shard_tar).rows(OK))
    places = {key: position for position, key in enumerate(images.keys)}
    taken = (view for key in keys for view in _draw(key, places[key], images, settings.num_views, seed))
    views, _ = write_gathered(
        output_tar, taken, images, sampler="random", settings_digest=settings.digest(), inputs=images.index_digests
    )
    return {"output": str(output_tar), "images": len(keys), "views": views}


def _draw(key: str, place: int, images: DataSetImages, num_views: int, seed: int) -> Iterator[GatheredView]:
    """The views of one bag: each is drawn again until its file is not in the bag yet."""
    in_bag = {images.sha256[place]}
    for view_index in range(1, num_views + 1):
        number = integer_seed(seed, SEED_STREAM, key, view_index)
        generator = np.random.default_rng(number)
        position = place
        while images.sha256[position] in in_bag:
            position = int(generator.integers(len(images)))
        in_bag.add(images.sha256[position])
        yield GatheredView(key, view_index, position, number)
