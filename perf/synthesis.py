"""Seconds per view of the sampler against a plain diffusers loop: `python perf/synthesis.py [--device cuda]`.

The plain loop takes the same parts with the same weights in the same dtype and goes image by image: a batch of M views, two
rows per view for guidance, DDIM-50, decode, JPEG. The sampler draws the same views in a batch filled across images. Rounds are
interleaved; medians are compared. On the CPU the generator has LDM-4's structure at a third of its width and 24 x 24 latents; on a GPU it is LDM-4 at
full size (401 M parameters, VQ-f4), all with random weights, so nothing but the speed means anything.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
import torch
from diffusers import DDIMScheduler, UNet2DConditionModel, VQModel
from PIL import Image
from torch import Tensor

from cdgmae.generators.generator_folder import Generator, GeneratorMetadata
from cdgmae.generators.parts.condition_projector import ConditionProjector
from cdgmae.generators.pipeline import LatentDiffusionPipeline, noise_schedule
from cdgmae.models.encoders.by_name import load_encoder
from cdgmae.settings.encoder import parse_encoder
from cdgmae.settings.views import SamplingSettings
from cdgmae.storage.media.images import encode_jpeg
from cdgmae.views.sampling.generator_sampler import DTYPES, GeneratorSampler

ENCODER = 'random:{"image_size":64,"patch_size":16,"embed_dim":384,"depth":2,"num_heads":6}'
GUIDANCE, VIEWS = 6.0, 4
FLOOR_SECONDS, PAPER_SECONDS, GOAL_SECONDS = 0.027, 0.27, 0.045
"""Per view at DDIM-50 and guidance on a GPU: 21.5 TFLOP at 790 TFLOP/s on an H100; the paper's A100; what we aim at."""


@dataclass(frozen=True)
class Size:
    """One generator and how much is drawn from it."""

    channels: tuple[int, ...]
    latent_side: int
    stage_channels: tuple[int, ...]
    codes: int
    images: int


SIZES = {
    "mid": Size((64, 128, 192, 320), 24, (32, 64, 128), 512, images=2),
    "ldm4": Size((192, 384, 576, 960), 64, (128, 256, 512), 8192, images=32),
    "tiny": Size((32, 64), 8, (32, 64), 64, images=2),
}


def build_pipeline(size: Size) -> LatentDiffusionPipeline:
    """LDM-4's structure (spec: attention at all levels but the finest, one head, one token) with random weights."""
    torch.manual_seed(0)
    levels = len(size.channels)
    unet = UNet2DConditionModel(
        sample_size=size.latent_side, in_channels=3, out_channels=3, block_out_channels=size.channels, layers_per_block=2,
        down_block_types=("DownBlock2D", *["CrossAttnDownBlock2D"] * (levels - 1)),
        up_block_types=(*["CrossAttnUpBlock2D"] * (levels - 1), "UpBlock2D"), cross_attention_dim=512, attention_head_dim=1,
    ).eval()  # fmt: skip
    stage = VQModel(
        block_out_channels=size.stage_channels, down_block_types=("DownEncoderBlock2D",) * len(size.stage_channels),
        up_block_types=("UpDecoderBlock2D",) * len(size.stage_channels), layers_per_block=2, latent_channels=3,
        num_vq_embeddings=size.codes, vq_embed_dim=3, scaling_factor=1.0,
    ).eval()  # fmt: skip
    return LatentDiffusionPipeline(unet, noise_schedule("ddim"), ConditionProjector(384, 512), stage)


