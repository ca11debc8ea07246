"""Sampling the views of one picture shard, so that nothing finished is ever made twice.

View k of image x is a function of (seed, key, k). The batches are a function of the shard's keys alone, so that an interrupted
and a straight run compute the same tensors in the same shapes and end with the same bytes.
"""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from cdgmae.runtime.interrupts import Interrupted, StopRequest
from cdgmae.runtime.progress import ProgressMeter
from cdgmae.settings.views import SamplingSettings
from cdgmae.storage.picture_shards import BAD, PictureRow, PictureShardWriter, index_path
from cdgmae.storage.tables import file_sha256
from cdgmae.views.generator_folder import Generator, load_generator
from cdgmae.views.making import Item, ViewMaker
from cdgmae.views.parts import PartStore, remove_parts
from cdgmae.views.pictures import PictureCollection


def sample_shard(
    settings: SamplingSettings,
    seed: int,
    shard_tar: Path,
    generator_dir: Path,
    output_tar: Path,
    work_dir: Path,
    *,
    device: torch.device,
    precision: str = "fp32",
    log_interval_seconds: float = 30.0,
) -> dict[str, Any]:
    """Make M views of every usable picture of a shard.

    Args:
        settings: Sampler and number of views.
        seed: Root of every random draw.
        shard_tar: Picture shard with the real images.
        generator_dir: Generator folder, see `cdgmae.views.generator_folder`.
        output_tar: View shard to write; its index goes beside it.
        work_dir: Finished views of the unfinished shard; found again after an interruption and removed at the end.
        device: Where to sample.
        precision: Autocast precision of the U-Net.
        log_interval_seconds: Time between two progress lines.

    Returns:
        Facts: output, pictures, views, bad views, views found finished, seconds per view made now.

    Raises:
        Interrupted: after a signal, with all finished batches kept.
        ValueError: if more than `max_bad_fraction` of the views are bad; the finished views stay in `work_dir`.
    """
    generator = load_generator(generator_dir, device=device)
    pictures = PictureCollection([shard_tar])
    items = [Item(picture, k) for picture in range(len(pictures)) for k in range(1, settings.num_views + 1)]
    inputs = {str(index_path(shard_tar)): file_sha256(index_path(shard_tar)), "generator": generator.facts.digest}
    identity = _identity(settings, seed, inputs, precision)
    with PartStore(work_dir, identity) as parts:
        found, started = len(parts), time.monotonic()
        maker = ViewMaker(generator, pictures, settings, seed, device=device, precision=precision)
        _make_missing(maker, parts, items, output_tar.stem, log_interval_seconds)
        seconds = time.monotonic() - started
        bad = _write_shard(output_tar, parts, pictures, items, settings, generator, precision, inputs)
    remove_parts(work_dir)
    made = len(items) - found
    return {
        "output": str(output_tar), "pictures": len(pictures), "views": len(items) - bad, "bad": bad, "found_finished": found,
        "seconds_per_view": seconds / made if made else 0.0,
    }  # fmt: skip


def _identity(settings: SamplingSettings, seed: int, inputs: dict[str, str], precision: str) -> str:
    """Everything that finished views depend on; the tolerated share of bad ones is not part of it."""
    sampling = settings.model_dump(mode="json", exclude={"max_bad_fraction"})
    return json.dumps(
        {"sampling": sampling, "seed": seed, "inputs": sorted(inputs.values()), "precision": precision}, sort_keys=True
    )


def _make_missing(maker: ViewMaker, parts: PartStore, items: Sequence[Item], label: str, log_interval_seconds: float) -> None:
    """Make every batch that is not finished; batch i is always items i B .. (i + 1) B - 1."""
    stop, size = StopRequest(), maker.settings.batch_size
    with ProgressMeter(
        f"views {label}", len(items), done=len(parts), unit="views", interval_seconds=log_interval_seconds
    ) as meter:
        for first in range(0, len(items), size):
            batch = items[first : first + size]
            if all((maker.pictures.keys[item.picture], item.view_index) in parts for item in batch):
                continue
            reason = stop.reason()
            if reason:
                raise Interrupted(f"views {label}: {len(parts)} of {len(items)} views are kept ({reason}); run it again to go on")
            parts.append(maker.make(batch))
            meter.advance(len(batch))


def _write_shard(
    output_tar: Path,
    parts: PartStore,
    pictures: PictureCollection,
    items: Sequence[Item],
    settings: SamplingSettings,
    generator: Generator,
    precision: str,
    inputs: dict[str, str],
) -> int:
    """Write the view shard in order of key and view; returns the number of bad views."""
    views = [(pictures.row(item.picture), pictures.keys[item.picture], item.view_index) for item in items]
    bad = [f"{key}.{k}: {parts.reason(key, k)}" for _, key, k in views if parts.reason(key, k) is not None]
    if len(bad) > settings.max_bad_fraction * len(items):
        raise ValueError(
            f"{len(bad)} of {len(items)} views are bad, more than max_bad_fraction = {settings.max_bad_fraction} allows; first: "
            f"{bad[0]}. Check the generator and guidance_scale = {settings.guidance_scale}, or raise max_bad_fraction: "
            "finished views are kept."
        )
    extra = {
        "precision": precision,
        "batch_size": settings.batch_size,
        "eta": settings.eta,
        "seed_of_views": "(seed, key, view_index)",
    }
    with PictureShardWriter(output_tar) as writer:
        for real, key, k in views:
            view = parts.read(key, k)
            facts: dict[str, Any] = {
                "class_name": real.class_name, "seed": view.seed, "generator": generator.facts.digest,
                "sampler": settings.scheduler, "steps": settings.num_inference_steps, "guidance": settings.guidance_scale,
            }  # fmt: skip
            if view.reason is None:
                writer.add_picture(PictureRow(key, k, extension="jpg", width=view.side, height=view.side, **facts), view.data)
            else:
                writer.add_failure(PictureRow(key, k, status=BAD, reason=view.reason, **facts))
        writer.commit(settings_digest=settings.digest(), inputs=inputs, extra=extra)
    return len(bad)
