"""Scoring of one shard: every image is embedded once, every pair compared, nothing finished is ever computed twice."""

from __future__ import annotations

import json
from collections import Counter
from functools import partial
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from cdgmae.consistency.score_tables import METRICS, SCORE_SCHEMA, check_scores
from cdgmae.consistency.scoring.bag_embedding import Embedder
from cdgmae.consistency.scoring.nearest_patches import with_nearest_patches
from cdgmae.consistency.scoring.pair_images import BagLoader
from cdgmae.consistency.scoring.scoring_loop import ScoringTask, open_embedder, plan_parts, read_part, score_in_pool, score_parts
from cdgmae.models.encoders.by_name import Encoder
from cdgmae.runtime.compute import start_compute
from cdgmae.runtime.devices import worker_devices
from cdgmae.runtime.interrupts import Interrupted, StopRequest
from cdgmae.runtime.pool import share_out
from cdgmae.runtime.progress import ProgressMeter
from cdgmae.settings.consistency import CropDrawSettings, ScoringSettings
from cdgmae.settings.encoder import EncoderSettings
from cdgmae.settings.runtime import DEFAULT_RUNTIME, RuntimeSettings
from cdgmae.storage.files.publishing import once_recorded
from cdgmae.storage.image_shards import BAD, index_path
from cdgmae.storage.journal import Journal
from cdgmae.storage.tables import file_sha256, write_table


def score_shard(
    settings: ScoringSettings,
    real_tar: Path,
    view_tar: Path | None,
    encoder_settings: EncoderSettings,
    output: Path,
    *,
    source: str,
    runtime: RuntimeSettings = DEFAULT_RUNTIME,
    kind: str | None = None,
    work_dir: Path | None = None,
) -> dict[str, Any]:
    """Score the pairs of all bags of a shard and write the table.

    Each image is decoded and embedded once. Its shorter side is scaled to `image_size` (bicubic, antialiased), the central
    square is cut out and ImageNet-normalised. Without `view_tar` the pairs are crops of the real images (`settings.crops`).

    The paper (section 3.2) takes CLS and patch tokens from a pretrained ViT-B/16 MAE and does not name the layer. `features:
    final_norm` is that model's output: its published forward pass ends with the norm (it is what the MAE's decoder was trained
    to read), as do timm's features and what label propagation compares here. `last_block` leaves the norm out; without its learned
    scale and shift all cosines are others, so scores of the two never stand in one summary row.

    Args:
        settings: What is compared, at which size.
        real_tar: Shard of real images (view_index 0).
        view_tar: Shard of views (view_index >= 1) of the same keys; None for a source of kind `crops`.
        encoder_settings: The scoring encoder.
        output: Parquet file, `SCORE_SCHEMA`, sorted by key, view_a and view_b; appears whole or not at all.
        source: Name of the view source, stored in every row.
        runtime: How to run here: one process per device, or `workers`; a single one is this process.
        kind: Kind of the source (section `views`), by which the summary finds its counterpart in the paper; default: its name.
        work_dir: Finished parts of the unfinished table; found again after an interruption and removed at the end.

    Returns:
        Counts (`pairs`, `bad`, `without_views`: real images that have no view at all, `found_finished`: pairs found in
        `work_dir`), the means of the scores.

    Raises:
        Interrupted: after a signal, with all finished parts kept.
        ValueError: if shards do not belong together, image_size does not suit the encoder, or too many pairs are bad.
    """
    compute = start_compute(runtime)
    if view_tar is None and settings.crops is None:
        settings = settings.model_copy(update={"crops": CropDrawSettings()})
    tars = {"real": real_tar} | ({"views": view_tar} if view_tar is not None else {})
    inputs = {name: file_sha256(index_path(tar)) for name, tar in tars.items()}
    embed = open_embedder(settings, encoder_settings, compute.device, compute.precision)
    check_image_size(settings.image_size, embed.encoder, encoder_settings.text)
    inputs["encoder"] = embed.encoder.digest
    identity = _identity(settings, inputs, source, compute.precision)
    journal = Journal(work_dir or output.parent / f".work-{output.stem}", identity, "pairs")
    task = ScoringTask(settings, real_tar, view_tar, encoder_settings, compute.precision, source, journal)
    bags = task.open_bags()
    metadata = {
        "source": source, "kind": kind or source, "real_shard": f"{real_tar.parent.name}/{real_tar.stem}",
        "encoder": encoder_settings.text, "image_size": settings.image_size, "patch_size": embed.encoder.patch_size,
        "features": settings.features, "pairs": settings.pairs, "precision": compute.precision, "without_views": bags.without_views,
        "crops": settings.crops.model_dump(mode="json") if settings.crops is not None else None,
    }  # fmt: skip
    table, num_finished = _score(task, bags, embed, f"score {source} {output.stem}", runtime)
    _check_bad_fraction(table, settings.max_bad_fraction, view_tar or real_tar)
    table = with_nearest_patches(table, bags, embed, settings.nearest_bags)
    check_scores(table)
    write_table(output, table, SCORE_SCHEMA, settings_digest=settings.digest(), inputs=inputs, extra=metadata)
    summary = _summary(output, table, num_finished, metadata, embed.encoder)
    once_recorded(journal.remove)
    return summary


