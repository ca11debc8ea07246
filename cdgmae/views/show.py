"""Looking at one bag: its rows, and a strip with the real image first."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from itertools import islice
from pathlib import Path
from typing import Any

from cdgmae.storage.bags import Bags
from cdgmae.storage.files.atomic import atomic_file
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
    bags = Bags(real_tars, view_tars)
    if key not in bags:
        examples = f"keys look like {', '.join(islice(bags, 3))}" if len(bags) else "give the folder that holds the shards"
        raise ValueError(f"key {key!r} is in none of {len(real_tars)} image and {len(view_tars)} view shards; {examples}")
    found = bags.bag(bags.position(key)).rows
    images = bags.images(key)
    if not images:
        raise ValueError(f"key {key!r} has no usable image: {bags.row(found[0]).reason}")
    strip = join_strip(images)
    with atomic_file(output_png) as temporary:
        strip.save(temporary, format="PNG")
    return [asdict(bags.row(row)) for row in found]
