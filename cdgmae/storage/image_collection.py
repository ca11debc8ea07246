"""The readable real pictures of one or several shards, in key order."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from PIL import Image

from cdgmae.storage.image_shards import OK, PictureRow, PictureShard
from cdgmae.storage.media.images import decode_rgb


class PictureCollection:
    """The readable real pictures of some shards in key order, whatever the shards' order and number."""

    def __init__(self, shard_tars: Sequence[Path]) -> None:
        """Read the indices.

        Raises:
            ValueError: if a shard is incomplete, or no shard holds a usable picture.
        """
        shards = [PictureShard(path) for path in shard_tars]
        self._pictures = sorted(((row, shard) for shard in shards for row in shard.rows(OK)), key=lambda pair: pair[0].key)
        if not self._pictures:
            raise ValueError(
                f"no usable picture in {', '.join(map(str, shard_tars))}; see status and reason in the shard indices"
            )
        self.keys = [row.key for row, _ in self._pictures]

    def __len__(self) -> int:
        return len(self._pictures)

    def row(self, index: int) -> PictureRow:
        """The index row of one picture."""
        return self._pictures[index][0]

    def image(self, index: int) -> Image.Image:
        """One picture in RGB.

        Raises:
            PictureError: if its bytes cannot be decoded.
        """
        row, shard = self._pictures[index]
        return decode_rgb(shard.read(row))