def _summary(output: Path, table: pa.Table, num_finished: int, metadata: dict[str, Any], encoder: Encoder) -> dict[str, Any]:
    """What `score_shard` returns; `found` counts the pairs that were finished before."""
    return {
        "output": str(output), "pairs": table.num_rows, "bad": pc.sum(pc.equal(table["status"], BAD)).as_py() or 0,
        "without_views": metadata["without_views"], "found_finished": num_finished, "encoder": encoder.digest,
        **{name: pc.mean(table[name]).as_py() for name in METRICS},
    }  # fmt: skip


def check_image_size(image_size: int, encoder: Encoder, name: str) -> None:
    """Refuse an image size that the encoder cannot cut into whole patches.

    Raises:
        ValueError: naming the nearest size that works.
    """
    patch = encoder.patch_size
    if image_size % patch:
        raise ValueError(
            f"consistency.image_size = {image_size} is not a multiple of the patch size {patch} of encoder {name!r}; "
            f"use {max(patch, round(image_size / patch) * patch)}"
        )


def _identity(settings: ScoringSettings, inputs: dict[str, str], source: str, precision: str) -> str:
    """Everything that finished parts depend on; tolerance and index maps, which come at the end, are not part of it."""
    scoring = settings.model_dump(mode="json", exclude={"max_bad_fraction", "nearest_bags"})
    return json.dumps(
        {"scoring": scoring, "inputs": inputs, "source": source, "precision": precision, "columns": SCORE_SCHEMA.names},
        sort_keys=True,
    )


def _score(task: ScoringTask, bags: BagLoader, embed: Embedder, label: str, runtime: RuntimeSettings) -> tuple[pa.Table, int]:
    """The whole table, and how many of its rows were found finished."""
    journal = task.journal
    journal.wait()
    parts, finished = plan_parts(bags, task.settings.batch_size), journal.records()
    missing = [name for name in parts if name not in finished]
    num_finished = sum(record.amount for name, record in finished.items() if name in parts)
    total = sum(len(bags.pairs(key)) for key in bags.keys)
    meter = ProgressMeter(label, total, done=num_finished, unit="pairs", interval_seconds=runtime.log_interval_seconds)
    devices = worker_devices(embed.device, runtime.workers)[: max(1, len(missing))]
    with StopRequest() as stop, meter:
        if len(devices) > 1:
            pool = share_out(
                partial(score_in_pool, task, missing),
                len(missing),
                devices,
                name="scoring",
                threads=runtime.thread_limit,
                stop_reason=stop.reason,
            )
            for _, pairs in pool:
                meter.advance(pairs)
        elif missing:
            score_parts(
                task, missing, bags, embed, 0, range(len(missing)), stop.reason, lambda _, pairs: meter.advance(pairs)
            )  # fmt: skip
    finished = journal.records()
    if any(name not in finished for name in parts):
        raise Interrupted(f"{label}: {meter.done} of {total} pairs are kept ({stop.reason()}); run it again to go on")
    return pa.concat_tables([SCORE_SCHEMA.empty_table(), *(read_part(finished[name]) for name in parts)]), num_finished


def _check_bad_fraction(table: pa.Table, limit: float, tar: Path) -> None:
    bad = table.filter(pc.equal(table["status"], BAD))
    if bad.num_rows <= limit * table.num_rows:
        return
    reasons = "; ".join(f"{reason} ({count}x)" for reason, count in Counter(bad["reason"].to_pylist()).most_common(3))
    first = bad.slice(0, 1).to_pylist()[0]
    raise ValueError(
        f"{tar}: {bad.num_rows} of {table.num_rows} pairs cannot be scored, more than consistency.max_bad_fraction = {limit} allows. "
        f"First: {first['key']}, view {first['view_b']}. Reasons: {reasons}. `cdgmae verify {tar}` "
        "says how to repair the shard; or raise the limit."
    )
