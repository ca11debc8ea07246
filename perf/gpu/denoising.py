"""The sampler at LDM-4's full size: a guided step, attention of wide heads, memory layouts, first stage, and views drawn for good.

The floor: 21.5 TFLOP per view at DDIM-50 with guidance, at the 790 TFLOP/s that an H100 reaches.
"""

from __future__ import annotations

import copy
import time
from functools import cache
from typing import Any

import torch
from diffusers.models.attention_processor import Attention, AttnProcessor2_0
from torch import nn

from cdgmae.generators.attention import ProductAttention, attention_kernel, choose_attention
from cdgmae.generators.inference import channels_last_is_faster
from cdgmae.generators.pipeline import LatentDiffusionPipeline
from cdgmae.runtime.compute import set_float32_meaning
from cdgmae.settings.views import SamplingSettings
from cdgmae.views.sampling.generator_sampler import GeneratorSampler
from perf.gpu.findings import RATE, Bench, Finding, check
from perf.gpu.stages import draw_views, open_sampler
from perf.synthesis import FLOOR_SECONDS, GUIDANCE, SIZES, build_pipeline

DDIM = {"scheduler": "ddim", "num_inference_steps": 50}
DPM = {"scheduler": "dpm_solver", "num_inference_steps": 20}
GOALS = {"DDIM-50": (DDIM, 50.0), "DPM++ 20": (DPM, 22.0)}
"""Settings and goal in milliseconds per view."""

WIDE_HEADS = ((384, 1024), (576, 256), (960, 64), (512, 4096))
"""(width of the single head, positions) of LDM-4's levels and of its first stage."""

TRIED_STEPS = 3


def rows_of(bench: Bench) -> int:
    """Views in a batch."""
    return 2 if bench.tiny else 128


def full_size(bench: Bench) -> LatentDiffusionPipeline:
    """LDM-4 with random weights, the caller's own."""
    return copy.deepcopy(drawn_pipeline("tiny" if bench.tiny else "ldm4"))


@cache
def drawn_pipeline(size: str) -> LatentDiffusionPipeline:
    """Drawing 450 M weights takes seconds: once is enough."""
    return build_pipeline(SIZES[size])


@check(RATE, 5)
def wide_attention(bench: Bench) -> None:
    """Both ways to compute the attention of one wide head, and whether the rule takes the faster one."""
    for width, positions in ((64, 64),) if bench.tiny else WIDE_HEADS:
        rows = 16 if positions == 4096 else 2 * rows_of(bench)
        layer = Attention(query_dim=width, heads=1, dim_head=width).to(bench.device, torch.bfloat16).eval()
        hidden = torch.randn(rows, positions, width, device=bench.device, dtype=torch.bfloat16)
        seconds, kernels = {}, {}
        with torch.inference_mode():
            for kernel, processor in (("fused", AttnProcessor2_0()), ("products", ProductAttention())):
                layer.set_processor(processor)
                seconds[kernel] = bench.seconds(lambda layer=layer, hidden=hidden: layer(hidden), 5)
                kernels[kernel] = bench.kernels(lambda layer=layer, hidden=hidden: layer(hidden), 2)
        ruled = attention_kernel(width, bench.device)
        other = "fused" if ruled == "products" else "products"
        detail = "; ".join(f"{name} {1e3 * seconds[name]:.2f} ms {kernels[name]}" for name in (ruled, other))
        what = f"attention ({rows}, {positions}, {width}) by {ruled}, its time over that by {other}"
        bench.within(what, seconds[ruled] / seconds[other], 1.05, detail=detail)


@check(RATE, 40)
def denoising_step(bench: Bench) -> None:
    """One guided step by the rules, with the other attention, with the other layout; the first stage in fp32 and as chosen."""
    pipeline, rows = full_size(bench), rows_of(bench)
    single = copy.deepcopy(pipeline.autoencoder)
    sampler = open_sampler(pipeline, torch.device(bench.device), "bf16", guidance_scale=GUIDANCE)
    floor = 1e3 * FLOOR_SECONDS / 50 * rows
    eager = seconds_per_step(bench, pipeline, rows)
    bench.report(
        Finding(f"guided step of {rows} views, eager", 1e3 * eager, "ms", floor=floor, detail=step_kernels(bench, pipeline, rows))
    )

    other = copy.deepcopy(pipeline)
    use_fused_attention(other.unet)
    bench.within("guided step, its time over that with fused attention", eager / seconds_per_step(bench, other, rows), 1.02)
    choose_attention(other.unet, torch.device(bench.device))
    ruled = channels_last_is_faster(torch.device(bench.device), compiled=False)
    layout = torch.contiguous_format if ruled else torch.channels_last
    nn.Module.to(other.unet, memory_format=layout)
    bench.within(f"guided step, its time over that in {layout}", eager / seconds_per_step(bench, other, rows), 1.02)
    del other
    measure_first_stage(bench, sampler, single)