@torch.inference_mode()
def plain_loop(pipeline: LatentDiffusionPipeline, embeddings_BD: Tensor, seeds: list[int], steps: int) -> np.ndarray:
    """Image by image with diffusers' own calls; returns pixels (images * VIEWS, S, S, 3)."""
    unet, stage, device = pipeline.unet, pipeline.autoencoder, embeddings_BD.device
    scheduler = DDIMScheduler.from_config(pipeline.scheduler.config)
    pixels = []
    for number, embedding_D in enumerate(embeddings_BD):
        tokens = pipeline.condition(embedding_D[None]).expand(VIEWS, -1, -1)
        tokens = torch.cat([pipeline.null_tokens(VIEWS), tokens]).to(unet.dtype)
        shape = (3, unet.config["sample_size"], unet.config["sample_size"])
        own = [torch.Generator().manual_seed(seed) for seed in seeds[number * VIEWS : (number + 1) * VIEWS]]
        latents = torch.stack([torch.randn(shape, generator=generator) for generator in own]).to(device)
        scheduler.set_timesteps(steps, device=device)
        for timestep in scheduler.timesteps:
            rows = torch.cat([latents] * 2).to(unet.dtype)
            e_u, e_c = unet(rows, timestep, encoder_hidden_states=tokens, return_dict=False)[0].float().chunk(2)
            latents = scheduler.step(e_u + GUIDANCE * (e_c - e_u), timestep, latents, return_dict=False)[0]
        decoded = ((stage.decode(latents).sample + 1) / 2).clamp(0, 1)
        batch = (decoded * 255).round().to(torch.uint8).permute(0, 2, 3, 1).cpu().numpy()
        for view in batch:
            encode_jpeg(Image.fromarray(view), 95)
        pixels.append(batch)
    return np.concatenate(pixels)


def sampler_loop(sampler: GeneratorSampler, embeddings_BD: Tensor, seeds: list[int], batch: int) -> np.ndarray:
    """The same views through the sampler, `batch` at a time."""
    conditions = embeddings_BD.repeat_interleave(VIEWS, 0)
    pixels = []
    for first in range(0, len(seeds), batch):
        drawn = sampler.views(conditions[first : first + batch], seeds[first : first + batch], lambda: None)
        for view in drawn.pixels_BVHW3[:, 0]:
            encode_jpeg(Image.fromarray(view), 95)
        pixels.append(drawn.pixels_BVHW3[:, 0])
    return np.concatenate(pixels)


def seconds_of(run: Callable[[], np.ndarray], device: torch.device) -> tuple[float, np.ndarray]:
    """Wall seconds on a GPU, CPU seconds on the CPU (other programs on the machine do not count)."""
    clock = time.perf_counter if device.type == "cuda" else time.process_time
    started = clock()
    pixels = run()
    if device.type == "cuda":
        torch.cuda.synchronize()
    return clock() - started, pixels


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--precision", default=None, help="default: fp32 on the CPU, bf16 on a GPU")
    parser.add_argument("--size", choices=SIZES, default=None, help="default: mid on the CPU, ldm4 on a GPU")
    parser.add_argument("--batches", default=None, help="batch sizes of the sampler; default 8, on a GPU 16,32,64,128")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--compile", action="store_true", help="measure the compiled U-Net too")
    options = parser.parse_args()
    device = torch.device(options.device)
    gpu = device.type == "cuda"
    size, precision = SIZES[options.size or ("ldm4" if gpu else "mid")], options.precision or ("bf16" if gpu else "fp32")
    batches = [int(number) for number in (options.batches or ("16,32,64,128" if gpu else "8")).split(",")]
    pipeline, plain = build_pipeline(size).to(device), build_pipeline(size).to(device)
    torch.nn.Module.to(plain.unet, DTYPES[precision])
    encoder = load_encoder(parse_encoder(ENCODER), device=device)
    generator = Generator(pipeline, encoder, GeneratorMetadata("", "", "", 64, 4 * size.latent_side, {}))
    embeddings = torch.randn(size.images, 384, generator=torch.Generator().manual_seed(1)).to(device)
    seeds = list(range(size.images * VIEWS))

    def sampler(compiled: bool = False, **changes: object) -> GeneratorSampler:
        settings = SamplingSettings.from_plain({"guidance_scale": GUIDANCE, **changes})
        own = replace(generator, pipeline=build_pipeline(size).to(device)) if compiled else generator  # it is compiled in place
        return GeneratorSampler(own, settings, DTYPES[precision], device, compiled=compiled)

    runs: dict[str, Callable[[], np.ndarray]] = {"plain loop, DDIM-50": lambda: plain_loop(plain, embeddings, seeds, 50)}
    best = batches[-1]
    for batch in batches:
        runs[f"sampler, DDIM-50, batch {batch}"] = lambda batch=batch: sampler_loop(sampler(), embeddings, seeds, batch)
    if options.compile:
        compiled = sampler(compiled=True)
        runs[f"compiled, DDIM-50, batch {best}"] = lambda: sampler_loop(compiled, embeddings, seeds, best)
    for name, changes in FEWER_STEPS.items():
        runs[f"{name}, batch {best}"] = lambda changes=changes: sampler_loop(sampler(**changes), embeddings, seeds, best)
    seconds, pixels = measure(runs, device, options.rounds)
    report(seconds, pixels, len(seeds), gpu)
    if gpu:
        latents = torch.randn(best, 3, size.latent_side, size.latent_side, device=device)
        decode, _ = min((seconds_of(lambda: sampler()._pixels(latents), device) for _ in range(3)), key=lambda pair: pair[0])
        exact = seconds[f"sampler, DDIM-50, batch {best}"] / len(seeds)
        print(f"not in the U-Net: {decode / best / exact:.1%} (first stage and copy to the CPU; goal: under 10 %)")


