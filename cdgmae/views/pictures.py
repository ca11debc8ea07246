"""Real pictures of one or several shards, as the generator and its conditioning encoder see them.

Shapes: B batch, C = 3 channels, S = side in pixels.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from PIL import Image
from torch import Tensor

from cdgmae.models.normalisation import pixels_to_tensor
from cdgmae.storage.images import center_crop, decode_rgb, resize_shorter_side
from cdgmae.storage.picture_shards import OK, PictureRow, PictureShard


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


def squares(images: Sequence[Image.Image], side: int) -> Tensor:
    """Pictures scaled by their shorter side and cropped to the centre: (B, 3, side, side) in 0..1."""
    return pixels_to_tensor([center_crop(resize_shorter_side(image, side), side) for image in images])
