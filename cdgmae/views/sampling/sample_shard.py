"""Sampling the views of one image shard, so that nothing finished is ever made twice.

View k of image x is a function of (seed, key, k). Batches are cells of a fixed grid over the shard's rows, in the fixed batch
shape, so that an interrupted and a straight run, by one process or several, compute the same tensors in the same shapes and end
with the same bytes. With another batch size the views differ by rounding only.
"""

from __future__ import annotations

import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

from cdgmae.runtime.compute import start_compute
from cdgmae.runtime.devices import worker_devices
from cdgmae.runtime.interrupts import Interrupted, StopRequest
from cdgmae.runtime.pool import share_out
from cdgmae.runtime.progress import ProgressMeter
from cdgmae.settings.runtime import DEFAULT_RUNTIME, RuntimeSettings
from cdgmae.settings.views import DrawingSettings
from cdgmae.storage.bags import Bags
from cdgmae.storage.files.atomic import explain_write_errors
from cdgmae.storage.files.publishing import once_recorded
from cdgmae.storage.image_shards import OK, ImageRow, ImageShardWriter, index_path
from cdgmae.storage.journal import Journal, Record
from cdgmae.storage.tables import file_sha256
from cdgmae.views.sampling.batch import Item, rows_of_shard, view_name
from cdgmae.views.sampling.draw_loop import DrawingTask, Stopper, draw_batches, draw_in_pool
from cdgmae.views.sampling.earlier_views import IDENTITY_KEY, copy_earlier_views
from cdgmae.views.sampling.sampler import SamplerRecipe

NOT_IN_A_VIEW = {"num_views", "batch_size", "max_bad_fraction"}
"""Settings that no single finished view depends on (the batch size changes nothing but rounding)."""


def sample_shard(
    settings: DrawingSettings,
    seed: int,
    shard_tar: Path,
    recipe: SamplerRecipe,
    output_tar: Path,
    work_dir: Path,
    *,
    runtime: RuntimeSettings = DEFAULT_RUNTIME,
) -> dict[str, Any]:
    """Make M views of every usable image of a shard.

    Args:
        settings: Number of views, batches, and what else the recipe's views depend on.
        seed: Root of every random draw.
        shard_tar: Image shard with the real images.
        recipe: What draws the views.
        output_tar: View shard to write; its index goes beside it.
        work_dir: Finished views of the unfinished shard; found again after an interruption and removed at the end.
        runtime: How to run here: one process per device, or `workers`; a single one is this process.

    Returns:
        The job's result: output, images, views, bad views, views found finished (in `work_dir`, or in a kept shard that differs in `num_views`
        alone), seconds per view made now.

    Raises:
        Interrupted: after a signal or at the time limit, with all finished batches kept.
        ValueError: if something cannot be read or written, or more than `max_bad_fraction` of the views are bad; the finished
            views stay in `work_dir`.
    """
    stop, provenance = StopRequest(), recipe.provenance
    images = Bags([shard_tar]).usable()
    inputs = {str(index_path(shard_tar)): file_sha256(index_path(shard_tar)), "generator": provenance.generator}
    journal = Journal(work_dir, _identity(settings, seed, inputs, recipe), "views")
    journal.wait()
    rows = rows_of_shard(len(images), settings.num_views, recipe.views_per_row)
    wanted = [view_name(key, k) for key in images.keys for k in range(1, settings.num_views + 1)]
    finished, started = journal.records(), time.monotonic()
    if copy_earlier_views(journal, output_tar, [view for view in wanted if view not in finished]):
        finished = journal.records()
    num_finished = sum(view in finished for view in wanted)
    batches = _missing_batches(rows, images, finished, settings, recipe.views_per_row)
    if batches:
        task = DrawingTask(recipe, settings, seed, shard_tar, journal, batches)
        meter = ProgressMeter(
            f"views {output_tar.stem}", len(rows), done=len(rows) - sum(map(len, batches)), unit="rows",
            interval_seconds=runtime.log_interval_seconds,
        )  # fmt: skip
        with stop:
            _draw(task, runtime, stop, meter)
        finished = journal.records()
    missing = sum(view not in finished for view in wanted)
    if missing:
        raise Interrupted(
            f"views {output_tar.stem}: {len(wanted) - missing} of {len(wanted)} views are kept ({stop.reason()}); run it again to go on"
        )
    seconds = time.monotonic() - started
    bad = _bad_views(finished, wanted, settings)
    with explain_write_errors(output_tar):
        _write_shard(output_tar, [finished[view] for view in wanted], settings, seed, inputs, journal.identity)
    metadata = _result(output_tar, len(images), len(wanted), bad, made=len(wanted) - num_finished, seconds=seconds)
    once_recorded(journal.remove)
    return metadata