def seconds_per_step(bench: Bench, pipeline: LatentDiffusionPipeline, rows: int) -> float:
    """Seconds of a guided step without decoding."""
    return bench.seconds(lambda: denoise(bench, pipeline, rows), 3, 1) / TRIED_STEPS


def denoise(bench: Bench, pipeline: LatentDiffusionPipeline, rows: int) -> torch.Tensor:
    """Latents after a few steps."""
    side = int(pipeline.unet.config["sample_size"])
    embeddings = torch.zeros(rows, 384, device=bench.device)
    noise = torch.randn(rows, pipeline.latent_channels, side, side, device=bench.device)
    with torch.inference_mode():
        return pipeline.sample_latents(embeddings, noise, TRIED_STEPS, GUIDANCE)


def step_kernels(bench: Bench, pipeline: LatentDiffusionPipeline, rows: int) -> str:
    """The kernels that take the most time."""
    return bench.kernels(lambda: denoise(bench, pipeline, rows), 8)


def use_fused_attention(module: nn.Module) -> None:
    """Self-attention by torch's fused call, whatever the width of its heads."""
    for layer in module.modules():
        if isinstance(layer, Attention) and not layer.is_cross_attention:
            layer.set_processor(AttnProcessor2_0())


def measure_first_stage(bench: Bench, sampler: GeneratorSampler, single: Any) -> None:
    """Milliseconds per view of decoding in fp32 and in the dtype that was chosen by the pixels' distance."""
    pipeline, rows = sampler.pipeline, 2 if bench.tiny else 16
    side = int(pipeline.unet.config["sample_size"])
    latents = torch.randn(rows, pipeline.latent_channels, side, side, device=bench.device)
    chosen = next(pipeline.autoencoder.decoder.parameters()).dtype
    exact = copy.copy(pipeline)
    exact.register_modules(autoencoder=single.to(bench.device))
    with torch.inference_mode():
        for name, one in (("fp32", exact), (f"as chosen, {chosen}", pipeline)):
            seconds = bench.seconds(lambda one=one: one.images(latents), 5)
            bench.inform(
                f"first stage {name}", 1e3 * seconds / rows, "ms per view", bench.kernels(lambda one=one: one.images(latents), 4)
            )


@check(RATE, 30)
def sampler_eager(bench: Bench) -> None:
    """Views drawn for good, from the embedding to pixels on the host."""
    measure_sampler(bench, compiled=False)


@check(RATE, 95)
def sampler_compiled(bench: Bench) -> None:
    """The same with U-Net and decoder compiled."""
    measure_sampler(bench, compiled=True)


def measure_sampler(bench: Bench, *, compiled: bool) -> None:
    """Milliseconds per view by both solvers, the first call apart."""
    set_float32_meaning(torch.device(bench.device), "bf16")
    rows, pipeline = rows_of(bench), full_size(bench)
    sampler = open_sampler(pipeline, torch.device(bench.device), "bf16", compiled=compiled, guidance_scale=GUIDANCE)
    wanted, way = sampler.settings, "compiled" if compiled else "eager"
    started = time.perf_counter()
    use(sampler, wanted, num_inference_steps=2)
    draw_views(sampler, rows)
    bench.inform(f"sampler, {way}, first two steps", time.perf_counter() - started, "s")
    for name, (changes, goal) in GOALS.items():
        steps = int(changes["num_inference_steps"]) if not bench.tiny else 2
        use(sampler, wanted, **{**changes, "num_inference_steps": steps})
        bench.wait()
        started = time.perf_counter()
        draw_views(sampler, rows)
        seconds = (time.perf_counter() - started) / rows
        floor = 1e3 * FLOOR_SECONDS * int(changes["num_inference_steps"]) / 50
        bench.report(
            Finding(f"sampler, {way}, {name}, {rows} views at once", 1e3 * seconds, "ms per view", goal=goal, floor=floor)
        )


def use(sampler: GeneratorSampler, settings: SamplingSettings, **changes: Any) -> None:
    """Draw with other settings from now on."""
    sampler.settings = settings.model_copy(update=changes)
    sampler.pipeline.set_scheduler(sampler.settings.scheduler)