FEWER_STEPS = {
    "DPM-Solver++ 20": {"scheduler": "dpm_solver", "num_inference_steps": 20},
    "UniPC 20": {"scheduler": "unipc", "num_inference_steps": 20},
}


def measure(
    runs: dict[str, Callable[[], np.ndarray]], device: torch.device, rounds: int
) -> tuple[dict[str, float], dict[str, np.ndarray]]:
    """Median seconds of each run over interleaved rounds, and its pixels. What warms up is run once before."""
    seconds: dict[str, list[float]] = {name: [] for name in runs}
    pixels = {}
    for name, run in runs.items():
        if device.type == "cuda" or name.startswith("compiled"):
            print(f"warm-up: {name}: {seconds_of(run, device)[0]:.1f} s", flush=True)
    for number in range(rounds):
        for name, run in runs.items():
            taken, pixels[name] = seconds_of(run, device)
            seconds[name].append(taken)
            print(f"round {number}: {name}: {taken:.1f} s", flush=True)
    return {name: statistics.median(values) for name, values in seconds.items()}, pixels


def report(seconds: dict[str, float], pixels: dict[str, np.ndarray], views: int, gpu: bool) -> None:
    """A Markdown table: seconds per view, ratio to the plain loop, and how the pixels compare."""
    plain = next(iter(seconds))
    exact = min((name for name in seconds if name.startswith("sampler")), key=lambda name: seconds[name])
    print(
        f"\n| {views} views | s per view | views per s | vs plain loop | vs {exact} | largest pixel difference | share of pixels that differ |"
    )
    print("| --- | --- | --- | --- | --- | --- | --- |")
    for name, taken in seconds.items():
        difference = np.abs(pixels[name].astype(int) - pixels[plain].astype(int))
        print(
            f"| {name} | {taken / views:.4f} | {views / taken:.2f} | {seconds[plain] / taken:.2f} x | {seconds[exact] / taken:.2f} x "
            f"| {difference.max()} of 255 | {(difference > 0).mean():.2%} |"
        )
    if gpu:
        mine = seconds[exact] / views
        print(
            f"\nDDIM-50 with guidance: {mine * 1000:.1f} ms per view; goal {GOAL_SECONDS * 1000:.0f}, floor of an H100 at 790 TFLOP/s"
        )
        print(f"{FLOOR_SECONDS * 1000:.0f}, the paper's A100 {PAPER_SECONDS * 1000:.0f}")


if __name__ == "__main__":
    main()
