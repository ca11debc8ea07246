"""Overlapping tiles cut from the photographs at several scales, as an ImageNet-like tree of JPEG files."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
from PIL import Image

from cdgmae.demo.photographs import synset
from cdgmae.runtime.seeds import numpy_generator
from cdgmae.storage.media.images import encode_jpeg

MAX_CROP_FACTOR = 2.4
"""A tile shows between 1 and this many times its side in photograph pixels, drawn log-uniformly."""

MAX_SHORTER_SIDE = 640
"""Larger photographs are scaled down to this first: at their full size they show smooth surfaces only."""

CELL_PIXELS = 16
MIN_CELL_CONTRAST = 6.0
MIN_STRUCTURE = 0.25
"""A tile is good enough when this share of its 16-pixel cells has grey values (0..255) of at least that standard deviation."""

ATTEMPTS = 40
TILE_QUALITY = 92


def draw_tiles(folder: Path, photographs: Mapping[str, Image.Image], num_tiles: int, tile_size: int, seed: int) -> int:
    """Write `{synset}/{synset}_{number}.JPEG` below `folder`, one synset per photograph, numbers of tiles equal up to one.

    Args:
        folder: An existing folder.
        photographs: RGB images by name.
        num_tiles: Tiles in all.
        tile_size: Side of a tile in pixels.
        seed: Root seed; tile k of a photograph does not depend on how many tiles there are.

    Returns:
        The number of photographs used as classes.
    """
    sources = [(name, _limited(photograph)) for name, photograph in photographs.items()]
    for number in range(num_tiles):
        position, index = number % len(sources), number // len(sources)
        name, photograph = sources[position]
        class_name = synset(position)
        (folder / class_name).mkdir(exist_ok=True)
        tile = _cut(photograph, tile_size, numpy_generator(seed, f"demo/tiles/{name}", index))
        (folder / class_name / f"{class_name}_{index + 1}.JPEG").write_bytes(encode_jpeg(tile, TILE_QUALITY))
    return min(num_tiles, len(photographs))


def _limited(photograph: Image.Image) -> Image.Image:
    """A photograph with a shorter side of at most `MAX_SHORTER_SIDE` pixels."""
    scale = min(1.0, MAX_SHORTER_SIDE / min(photograph.size))
    size = round(photograph.width * scale), round(photograph.height * scale)
    return photograph if photograph.size == size else photograph.resize(size, Image.Resampling.BICUBIC)


def _cut(photograph: Image.Image, tile_size: int, rng: np.random.Generator) -> Image.Image:
    """A random square of the photograph, the first of enough structure, else the one with the most."""
    best: tuple[float, Image.Image] | None = None
    shorter = min(photograph.size)
    for _ in range(ATTEMPTS):
        side = min(shorter, tile_size * MAX_CROP_FACTOR ** rng.random())
        left, top = rng.random() * (photograph.width - side), rng.random() * (photograph.height - side)
        tile = photograph.resize((tile_size, tile_size), Image.Resampling.LANCZOS, box=(left, top, left + side, top + side))
        structure = _structure(tile)
        if best is None or structure > best[0]:
            best = (structure, tile)
        if structure >= MIN_STRUCTURE:
            break
    return best[1] if best is not None else photograph


def _structure(tile: Image.Image) -> float:
    """Share of a tile's cells that are not flat."""
    count = max(1, tile.width // CELL_PIXELS)
    side = tile.width // count
    grey = np.asarray(tile.convert("L"), dtype=np.float64)[: count * side, : count * side]
    contrasts = grey.reshape(count, side, count, side).std(axis=(1, 3))
    return float((contrasts >= MIN_CELL_CONTRAST).mean())
