"""A loaded generator made ready to draw views: dtypes, memory layout, attention kernels, compilation.

Shapes: B batch, C latent channels, h w latent height and width.
"""

from __future__ import annotations

import copy
import logging
from typing import Any

import torch
from torch import Tensor, nn

from cdgmae.generators.attention import KernelRule, attention_kernel, choose_attention
from cdgmae.generators.parts.patch_autoencoder import PatchAutoencoder
from cdgmae.generators.pipeline import LatentDiffusionPipeline
from cdgmae.models.onednn import freeze_to_onednn

logger = logging.getLogger("cdgmae")

PROBE_IMAGES = 2
"""Images that a first stage is tried on: some hundred thousand values at 256 pixels."""

ONEDNN_WEIGHTS = 1 << 16
"""Linear layers with at least so many weights go through oneDNN in fp32 on a CPU (`cdgmae.models.onednn`)."""

ALLOWED_LEVELS = 1.0
"""How far pixels of a first stage in half precision may lie from those in fp32, in levels of 255."""


def prepare_for_sampling(
    pipeline: LatentDiffusionPipeline,
    dtype: torch.dtype,
    device: torch.device,
    *,
    compiled: bool = False,
    kernels: KernelRule = attention_kernel,
) -> None:
    """Change a pipeline in place so that it draws fast; in fp32 its views change by rounding only.

    Args:
        pipeline: On `device`; not to be trained afterwards.
        dtype: Of the U-Net, and of the first stage's decoder where its pixels stay within
            `ALLOWED_LEVELS` on the probe images. Scheduler, condition
            projector and encoder stay in fp32.
        device: Where it computes.
        compiled: Compile U-Net and decoder with torch.compile, one static shape each.
        kernels: Chooses the attention kernel of each layer.
    """
    stage: Any = pipeline.autoencoder
    learned = stage is not None and not isinstance(stage, PatchAutoencoder)
    nn.Module.to(pipeline.unet, dtype)  # the model's own method would warn about an empty list
    parts: list[nn.Module] = [pipeline.unet]
    if learned:
        choose_attention(stage, device, kernels)
        _choose_decoder_dtype(pipeline, dtype, device)
        parts.append(stage.decoder)
    choose_attention(pipeline.unet, device, kernels)
    for part in parts:
        if device.type == "cpu" and dtype == torch.float32 and not compiled:
            freeze_to_onednn(part, ONEDNN_WEIGHTS)
        if channels_last_is_faster(device, compiled):
            nn.Module.to(part, memory_format=torch.channels_last)
        if compiled:
            part.compile(fullgraph=True, dynamic=False)


def channels_last_is_faster(device: torch.device, compiled: bool) -> bool:
    """The layout rule: everywhere but in eager mode on a GPU.

    There GroupNorm has no kernel for channels-last tensors, so that each one is transposed twice, which costs more than the convolutions
    win. Compiled, GroupNorm is a generated kernel for any layout; on a CPU the layout is 1.1 x faster (`perf/results/synthesis.md`).
    """
    return device.type != "cuda" or compiled


def _choose_decoder_dtype(pipeline: LatentDiffusionPipeline, dtype: torch.dtype, device: torch.device) -> None:
    """Bring the part of a learned first stage that lies behind its codebook or its sampled latents to `dtype`, if pixels allow it."""
    if dtype == torch.float32:
        return
    stage: Any = pipeline.autoencoder
    parts = [part for part in (stage.decoder, stage.post_quant_conv) if part is not None]
    single = [copy.deepcopy(part.state_dict()) for part in parts]
    latents_BChw = pipeline.encode(_probe_images(pipeline, device) * 2 - 1)
    with torch.no_grad():
        exact = pipeline.images(latents_BChw)
        for part in parts:
            nn.Module.to(part, dtype)
        levels = float(((pipeline.images(latents_BChw) - exact) * 255).abs().nan_to_num(nan=255.0).max())
    if levels > ALLOWED_LEVELS:
        for part, weights in zip(parts, single, strict=True):
            nn.Module.to(part, torch.float32).load_state_dict(weights)
    verdict = "kept" if levels <= ALLOWED_LEVELS else "not used"
    logger.info("first stage in %s: %s, pixels differ by up to %.2f of 255 levels", dtype, verdict, levels)


@torch.no_grad()
def _probe_images(pipeline: LatentDiffusionPipeline, device: torch.device) -> Tensor:
    """Images (B, 3, S, S) in 0..1 with detail at all scales, always the same: noise of falling amplitude at rising resolution."""
    generator, stage = torch.Generator().manual_seed(0), pipeline.autoencoder
    side = int(pipeline.unet.config["sample_size"]) * 2 ** (len(stage.config["block_out_channels"]) - 1)
    images_B3SS = torch.zeros(PROBE_IMAGES, 3, side, side)
    for octave in range(2, side.bit_length()):
        noise = torch.randn(PROBE_IMAGES, 3, 2**octave, 2**octave, generator=generator)
        images_B3SS += nn.functional.interpolate(noise, (side, side), mode="bicubic") / 2 ** (octave / 2)
    return images_B3SS.mul(0.25).add(0.5).clamp(0, 1).to(device)
