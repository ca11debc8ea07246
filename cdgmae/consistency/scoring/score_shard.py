"""Scoring of one shard: every image is embedded once, every pair compared, nothing finished is ever computed twice.

Shapes: P pairs, T tokens (CLS first), D width.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import torch

from cdgmae.consistency.score_tables import METRICS, SCORE_SCHEMA, check_scores
from cdgmae.consistency.scoring.bag_embedding import EmbeddedBag, Embedder, embed_bags
from cdgmae.consistency.scoring.nearest_patches import with_nearest_patches
from cdgmae.consistency.scoring.pair_images import BagLoader, CropBags, LoadedBag, ViewBags, bad_pair_reason
from cdgmae.consistency.scoring.partial_scores import PartFolder, join_parts, plan_parts
from cdgmae.consistency.scoring.similarities import global_similarity, local_similarity, nearest_patch_similarity
from cdgmae.models.encoders.by_name import Encoder, load_encoder
from cdgmae.runtime.compute import start_compute
from cdgmae.runtime.interrupts import Interrupted, StopRequest
from cdgmae.runtime.out_of_memory import explain_memory
from cdgmae.runtime.progress import ProgressMeter
from cdgmae.settings.consistency import CropDrawSettings, ScoringSettings
from cdgmae.settings.encoder import EncoderSettings
from cdgmae.settings.runtime import DEFAULT_RUNTIME, RuntimeSettings
from cdgmae.storage.image_shards import BAD, OK, index_path
from cdgmae.storage.read_ahead import read_ahead
from cdgmae.storage.tables import file_sha256, write_table

PASSES_AHEAD = 2
"""Encoder passes whose images are decoded in advance."""

PAIRS_AT_ONCE = 64
"""Pairs whose tokens are gathered for one call of the metrics: 80 MB per view for ViT-S/8."""


@dataclass(frozen=True, slots=True)
class _Job:
    """What the parts of one shard are scored with."""

    bags: BagLoader
    embed: Embedder
    batch_size: int
    source: str
    stop: StopRequest


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
        runtime: How to run here.
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
    device, precision = compute.device, compute.precision
    if view_tar is None and settings.crops is None:
        settings = settings.model_copy(update={"crops": CropDrawSettings()})
    tars = {"real": real_tar} | ({"views": view_tar} if view_tar is not None else {})
    indices = {name: file_sha256(index_path(tar)) for name, tar in tars.items()}
    named = {"kind": kind or source, "real_shard": f"{real_tar.parent.name}/{real_tar.stem}", "encoder": encoder_settings.text}
    encoder = load_encoder(encoder_settings, device=device)
    check_image_size(settings.image_size, encoder, encoder_settings.text)
    embed = Embedder(encoder, final_norm=settings.features == "final_norm", device=device, precision=precision)
    bags = _open_bags(settings, real_tar, view_tar)
    inputs = indices | {"encoder": encoder.digest}
    facts = {
        "source": source, **named, "image_size": settings.image_size, "patch_size": encoder.patch_size,
        "features": settings.features, "pairs": settings.pairs, "precision": precision, "without_views": bags.without_views,
        "crops": settings.crops.model_dump(mode="json") if settings.crops is not None else None,
    }  # fmt: skip
    parts = PartFolder(work_dir or output.parent / f".work-{output.stem}", _identity(settings, inputs, source, precision))
    job = _Job(bags, embed, settings.batch_size, source, StopRequest())
    with job.stop:
        table, found = _score_parts(job, parts, f"score {source} {output.stem}", runtime.log_interval_seconds)
    _check_bad_fraction(table, settings.max_bad_fraction, view_tar or real_tar)
    table = with_nearest_patches(table, bags, embed, settings.nearest_bags)
    check_scores(table)
    write_table(output, table, SCORE_SCHEMA, settings_digest=settings.digest(), inputs=inputs, extra=facts)
    summary = _summary(output, table, found, facts, encoder)
    parts.remove()
    return summary


def _summary(output: Path, table: pa.Table, found: int, facts: dict[str, Any], encoder: Encoder) -> dict[str, Any]:
    """What `score_shard` returns; `found` counts the pairs that were finished before."""
    return {
        "output": str(output), "pairs": table.num_rows, "bad": pc.sum(pc.equal(table["status"], BAD)).as_py() or 0,
        "without_views": facts["without_views"], "found_finished": found, "encoder": encoder.digest,
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


def _open_bags(settings: ScoringSettings, real_tar: Path, view_tar: Path | None) -> BagLoader:
    if settings.crops is None and view_tar is not None:
        return ViewBags(real_tar, view_tar, settings.image_size, all_pairs=settings.pairs == "all")
    if settings.crops is not None and view_tar is None:
        return CropBags(real_tar, settings.crops, settings.image_size)
    raise ValueError(f"both crops and the view shard {view_tar} were given; leave out one of settings `crops` and --views")


def _identity(settings: ScoringSettings, inputs: dict[str, str], source: str, precision: str) -> str:
    """Everything that finished parts depend on; tolerance and index maps, which come at the end, are not part of it."""
    scoring = settings.model_dump(mode="json", exclude={"max_bad_fraction", "nearest_bags"})
    return json.dumps({"scoring": scoring, "inputs": inputs, "source": source, "precision": precision}, sort_keys=True)


def _score_parts(job: _Job, parts: PartFolder, label: str, log_interval_seconds: float) -> tuple[pa.Table, int]:
    """The whole table, and how many of its rows were found finished."""
    plan = plan_parts(job.bags, job.batch_size)
    tables = {number: table for number in range(len(plan)) if (table := parts.read(number)) is not None}
    missing = [number for number in range(len(plan)) if number not in tables]
    found = sum(table.num_rows for table in tables.values())
    total = sum(len(job.bags.pairs(key)) for key in job.bags.keys)
    keys = [key for number in missing for key in plan[number]]
    bags_ahead = PASSES_AHEAD * job.batch_size // len(job.bags.view_indices(keys[0])) if keys else 0
    with (
        ThreadPoolExecutor(torch.get_num_threads(), "decode") as executor,
        ProgressMeter(label, total, done=found, unit="pairs", interval_seconds=log_interval_seconds) as progress,
    ):
        loaded = read_ahead(executor, job.bags.load, keys, bags_ahead)
        for number in missing:
            table = _score_bags(job, islice(loaded, len(plan[number])))
            if table is None:
                raise Interrupted(
                    f"{label}: {progress.done} of {total} pairs are kept ({job.stop.reason()}); run it again to go on"
                )
            check_scores(table)
            parts.write(number, table)
            tables[number] = table
            progress.advance(table.num_rows)
    return join_parts([tables[number] for number in range(len(plan))]), found


def _score_bags(job: _Job, loaded: Iterator[LoadedBag]) -> pa.Table | None:
    """The rows of some bags, in order; None if the job was asked to stop meanwhile."""
    rows: list[dict[str, Any]] = []
    with explain_memory(job.embed.device, "consistency.batch_size", job.batch_size):
        for bags in embed_bags(loaded, job.embed, job.batch_size):
            rows.extend(_score_pairs(bags, job.bags))
            if job.stop.reason():
                return None
    common = {"source": job.source, "encoder": job.embed.encoder.digest}
    return pa.Table.from_pylist([{**row, **common} for row in rows], schema=SCORE_SCHEMA)


def _score_pairs(bags: Sequence[EmbeddedBag], loader: BagLoader) -> list[dict[str, Any]]:
    """Rows of all pairs of whole bags, in order: scores, or the reason why there are none."""
    rows: list[dict[str, Any]] = []
    good: list[tuple[EmbeddedBag, dict[str, Any]]] = []
    for bag in bags:
        images = {image.view_index: image for image in bag.loaded.images}
        for view_a, view_b in loader.pairs(bag.loaded.key):
            reason = bad_pair_reason((images[view_a], images[view_b]))
            row = {"key": bag.loaded.key, "view_a": view_a, "view_b": view_b, "status": BAD if reason else OK, "reason": reason}
            rows.append(row)
            if reason is None:
                good.append((bag, row))
    for start in range(0, len(good), PAIRS_AT_ONCE):
        part = good[start : start + PAIRS_AT_ONCE]
        x_PTD, y_PTD = (torch.stack([bag.tokens_TD[row[view]] for bag, row in part]) for view in ("view_a", "view_b"))
        nps, nps_reverse = nearest_patch_similarity(x_PTD[:, 1:], y_PTD[:, 1:])
        gs, ls = global_similarity(x_PTD[:, 0], y_PTD[:, 0]), local_similarity(x_PTD[:, 1:], y_PTD[:, 1:])
        for (_, row), values in zip(part, torch.stack([gs, ls, nps, nps_reverse], dim=1).tolist(), strict=True):
            row.update(zip(METRICS, values, strict=True))
    return rows


def _check_bad_fraction(table: pa.Table, limit: float, tar: Path) -> None:
    bad = table.filter(pc.equal(table["status"], BAD))
    if bad.num_rows <= limit * table.num_rows:
        return
    reasons = "; ".join(f"{reason} ({count}x)" for reason, count in Counter(bad["reason"].to_pylist()).most_common(3))
    first = bad.slice(0, 1).to_pylist()[0]
    raise ValueError(
        f"{tar}: {bad.num_rows} of {table.num_rows} pairs cannot be scored, more than consistency.max_bad_fraction = {limit} allows. "
        f"First: {first['key']}, view {first['view_b']}. Reasons: {reasons}. Repair the shards (rerun the stage that made them) or "
        "raise the limit."
    )
