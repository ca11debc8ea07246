"""Looking at one bag: its rows, and a strip with the real image first."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pyarrow.compute as pc

from cdgmae.storage.files.atomic import atomic_file
from cdgmae.storage.image_shards import OK, ImageRow, ImageShard
from cdgmae.storage.media.images import decode_rgb
from cdgmae.storage.media.strips import join_strip


def show_bag(key: str, real_tars: Sequence[Path], view_tars: Sequence[Path], output_png: Path) -> list[dict[str, Any]]:
    """Write a bag as one strip, real image first, then its views by index, and return its rows.

    Args:
        key: Key of the real image.
        real_tars: Tars of section `shards`.
        view_tars: Tars of one view source; empty for a source without files.
        output_png: Strip to write; smaller images are enlarged to the tallest one.

    Raises:
        ValueError: if no shard has the key, or none of its images is usable.
    """
    found = [pair for path in (*real_tars, *view_tars) for pair in _rows_of(path, key)]
    if not found:
        raise ValueError(
            f"key {key!r} is in none of {len(real_tars)} image and {len(view_tars)} view shards; {_example(real_tars)}"
        )
    found.sort(key=lambda pair: pair[0].view_index)
    images = [decode_rgb(shard.read(row)) for row, shard in found if row.status == OK]
    if not images:
        raise ValueError(f"key {key!r} has no usable image: {found[0][0].reason}")
    strip = join_strip(images)
    with atomic_file(output_png) as temporary:
        strip.save(temporary, format="PNG")
    return [asdict(row) for row, _ in found]


def _rows_of(tar_path: Path, key: str) -> list[tuple[ImageRow, ImageShard]]:
    shard = ImageShard(tar_path)
    rows = shard.index.filter(pc.equal(shard.index["key"], key)).to_pylist()
    return [(ImageRow(**row), shard) for row in rows]


def _example(tars: Sequence[Path]) -> str:
    keys = [key for path in tars[:1] for key in ImageShard(path).index["key"][:3].to_pylist()]
    return f"keys look like {', '.join(keys)}" if keys else "give the folder that holds the shards"
