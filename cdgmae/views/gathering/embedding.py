"""Embeddings of a shard's images for the nearest-neighbour search of source kind `knn`.

Shapes: B batch, D embedding width.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Executor, ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import torch
from PIL import Image
from torch.nn import functional as F

from cdgmae.models.encoders.by_name import Encoder, load_encoder
from cdgmae.models.normalisation import normalise, pixels_to_tensor
from cdgmae.runtime.compute import start_compute
from cdgmae.runtime.devices import worker_devices
from cdgmae.runtime.out_of_memory import explain_memory
from cdgmae.runtime.pool import share_out
from cdgmae.runtime.progress import ProgressMeter
from cdgmae.settings.encoder import EncoderSettings
from cdgmae.settings.runtime import DEFAULT_RUNTIME, RuntimeSettings
from cdgmae.storage.image_shards import OK, ImageRow, ImageShard, index_path
from cdgmae.storage.media.images import MAX_STORED_PIXELS, ImageError, center_crop, decode_rgb, resize_shorter_side
from cdgmae.storage.tables import file_sha256, read_table, write_table
from cdgmae.views.sources.knn import EmbeddingSettings

COLUMNS = ("key", "sha256", "reason", "embedding")


def embedding_schema(width: int) -> pa.Schema:
    """Columns of an embedding table: one row per usable image in key order; no embedding, but a reason, where it cannot be decoded."""
    return pa.schema(
        [
            pa.field("key", pa.string(), nullable=False),
            pa.field("sha256", pa.string(), nullable=False),
            pa.field("reason", pa.string()),
            pa.field("embedding", pa.list_(pa.float32(), width)),
        ]
    )


def embed_images(
    settings: EmbeddingSettings,
    shard_tar: Path,
    encoder_settings: EncoderSettings,
    output: Path,
    *,
    runtime: RuntimeSettings = DEFAULT_RUNTIME,
) -> dict[str, Any]:
    """Embed every image of a shard: the encoder's final-norm CLS token, scaled to length 1.

    Args:
        settings: Image size and batch.
        shard_tar: Image shard.
        encoder_settings: The encoder.
        output: Parquet table to write, see `embedding_schema`.
        runtime: How to run here: one process per device, or `workers`; `threads` images are decoded at the same time.

    Returns:
        The job's result: output, images, bad, width, encoder (digest).

    Raises:
        ValueError: if the encoder cannot be loaded or does not take `image_size`.
    """
    device = start_compute(runtime, precision="fp32").device
    shard_index = file_sha256(index_path(shard_tar))
    encoder = load_encoder(encoder_settings, device=device)
    if settings.image_size % encoder.patch_size:
        nearest = max(encoder.patch_size, round(settings.image_size / encoder.patch_size) * encoder.patch_size)
        raise ValueError(
            f"image_size = {settings.image_size} is not a multiple of the patch size {encoder.patch_size} of encoder "
            f"{encoder_settings.text!r}; set views.sources.NAME.image_size = {nearest}"
        )
    rows = _rows(ImageShard(shard_tar))
    inputs = {str(index_path(shard_tar)): shard_index, "encoder": encoder.digest}
    count = -(-len(rows) // settings.batch_size)
    devices = worker_devices(device, runtime.workers)[: max(1, count)]
    task = _EmbeddingTask(settings, shard_tar, encoder_settings, max(1, runtime.threads // len(devices)))
    batches: dict[int, list[dict[str, Any]]] = {}
    with ProgressMeter(f"embed {shard_tar.stem}", len(rows), unit="images") as meter:

        def finished(number: int, embedded: list[dict[str, Any]]) -> None:
            batches[number] = embedded
            meter.advance(len(embedded))

        if len(devices) > 1:
            work = partial(_embed_in_pool, task)
            for result in share_out(work, count, devices, name="embedding", threads=runtime.thread_limit, fail_fast=True):
                finished(*result)
        else:
            _embed_batches(task, encoder, device, range(count), finished)
    table = [row for number in range(count) for row in batches[number]]
    write_table(output, table, embedding_schema(encoder.embed_dim), settings_digest=settings.digest(), inputs=inputs)
    bad = sum(row["reason"] is not None for row in table)
    return _result(output, len(rows), bad, encoder)


@dataclass(frozen=True, slots=True)
class _EmbeddingTask:
    """What every process embeds; batch i is always the rows i B .. (i + 1) B - 1 in order of key."""

    settings: EmbeddingSettings
    shard_tar: Path
    encoder_settings: EncoderSettings
    threads: int


def _rows(shard: ImageShard) -> list[ImageRow]:
    return sorted(shard.rows(OK), key=lambda row: row.key)


def _embed_in_pool(
    task: _EmbeddingTask,
    _slot: int,
    device: torch.device,
    numbers: Iterator[int],
    _stop_reason: Callable[[], str | None],
    finished: Callable[[int, list[dict[str, Any]]], None],
) -> None:
    """What one of several processes does: see `cdgmae.runtime.pool.PoolWork`."""
    _embed_batches(task, load_encoder(task.encoder_settings, device=device), device, numbers, finished)


def _embed_batches(
    task: _EmbeddingTask,
    encoder: Encoder,
    device: torch.device,
    numbers: Iterable[int],
    finished: Callable[[int, list[dict[str, Any]]], None],
) -> None:
    shard, size = ImageShard(task.shard_tar), task.settings.batch_size
    rows = _rows(shard)
    with ThreadPoolExecutor(task.threads) as pool:
        for number in numbers:
            batch = rows[number * size : (number + 1) * size]
            with explain_memory(device, "batch_size of this view source", size):
                embedded = list(_embed_batch(batch, shard, encoder, task.settings.image_size, device, pool))
            finished(number, embedded)


def _result(output: Path, images: int, bad: int, encoder: Encoder) -> dict[str, Any]:
    return {"output": str(output), "images": images, "bad": bad, "width": encoder.embed_dim, "encoder": encoder.digest}


def _embed_batch(
    rows: Sequence[ImageRow], shard: ImageShard, encoder: Encoder, image_size: int, device: torch.device, pool: Executor
) -> Iterator[dict[str, Any]]:
    def prepare(row: ImageRow) -> Image.Image | str:
        try:
            return center_crop(resize_shorter_side(decode_rgb(shard.read(row), MAX_STORED_PIXELS), image_size), image_size)
        except ImageError as error:
            return str(error)

    prepared = list(pool.map(prepare, rows))
    images = [image for image in prepared if isinstance(image, Image.Image)]
    vectors: Iterator[Any] = iter(())
    if images:
        tokens_BTD = encoder.tokens(normalise(pixels_to_tensor(images).to(device)))
        vectors = iter(F.normalize(tokens_BTD[:, 0].float(), dim=1).cpu().numpy())
    for row, image in zip(rows, prepared, strict=True):
        embedding = None if isinstance(image, str) else next(vectors)
        reason = image if isinstance(image, str) else None
        if embedding is not None and not np.isfinite(embedding).all():
            embedding, reason = None, "embedding is not finite"
        yield {"key": row.key, "sha256": row.sha256, "reason": reason, "embedding": embedding}


class EmbeddingTable:
    """An embedding table in memory: keys, hashes and reasons of all rows, embeddings (N, D) of those that have one."""

    def __init__(self, path: Path) -> None:
        """Read a table that `embed_images` wrote.

        Raises:
            TableError: if it is missing or damaged.
        """
        table = read_table(path, COLUMNS)
        self.keys: list[str] = table["key"].to_pylist()
        self.reasons: list[str | None] = table["reason"].to_pylist()
        self.embedded = np.flatnonzero(np.array([reason is None for reason in self.reasons], dtype=bool))
        column = table["embedding"].combine_chunks()
        self.embeddings_ND = column.drop_null().flatten().to_numpy(zero_copy_only=False).reshape(-1, column.type.list_size)
