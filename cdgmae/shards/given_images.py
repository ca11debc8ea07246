"""Images at hand as a shard, without a data set on disk: for a notebook that goes on with the stages."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import pandas as pd

from cdgmae.models.normalisation import Images, to_images
from cdgmae.names import shard_names
from cdgmae.settings.shards import DatasetSettings
from cdgmae.shards.keys import safe_key
from cdgmae.shards.packing import packing_digest
from cdgmae.shards.reading import encode_image
from cdgmae.storage.files.atomic import explain_write_errors
from cdgmae.storage.files.publishing import published
from cdgmae.storage.image_shards import ImageRow, ImageShard, ImageShardWriter, index_path


def pack_images(
    images: Mapping[str, Images],
    folder: str | Path,
    *,
    first_view: int = 0,
    resize: str = "none",
    image_size: int = 256,
    jpeg_quality: int = 95,
) -> pd.DataFrame:
    """Write images into one shard, `00000.tar` and its index, as stage `shards` stores them; a folder that has one gets a new one.

    `Bags(folder)`, `cdgmae consistency score`, `cdgmae pretrain run` and the workflow read it. For a folder of image files there is
    `cdgmae shards write --root FOLDER`.

    Args:
        images: Key -> image; with `first_view` >= 1, key of a real image -> its view, or several of them. A key has letters, digits, `_` and `-`.
        folder: Where to write.
        first_view: 0 for real images; 1 for views, which are numbered from there.
        resize: `none`, `shorter_side` (scaled to `image_size` by its shorter side), or `center_crop` (then the central square).
        image_size: Pixels for resizing.
        jpeg_quality: 1..100.

    Returns:
        The index, one row per image: key, view_index, width, height, sha256, offset and length in the tar, and more.

    Raises:
        ValueError: if there is no image, a key is none, a real image is several, a setting is out of range, or the folder cannot be written.
    """
    options = {"resize": resize, "image_size": image_size, "jpeg_quality": jpeg_quality}
    settings = DatasetSettings.checked({"path": "", **options}, "pack_images")
    if not isinstance(images, Mapping) or not isinstance(first_view, int):
        described = f"{type(images).__name__} of images, first_view = {first_view!r}"
        raise ValueError(f"pack_images: {described}; give a dict of keys and images, and a whole number")
    if not images or first_view < 0:
        raise ValueError(f"pack_images: {len(images)} images, first_view = {first_view}; give at least one image, and 0 or more")
    tar = Path(folder) / f"{shard_names(1)[0]}.tar"
    with published(tar, index_path(tar), inputs=()), explain_write_errors(tar), ImageShardWriter(tar) as writer:
        for key, given in images.items():
            if not isinstance(key, str) or safe_key(key) != key:
                raise ValueError(f"key {key!r}: letters, digits, _ and - only, at most 80; use {safe_key(str(key))!r}")
            several = to_images(given, f"image {key!r}")
            if first_view == 0 and len(several) > 1:
                raise ValueError(f"image {key!r}: {len(several)} images; a real image is one, views are packed with first_view=1")
            for number, image in enumerate(several, start=first_view):
                prepared = encode_image(image, settings, None)
                row = ImageRow(key, number, extension=prepared.extension, width=prepared.width, height=prepared.height)
                writer.add_image(row, prepared.data)
        writer.commit(settings_digest=packing_digest(settings))
    index: pd.DataFrame = ImageShard(tar).index.to_pandas()
    return index
