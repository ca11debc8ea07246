"""What a pre-training run needs of a GPU's memory, from its settings alone."""

from __future__ import annotations

from functools import lru_cache

import torch
from torch import Tensor

from cdgmae.models.cross_view_mae import CrossViewMAE
from cdgmae.pretrain.reconstruction import reconstruct
from cdgmae.settings.pretrain import PretrainRunSettings
from cdgmae.training.loader import equal_parts
from cdgmae.training.traced_memory import MemoryNeed, trace_memory

CARDS = {24: 23.6, 40: 39.4, 80: 79.1}
"""GiB of memory that torch sees on cards sold with so many GB."""

COUNTS = (
    "pretext", "num_anchors", "crop_strategy", "image_size", "patch_size", "embed_dim", "depth", "num_heads", "decoder_embed_dim",
    "decoder_depth", "decoder_num_heads", "anchor_positions", "anchor_cls_in_memory", "norm_pix_loss", "target_masking_ratio",
    "anchor_masking_ratio", "ema_decay",
)  # fmt: skip
"""Settings of a run on which its memory depends."""


def run_memory(settings: PretrainRunSettings, precision: str) -> MemoryNeed:
    """The need of a training step of a run on a GPU; see `trace_memory`."""
    return _traced(PretrainRunSettings(**{name: getattr(settings, name) for name in COUNTS}).canonical_json(), precision)


@lru_cache
def _traced(settings_json: str, precision: str) -> MemoryNeed:
    settings = PretrainRunSettings.model_validate_json(settings_json)
    with torch.device("meta"):
        model = CrossViewMAE.from_settings(settings).train()
    return trace_memory(
        model,
        lambda shadow, batch: reconstruct(shadow, batch, settings.image_size).loss,
        lambda samples: blank_batch(settings, samples),
        precision,
        ema=settings.ema_decay is not None,
    )


def blank_batch(settings: PretrainRunSettings, samples: int) -> dict[str, Tensor]:
    """A batch in the form of `BagBatches.batch` without values; regions are as large as the views that are made of them."""
    views, side = 1 + settings.num_anchors, settings.image_size
    nested = settings.pretext == "crops" and settings.crop_strategy in ("global_to_local", "local_to_global")
    regions = 1 if nested or (settings.pretext == "crops" and settings.crop_strategy == "same_views") else views
    patches = (side // settings.patch_size) ** 2
    shapes: dict[str, tuple[tuple[int, ...], torch.dtype]] = {
        "pixels": ((samples * regions * side * side * 3,), torch.uint8),
        "region_sizes": ((samples, regions, 2), torch.int32),
        "flips": ((samples, views), torch.bool),
        "target_noise": ((samples, patches), torch.float32),
        "dropout_seeds": ((samples,), torch.int64),
    }
    if nested or settings.crop_share:
        shapes["nested"] = ((samples, views, 4), torch.int32)
    if settings.anchor_masking_ratio > 0 and settings.num_anchors:
        shapes["anchor_noise"] = ((samples, settings.num_anchors, patches), torch.float32)
    return {name: torch.empty(shape, dtype=dtype, device="meta") for name, (shape, dtype) in shapes.items()}


def describe_memory(settings: PretrainRunSettings, micro_batch_size: int | None = None) -> dict[str, float | int | None]:
    """What a run needs in bf16 per sample, and on each of `CARDS` its micro-batch and memory where one GPU takes the whole batch.

    Several GPUs share the batch, and need no more.

    Args:
        settings: The run.
        micro_batch_size: The machine setting of this name; None: as many samples as fit. A micro-batch is None where the GPU is too small.
    """
    need = run_memory(settings, "bf16")
    row: dict[str, float | int | None] = {"mib_per_sample": need.per_sample / 2**20, "gib_besides": need.fixed / 2**30}
    for card, gib in CARDS.items():
        largest = need.largest_micro_batch(int(gib * 2**30))
        limit = micro_batch_size or largest
        size = equal_parts(settings.effective_batch_size, limit) if limit else None
        fits = size is not None and size <= largest
        row[f"micro_batch_{card}gb"] = size if fits else None
        row[f"memory_gib_{card}gb"] = need.of(size) / 2**30 if size is not None and fits else None
    return row
