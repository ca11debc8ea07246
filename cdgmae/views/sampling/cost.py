"""What sampling a data set costs, from a measured rate: GPU hours, wall time by number of GPUs, bytes and files."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from cdgmae.settings.views import DrawingSettings
from cdgmae.storage.bags import Bags
from cdgmae.storage.image_shards import OK, ImageShard
from cdgmae.storage.journal import Journal
from cdgmae.storage.tables import read_table
from cdgmae.views.sampling.batch import rows_of_shard
from cdgmae.views.sampling.draw_loop import DrawingTask, Stopper, draw_batches
from cdgmae.views.sampling.sampler import SamplerRecipe

TAR_BYTES_PER_VIEW = 512 + 256
"""A tar header and, on average, half a block of padding."""

INDEX_BYTES_PER_VIEW = 120
"""A row of the index, compressed; most of it is the image's sha256."""


@dataclass(frozen=True, slots=True)
class Rate:
    """What one view costs.

    Attributes:
        seconds: Device seconds.
        bytes: Encoded bytes.
        origin: Where the numbers are from, for people.
    """

    seconds: float
    bytes: float
    origin: str


def measure_rate(
    settings: DrawingSettings, seed: int, shard_tar: Path, recipe: SamplerRecipe, device: torch.device, batches: int = 2
) -> Rate:
    """Sample whole batches exactly as a job does (decoding, encoding and disk included), after one batch of warm-up.

    Args:
        settings: The settings of the source.
        seed: Root of every random draw.
        shard_tar: A shard with real images.
        recipe: What draws the views.
        device: One device.
        batches: Batches that are timed.

    Raises:
        ValueError: if no view came out well.
    """
    images = Bags([shard_tar]).usable()
    rows = rows_of_shard(len(images), settings.num_views, recipe.views_per_row)
    needed = (batches + 1) * settings.batch_size
    rows = (rows * -(-needed // len(rows)))[:needed]  # a small shard is gone through more than once
    cells = [rows[first : first + settings.batch_size] for first in range(0, needed, settings.batch_size)]
    finished_at: list[float] = []
    with tempfile.TemporaryDirectory() as folder:
        journal = Journal(Path(folder), "measured", "views")
        task = DrawingTask(recipe, settings, seed, shard_tar, journal, cells)
        draw_batches(
            task, 0, device, iter(range(len(cells))), Stopper(lambda: None), lambda _: finished_at.append(time.monotonic())
        )
        sizes = [view.length for view in journal.records().values() if view.metadata["status"] == OK]
    if not sizes:
        raise ValueError("no view of the measured batches is good, so there is no rate; check the generator")
    drawn = batches * settings.batch_size * recipe.views_per_row
    seconds = (finished_at[-1] - finished_at[0]) / drawn
    return Rate(seconds, sum(sizes) / len(sizes), f"measured over {batches} batches of {settings.batch_size} on {device}")


def stored_bytes_per_view(shard_tars: Sequence[Path], side: int) -> float:
    """Bytes of a view of `side` x `side` pixels if it compresses like the data set's own images."""
    area = length = 0
    for tar in shard_tars[:4]:
        for row in ImageShard(tar).rows(OK):
            area += (row.width or 0) * (row.height or 0)
            length += row.length or 0
    return length / area * side**2 if area else 0.0


def count_images(manifest: Path, shard_tars: Sequence[Path], num_shards: int) -> tuple[int, str]:
    """Images of a data set and where the number is from: its shards if all are there, else its manifest.

    Raises:
        ValueError: if neither is there.
    """
    if len(shard_tars) == num_shards:
        return sum(len(list(ImageShard(tar).rows(OK))) for tar in shard_tars), "usable images of the shards"
    if manifest.is_file():
        return len(read_table(manifest, columns=["key"])), "images of the manifest"
    raise ValueError(
        f"neither {manifest} nor all {num_shards} shards beside it exist yet, so the number of images is unknown: run "
        "`snakemake --cores all shards` first, or give --images"
    )


def plan_sampling(images: int, num_shards: int, num_views: int, rate: Rate, gpus: Sequence[int]) -> dict[str, Any]:
    """The cost of a data set.

    Args:
        images: Usable images.
        num_shards: Shards: one job each.
        num_views: Views per image.
        rate: What a view costs.
        gpus: Numbers of GPUs to give wall times for. Up to the number of shards each GPU works on a shard of its own; beyond,
            several GPUs share one.

    Returns:
        The job's result: images, views, gpu_hours, wall_hours by number of GPUs, bytes, files, hours_per_shard.
    """
    views = images * num_views
    hours = views * rate.seconds / 3600
    per_shard = hours / num_shards
    wall = {number: -(-num_shards // number) * per_shard if number <= num_shards else hours / number for number in gpus}
    return {
        "images": images,
        "views": views,
        "seconds_per_view": rate.seconds,
        "rate": rate.origin,
        "gpu_hours": hours,
        "hours_per_shard": per_shard,
        "wall_hours": wall,
        "bytes": round(views * (rate.bytes + TAR_BYTES_PER_VIEW + INDEX_BYTES_PER_VIEW)),
        "files": 2 * num_shards,
    }
