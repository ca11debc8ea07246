"""Embeddings of a shard's images for the nearest-neighbour search of source kind `knn`.

Shapes: B batch, D embedding width.
"""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import Executor, ThreadPoolExecutor
from itertools import islice
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
from cdgmae.runtime.out_of_memory import explain_memory
from cdgmae.runtime.progress import ProgressMeter
from cdgmae.settings.encoder import EncoderSettings
from cdgmae.settings.runtime import DEFAULT_RUNTIME, RuntimeSettings
from cdgmae.storage.image_shards import OK, ImageRow, ImageShard, index_path
from cdgmae.storage.media.images import ImageError, center_crop, decode_rgb, resize_shorter_side
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
        runtime: How to run here; `threads` images are decoded at the same time.

    Returns:
        Facts: output, images, bad, width, encoder (digest).

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
    shard = ImageShard(shard_tar)
    rows = sorted(shard.rows(OK), key=lambda row: row.key)
    inputs = {str(index_path(shard_tar)): shard_index, "encoder": encoder.digest}
    table: list[dict[str, Any]] = []
    with ThreadPoolExecutor(runtime.threads) as pool, ProgressMeter(f"embed {shard_tar.stem}", len(rows), unit="images") as meter:
        waiting = iter(rows)
        while batch := list(islice(waiting, settings.batch_size)):
            with explain_memory(device, "batch_size of this view source", settings.batch_size):
                table.extend(_embed_batch(batch, shard, encoder, settings.image_size, device, pool))
            meter.advance(len(batch))
    write_table(output, table, embedding_schema(encoder.embed_dim), settings_digest=settings.digest(), inputs=inputs)
    bad = sum(row["reason"] is not None for row in table)
    return _facts(output, len(rows), bad, encoder)


def _facts(output: Path, images: int, bad: int, encoder: Encoder) -> dict[str, Any]:
    return {"output": str(output), "images": images, "bad": bad, "width": encoder.embed_dim, "encoder": encoder.digest}


def _embed_batch(
    rows: list[ImageRow], shard: ImageShard, encoder: Encoder, image_size: int, device: torch.device, pool: Executor
) -> Iterator[dict[str, Any]]:
    def prepare(row: ImageRow) -> Image.Image | str:
        try:
            return center_crop(resize_shorter_side(decode_rgb(shard.read(row)), image_size), image_size)
        except ImageError as error:
            return str(error)

    prepared = list(pool.map(prepare, rows))
    images = [image for image in prepared if isinstance(image, Image.Image)]
    found: Iterator[Any] = iter(())
    if images:
        tokens_BTD = encoder.tokens(normalise(pixels_to_tensor(images).to(device)))
        found = iter(F.normalize(tokens_BTD[:, 0].float(), dim=1).cpu().numpy())
    for row, image in zip(rows, prepared, strict=True):
        embedding = None if isinstance(image, str) else next(found)
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
