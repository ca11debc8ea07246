"""Bags filled with real images of the data set (kinds `knn` and `random`): finding any image, and copying it as a view.

The bytes are copied as they are. A view's row names the image that was taken: its key in `source_path`, its own class.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

import pyarrow as pa
import pyarrow.compute as pc

from cdgmae.names import how_to_remake
from cdgmae.storage.image_shards import BAD, OK, ImageRow, ImageShard, ImageShardWriter, check_bytes, index_path
from cdgmae.storage.media.images import ImageError
from cdgmae.storage.tables import file_sha256
from cdgmae.storage.tar_reads import TarReader


class DataSetImages:
    """The usable images of a whole data set by position in key order, whatever its shards; kept as columns, not as objects."""

    def __init__(self, shard_tars: Sequence[Path]) -> None:
        """Read the indices.

        Raises:
            ValueError: if a shard is incomplete, or there is no usable image.
        """
        self.shard_tars = list(shard_tars)
        self._tars = TarReader(shard_tars)
        indices = [
            (index := ImageShard(tar).index).append_column("shard", pa.array([number] * index.num_rows, pa.int32()))
            for number, tar in enumerate(shard_tars)
        ]
        table = pa.concat_tables(indices).filter(pc.equal(pc.field("status"), OK)).sort_by("key")
        if table.num_rows == 0:
            raise ValueError(
                f"no usable image in {', '.join(map(str, shard_tars[:3]))}; see status and reason in the shard indices"
            )
        self._shard_of: list[int] = table["shard"].to_pylist()
        self._rows = table.drop_columns(["shard"])
        self.keys: list[str] = table["key"].to_pylist()
        self.sha256: list[str] = table["sha256"].to_pylist()

    def __len__(self) -> int:
        return len(self.keys)

    @cached_property
    def index_digests(self) -> dict[str, str]:
        """SHA-256 of every shard's index, by its path."""
        return {str(index_path(tar)): file_sha256(index_path(tar)) for tar in self.shard_tars}

    def row(self, position: int) -> ImageRow:
        """The index row of one image."""
        return ImageRow(**self._rows.slice(position, 1).to_pylist()[0])

    def data(self, position: int) -> bytes:
        """The bytes of one image.

        Raises:
            ValueError: if they are not those that the index describes.
        """
        shard, row = self._shard_of[position], self.row(position)
        data = self._tars.read(shard, row.offset or 0, row.length or 0)
        try:
            check_bytes(data, int(self.sha256[position][:16], 16))
        except ImageError as error:
            tar = self.shard_tars[shard]
            raise ValueError(f"{tar}: {row.key}: {error}; {how_to_remake(tar)}") from None
        return data


class GatheredView(NamedTuple):
    """One view of a bag: the image taken (position in the data set) and the seed it was drawn with, or why there is none."""

    key: str
    view_index: int
    position: int | None
    seed: int | None = None
    reason: str | None = None


def write_gathered(
    output_tar: Path,
    taken: Iterable[GatheredView],
    images: DataSetImages,
    *,
    sampler: str,
    generator: str | None = None,
    max_bad_fraction: float = 0.0,
    settings_digest: str,
    inputs: Mapping[str, str],
) -> tuple[int, int]:
    """Write a view shard of copied images.

    Args:
        output_tar: View shard to write; its index goes beside it.
        taken: The views in order of key and view_index.
        images: Where they are copied from.
        sampler: What chose them, for the rows.
        generator: Digest of the encoder behind the choice, for the rows.
        max_bad_fraction: Largest tolerated share of views without an image.
        settings_digest: Digest of the settings.
        inputs: Name -> SHA-256 of what the shard was made from.

    Returns:
        Number of good and of bad views.

    Raises:
        ValueError: if too many are bad; nothing is written then.
    """
    good = 0
    bad: list[str] = []
    with ImageShardWriter(output_tar) as writer:
        for view in taken:
            columns: dict[str, Any] = {"seed": view.seed, "sampler": sampler, "generator": generator}
            if view.position is None:
                bad.append(f"{view.key}.{view.view_index}: {view.reason}")
                writer.add_failure(ImageRow(view.key, view.view_index, status=BAD, reason=view.reason, **columns))
                continue
            real = images.row(view.position)
            row = ImageRow(
                view.key, view.view_index, class_name=real.class_name, source_path=real.key, extension=real.extension,
                width=real.width, height=real.height, **columns,
            )  # fmt: skip
            writer.add_image(row, images.data(view.position))
            good += 1
        check_bad_fraction(bad, good + len(bad), max_bad_fraction, "Mend the images, lower num_views, or raise max_bad_fraction.")
        writer.commit(settings_digest=settings_digest, inputs=inputs)
    return good, len(bad)


def check_bad_fraction(bad: Sequence[str], total: int, limit: float, remedy: str) -> None:
    """Fail if too many views are bad.

    Args:
        bad: `key.view_index: reason` of each bad view.
        total: Good and bad views.
        limit: `max_bad_fraction`.
        remedy: What to do, a sentence.

    Raises:
        ValueError: with the first bad views and the remedy.
    """
    if len(bad) > limit * total:
        raise ValueError(
            f"{len(bad)} of {total} views are bad, more than max_bad_fraction = {limit:g} allows; first: {'; '.join(bad[:3])}. {remedy}"
        )
