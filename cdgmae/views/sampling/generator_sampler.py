"""The S-LDM as a view sampler: a generator folder, the sampling settings and the machine's precision.

Shapes: B rows of a batch, C latent channels, h w latent height and width, D embedding width, S side of a view in pixels.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

from cdgmae.generators.fast_denoiser import FastDenoiser, why_unsupported
from cdgmae.generators.fast_sampling import SamplingPlan, sample_latents_fast
from cdgmae.generators.folder import Generator, embed, load_generator, read_facts
from cdgmae.models.normalisation import squares
from cdgmae.runtime.compute import set_float32_meaning
from cdgmae.settings.views import SamplingSettings
from cdgmae.views.sampling.sampler import DrawnViews, Provenance

logger = logging.getLogger("cdgmae")

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
DECODED_CELLS = 1 << 16
"""Latent cells decoded at once: a codebook search holds one distance per cell and code (2 GiB for 8192 codes)."""


@dataclass(frozen=True)
class GeneratorRecipe:
    """How to open an S-LDM.

    Attributes:
        folder: Generator folder, see `cdgmae.generators.folder`.
        settings: Scheduler, steps, guidance, approximations.
        precision: fp32, bf16 or fp16: dtype of the U-Net. Latents, scheduler, encoder and first stage compute in fp32.
        compiled: Compile the U-Net with torch.compile.
    """

    folder: Path
    settings: SamplingSettings
    precision: str = "fp32"
    compiled: bool = False

    views_per_row = 1

    def __post_init__(self) -> None:
        """Check the precision.

        Raises:
            ValueError: if it is unknown.
        """
        if self.precision not in DTYPES:
            raise ValueError(f"precision {self.precision!r}; allowed: {', '.join(DTYPES)}")

    @cached_property
    def provenance(self) -> Provenance:
        """See `SamplerRecipe`."""
        settings = self.settings
        return Provenance(
            read_facts(self.folder).digest, settings.scheduler, settings.num_inference_steps, settings.guidance_scale, self.precision
        )  # fmt: skip

    def open(self, device: torch.device) -> GeneratorSampler:
        """See `SamplerRecipe`."""
        set_float32_meaning(device, self.precision)
        generator = load_generator(self.folder, device=device)
        return GeneratorSampler(generator, self.settings, DTYPES[self.precision], device, compiled=self.compiled)


class GeneratorSampler:
    """Draws views from a loaded generator; see `ViewSampler`."""

    def __init__(
        self,
        generator: Generator,
        settings: SamplingSettings,
        dtype: torch.dtype,
        device: torch.device,
        *,
        compiled: bool = False,
    ) -> None:
        """Prepare the generator for the settings' scheduler.

        Raises:
            ValueError: if an approximation is asked for that this U-Net does not support.
        """
        self.generator, self.device, self.dtype = generator, device, dtype
        self.pipeline = generator.pipeline
        self.plan = SamplingPlan(
            settings.num_inference_steps, settings.guidance_scale, settings.eta, settings.guidance_interval, settings.reuse_interval
        )  # fmt: skip
        self.pipeline.set_scheduler(settings.scheduler)
        self.pipeline.unet.to(memory_format=torch.channels_last)
        self.denoiser = self._denoiser(compiled)

    def conditions(self, images: Sequence[Image.Image]) -> Tensor:
        """Raw embeddings (len(images), D)."""
        return embed(self.generator.encoder, squares(images, self.generator.facts.encoder_image_size).to(self.device))

    @torch.inference_mode()
    def views(self, conditions_B: Tensor, seeds: Sequence[int], between_steps: Callable[[], None]) -> DrawnViews:
        """See `ViewSampler`; the start noise and DDIM's noise of eta > 0 come from each row's own generator."""
        generators = [torch.Generator().manual_seed(seed) for seed in seeds]
        side = int(self.pipeline.unet.config["sample_size"])
        shape = (self.pipeline.latent_channels, side, side)
        noise_BChw = torch.stack([torch.randn(shape, generator=generator) for generator in generators]).to(self.device)
        latents_BChw = self._sample(conditions_B, noise_BChw, generators, between_steps).float()
        finite_B = latents_BChw.isfinite().flatten(1).all(1).tolist()
        return DrawnViews(
            self._pixels(latents_BChw.nan_to_num())[:, None],
            [None if finite else "latents are not finite" for finite in finite_B],
        )

    def _denoiser(self, compiled: bool) -> FastDenoiser | None:
        """The accelerated U-Net in its dtype, or None for one with parts that only its own forward pass knows."""
        reason = why_unsupported(self.pipeline.unet)
        if reason is None:
            nn.Module.to(self.pipeline.unet, self.dtype)  # the model's own method would warn about an empty list
            return FastDenoiser(self.pipeline.unet, compiled=compiled)
        if self.plan.reuse_interval > 1 or self.plan.guidance_interval != (0.0, 1.0):
            raise ValueError(
                f"reuse_interval and guidance_interval do not work with this generator's U-Net ({reason}); "
                "set them to 1 and [0, 1]"
            )
        logger.warning("the generator's U-Net runs its own forward pass, without the exact accelerations: %s", reason)
        return None

    def _sample(
        self,
        embeddings_BD: Tensor,
        noise_BChw: Tensor,
        generators: Sequence[torch.Generator],
        between_steps: Callable[[], None],
    ) -> Tensor:
        if self.denoiser is not None:
            return sample_latents_fast(
                self.pipeline, self.denoiser, embeddings_BD, noise_BChw, self.plan,
                generators=generators, between_steps=between_steps,
            )  # fmt: skip
        plan = self.plan
        with torch.autocast(self.device.type, self.dtype, enabled=self.dtype != torch.float32):
            return self.pipeline.sample_latents(
                embeddings_BD, noise_BChw, plan.num_inference_steps, plan.guidance_scale, plan.eta, generators=generators
            )

    def _pixels(self, latents_BChw: Tensor) -> np.ndarray:
        """uint8 images (B, S, S, 3) on the CPU, decoded in pieces."""
        rows = max(1, DECODED_CELLS // (latents_BChw.shape[2] * latents_BChw.shape[3]))
        pieces = [(self.pipeline.images(piece).nan_to_num() * 255).round().to(torch.uint8) for piece in latents_BChw.split(rows)]
        pixels: np.ndarray = torch.cat(pieces).permute(0, 2, 3, 1).to("cpu").contiguous().numpy()
        return pixels
