"""The images that a figure shows: files, folders of files, or image shards."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from cdgmae.storage.bags import Bags
from cdgmae.storage.media.images import DEFAULT_MAX_PIXELS, ImageError, decode_rgb, read_image_bytes

MOST_SHOWN = 8


def read_images(places: Sequence[Path], count: int = MOST_SHOWN) -> dict[str, Image.Image]:
    """Up to `count` images, evenly spaced among all that there are, by name.

    Args:
        places: Image files, folders (their files in order of names, not those of folders below) and image shards (.tar, index beside it).
        count: Images wanted.

    Raises:
        ValueError: if a place does not exist or cannot be read, or there is no image at all.
    """
    listed: list[tuple[str, Path, int | None]] = []
    for place in places:
        if place.suffix == ".tar":
            bags = Bags([place])
            listed += [
                (bags.bag(position).key, place, position)
                for position in range(len(bags))
                if bags.is_good(bags.bag(position).rows[0])
            ]
        elif place.is_dir():
            listed += [
                (file.name, file, None) for file in sorted(place.iterdir()) if file.is_file() and not file.name.startswith(".")
            ]
        elif place.is_file():
            listed.append((place.name, place, None))
        else:
            raise ValueError(f"{place}: no such file or folder; give image files, folders of images or image shards (.tar)")
    if not listed:
        raise ValueError(f"no image in {', '.join(map(str, places))}")
    chosen = np.unique(np.linspace(0, len(listed) - 1, min(count, len(listed))).round().astype(int))
    return {listed[number][0]: _read(*listed[number][1:]) for number in chosen.tolist()}


def _read(file: Path, position: int | None) -> Image.Image:
    if position is not None:
        bags = Bags([file])
        return bags.image(bags.bag(position).rows[0])
    try:
        return decode_rgb(read_image_bytes(file, DEFAULT_MAX_PIXELS))
    except (ImageError, OSError) as error:
        raise ValueError(f"{file}: {error}; name image files, or a folder that holds nothing else") from None
