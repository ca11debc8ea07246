"""Looking at bags: their rows, and a strip per bag with the real image first (the paper's Figures 1 and 5)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from itertools import islice
from pathlib import Path
from typing import Any

from PIL import Image

from cdgmae.storage.bags import Bags
from cdgmae.storage.files.atomic import atomic_file
from cdgmae.storage.media.strips import GAP, join_strip


def show_bags(
    keys: Sequence[str], real_tars: Sequence[Path], view_tars: Sequence[Path], output_png: Path
) -> list[dict[str, Any]]:
    """Write bags below each other, each as one strip with the real image first and then its views by index, and return their rows.

    Args:
        keys: Keys of real images.
        real_tars: Tars of section `shards`.
        view_tars: Tars of one view source; empty for a source without files.
        output_png: Image to write; smaller images of a bag are enlarged to its tallest one.

    Raises:
        ValueError: if no shard has a key, or none of its images is usable.
    """
    bags = Bags(real_tars, view_tars)
    rows = [row for key in keys for row in _rows(bags, key, len(real_tars), len(view_tars))]
    strips = [_strip(bags, key) for key in keys]
    sheet = Image.new("RGB", (max(strip.width for strip in strips), sum(strip.height + GAP for strip in strips) - GAP), "white")
    top = 0
    for strip in strips:
        sheet.paste(strip, (0, top))
        top += strip.height + GAP
    with atomic_file(output_png) as temporary:
        sheet.save(temporary, format="PNG")
    return [asdict(bags.row(row)) for row in rows]


def _rows(bags: Bags, key: str, num_real: int, num_views: int) -> Sequence[int]:
    if key not in bags:
        examples = f"keys look like {', '.join(islice(bags, 3))}" if len(bags) else "give the folder that holds the shards"
        raise ValueError(f"key {key!r} is in none of {num_real} image and {num_views} view shards; {examples}")
    return bags.bag(bags.position(key)).rows


def _strip(bags: Bags, key: str) -> Image.Image:
    rows = bags.bag(bags.position(key)).rows
    images = [bags.image(row) for row in rows if bags.is_good(row)]
    if not images:
        raise ValueError(f"key {key!r} has no usable image: {bags.row(rows[0]).reason}")
    return join_strip(images)
