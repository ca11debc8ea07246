"""What a pre-training run costs: the paper's GFLOPs (Table 8), true FLOPs, parameters and GPU hours.

Both counts are formulas of the run's settings (spec cross_view_mae section 5); the tests hold them against the paper's table and
torch's own counter.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import pyarrow.compute as pc
import torch

from cdgmae.models.cross_view_mae import CrossViewMAE
from cdgmae.models.decoder import FEEDFORWARD_DIM
from cdgmae.models.masking import count_visible
from cdgmae.paper import PAPER_TABLES
from cdgmae.settings.pretrain import PretrainRunSettings
from cdgmae.storage.image_shards import OK, find_shards, read_index

LAYER_NORM_OPERATIONS = 5
"""Operations per normalised value in the paper's count."""

STEP_OVER_FORWARD = 3
"""A training step costs three forward passes: the backward pass takes two gradients of every product."""

ENCODER_PREFIXES = ("cls_token", "patch_embed.", "blocks.", "norm.")


@dataclass(frozen=True, slots=True)
class FlopsCount:
    """Operations of one sample's forward pass up to the loss.

    Attributes:
        products: Multiply-accumulates of the convolution and all linear layers.
        attention: Multiply-accumulates inside the attentions (query-key and weight-value products).
        layer_norms: Values that pass through a layer norm.
    """

    products: int
    attention: int
    layer_norms: int

    @property
    def paper(self) -> int:
        """The paper's convention: a multiply-accumulate is one, a layer norm five per value, attention nothing."""
        return self.products + LAYER_NORM_OPERATIONS * self.layer_norms

    @property
    def true_forward(self) -> int:
        """Floating-point operations of all matrix products: a multiply-accumulate is two."""
        return 2 * (self.products + self.attention)

    @property
    def true_step(self) -> int:
        """`true_forward` with its backward pass."""
        return STEP_OVER_FORWARD * self.true_forward


def count_flops(settings: PretrainRunSettings) -> FlopsCount:
    """Count the operations of a run's model for one target and its anchors."""
    anchors, width, memory_width = settings.num_anchors, settings.embed_dim, settings.decoder_embed_dim
    patches = (settings.image_size // settings.patch_size) ** 2
    pixels = 3 * settings.patch_size**2
    target_tokens = count_visible(patches, settings.target_masking_ratio) + 1
    anchor_tokens = count_visible(patches, settings.anchor_masking_ratio) + 1
    encoded, tokens = target_tokens + anchors * anchor_tokens, patches + 1
    memory = anchors * (anchor_tokens if settings.anchor_cls_in_memory else anchor_tokens - 1)
    crosses = int(anchors > 0)  # plain MAE has no cross-attention and no norm after it

    embedding = (anchors + 1) * patches * pixels * width
    encoder = settings.depth * 12 * width**2 * encoded
    between = width * memory_width * encoded
    attention_projections = memory_width**2 * ((4 + 2 * crosses) * tokens + 2 * memory)
    decoder = settings.decoder_depth * (attention_projections + 2 * memory_width * FEEDFORWARD_DIM * tokens)
    prediction = tokens * memory_width * pixels
    return FlopsCount(
        products=embedding + encoder + between + decoder + prediction,
        attention=2 * settings.depth * width * (target_tokens**2 + anchors * anchor_tokens**2)
        + 2 * settings.decoder_depth * memory_width * tokens * (tokens + memory),
        layer_norms=(2 * settings.depth + 1) * width * encoded
        + ((2 + crosses) * settings.decoder_depth + 1) * memory_width * tokens,
    )


def count_parameters(settings: PretrainRunSettings) -> dict[str, int]:
    """Number of all parameters, of the trained ones, and of the trained ones in the encoder."""
    with torch.device("meta"):
        model = CrossViewMAE.from_settings(settings)
    trained = {name: parameter.numel() for name, parameter in model.named_parameters() if parameter.requires_grad}
    return {
        "parameters": sum(parameter.numel() for parameter in model.parameters()),
        "trained": sum(trained.values()),
        "encoder": sum(count for name, count in trained.items() if name.startswith(ENCODER_PREFIXES)),
    }


def gpu_hours(settings: PretrainRunSettings, num_images: int, tflops: float) -> float:
    """Hours of one GPU for all epochs of one seed.

    Args:
        settings: The run.
        num_images: Bags per epoch.
        tflops: Sustained (not peak) speed that is assumed, in 10^12 floating-point operations per second.
    """
    return count_flops(settings).true_step * num_images * settings.epochs / (tflops * 1e12) / 3600


def count_images(shards: Path) -> int | None:
    """Usable images in a folder of image shards, from their indices; None if it holds none yet."""
    if not any(shards.glob("*.tar")):
        return None
    return sum(pc.sum(pc.equal(read_index(tar, ["status"])["status"], OK)).as_py() or 0 for tar in find_shards(shards))


def describe_run(settings: PretrainRunSettings, num_images: int | None, tflops: float) -> dict[str, float | int | None]:
    """The row of one run: anchors, masking ratio, GFLOPs by both counts, parameters and the estimated GPU hours."""
    count = count_flops(settings)
    return {
        "anchors": settings.num_anchors,
        "anchor_masking_ratio": settings.anchor_masking_ratio,
        "paper_gflops": count.paper / 1e9,
        "true_gflops": count.true_forward / 1e9,
        "true_gflops_per_step": count.true_step / 1e9,
        **count_parameters(settings),
        "images": num_images,
        "epochs": settings.epochs,
        "assumed_tflops": tflops,
        "gpu_hours": None if num_images is None else gpu_hours(settings, num_images, tflops),
    }


def table_8() -> list[dict[str, float | int]]:
    """The paper's Table 8 beside our counts of the same ViT-S/16 runs."""
    rows: list[dict[str, float | int]] = []
    for row in PAPER_TABLES["table8"].rows.values():
        run = PretrainRunSettings.from_plain(row.run)
        count = count_flops(run)
        rows.append(
            {
                "anchors": run.num_anchors,
                "anchor_masking_ratio": run.anchor_masking_ratio,
                "printed_gflops": row.printed["gflops"].value,
                "paper_gflops": count.paper / 1e9,
                "true_gflops": count.true_forward / 1e9,
                "true_gflops_per_step": count.true_step / 1e9,
            }
        )
    return rows