def _result(output_tar: Path, images: int, views: int, bad: int, *, made: int = 0, seconds: float = 0.0) -> dict[str, Any]:
    """What `sample_shard` returns; `made` and `seconds` count the views made now."""
    return {
        "output": str(output_tar), "images": images, "views": views - bad, "bad": bad, "found_finished": views - made,
        "seconds_per_view": seconds / made if made else 0.0,
    }  # fmt: skip


def _identity(settings: DrawingSettings, seed: int, inputs: dict[str, str], recipe: SamplerRecipe) -> str:
    """Everything that a finished view depends on.

    The precision is left out: it is a property of the machine, as the device is. Views made before it changed are kept, and each
    row says at which precision it was made.
    """
    provenance = {name: value for name, value in asdict(recipe.provenance).items() if name != "precision"}
    # Views of one call, e.g. frames of one video, depend on how many they are.
    excluded = NOT_IN_A_VIEW if recipe.views_per_row == 1 else NOT_IN_A_VIEW - {"num_views"}
    drawn = settings.model_dump(mode="json", exclude=excluded)
    return json.dumps({"settings": drawn, "seed": seed, "inputs": sorted(inputs.values()), **provenance}, sort_keys=True)


def _missing_batches(
    rows: Sequence[Item], images: Bags, finished: Mapping[str, Record], settings: DrawingSettings, views_per_row: int
) -> list[list[Item]]:
    """The rows that are not finished, in the cells of a grid over all rows: cell i is always rows i B .. (i + 1) B - 1."""

    def is_missing(row: Item) -> bool:
        views = range(row.view_index, min(row.view_index + views_per_row, settings.num_views + 1))
        return any(view_name(images.keys[row.image_index], k) not in finished for k in views)

    size = settings.batch_size
    cells = ([row for row in rows[first : first + size] if is_missing(row)] for first in range(0, len(rows), size))
    return [cell for cell in cells if cell]


def _draw(task: DrawingTask, runtime: RuntimeSettings, stop: StopRequest, meter: ProgressMeter) -> None:
    """Draw all batches of the task, in this process or in several."""
    devices = worker_devices(start_compute(runtime).device, runtime.workers)

    def finished(number: int) -> None:
        meter.advance(len(task.batches[number]))

    with meter:
        if len(devices) > 1:
            pool = share_out(
                partial(draw_in_pool, task),
                len(task.batches),
                devices,
                name="views",
                threads=runtime.thread_limit,
                stop_reason=stop.reason,
            )
            for number, _ in pool:
                finished(number)
            return
        try:
            draw_batches(task, 0, devices[0], iter(range(len(task.batches))), Stopper(stop.reason), finished)
        except Interrupted:
            return  # the caller counts what is kept


def _bad_views(finished: Mapping[str, Record], wanted: Sequence[str], settings: DrawingSettings) -> int:
    """How many views are bad.

    Raises:
        ValueError: if they are too many.
    """
    bad = [f"{view}: {finished[view].metadata['reason']}" for view in wanted if finished[view].metadata["status"] != OK]
    if len(bad) > settings.max_bad_fraction * len(wanted):
        raise ValueError(
            f"{len(bad)} of {len(wanted)} views are bad, more than max_bad_fraction = {settings.max_bad_fraction} allows; first: "
            f"{bad[0]}. Check the generator and the sampling settings (a guidance_scale that is too high, fp16), or raise "
            "max_bad_fraction: finished views are kept."
        )
    return len(bad)


def _write_shard(
    output_tar: Path, views: Sequence[Record], settings: DrawingSettings, seed: int, inputs: dict[str, str], identity: str
) -> None:
    """Write the view shard in order of key and view."""
    with ImageShardWriter(output_tar) as writer:
        for view in views:
            row = ImageRow(**view.metadata)
            if row.status == OK:
                writer.add_image(row, view.data())
            else:
                writer.add_failure(row)
        drawn = settings.model_dump(mode="json", exclude={"num_views", "max_bad_fraction"})
        writer.commit(
            settings_digest=settings.digest(),
            inputs=inputs,
            extra={"sampling": drawn, "seed": seed, "seed_of_views": "(seed, key, view_index)", IDENTITY_KEY: identity},
        )
