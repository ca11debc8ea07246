"""The readable real images of one or several shards, in key order."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from PIL import Image

from cdgmae.storage.image_shards import OK, ImageRow, ImageShard
from cdgmae.storage.media.images import decode_rgb


class ImageCollection:
    """The readable real images of some shards in key order, whatever the shards' order and number."""

    def __init__(self, shard_tars: Sequence[Path]) -> None:
        """Read the indices.

        Raises:
            ValueError: if a shard is incomplete, or no shard holds a usable image.
        """
        shards = [ImageShard(path) for path in shard_tars]
        self._images = sorted(((row, shard) for shard in shards for row in shard.rows(OK)), key=lambda pair: pair[0].key)
        if not self._images:
            raise ValueError(f"no usable image in {', '.join(map(str, shard_tars))}; see status and reason in the shard indices")
        self.keys = [row.key for row, _ in self._images]

    def __len__(self) -> int:
        return len(self._images)

    def row(self, index: int) -> ImageRow:
        """The index row of one image."""
        return self._images[index][0]

    def image(self, index: int) -> Image.Image:
        """One image in RGB.

        Raises:
            ImageError: if its bytes cannot be decoded.
        """
        row, shard = self._images[index]
        return decode_rgb(shard.read(row))
