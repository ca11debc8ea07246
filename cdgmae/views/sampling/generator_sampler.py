"""The S-LDM as a view sampler: a generator folder, the sampling settings and the machine's precision.

Shapes: B rows of a batch, C latent channels, h w latent height and width, D embedding width, S side of a view in pixels.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from cdgmae.generators.generator_folder import Generator, GeneratorMetadata, embed, load_generator, read_metadata
from cdgmae.generators.inference import prepare_for_sampling
from cdgmae.models.normalisation import squares
from cdgmae.runtime.compute import set_float32_meaning
from cdgmae.settings.views import SamplingSettings
from cdgmae.views.sampling.sampler import DrawnViews, Provenance

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
DECODED_CELLS = 1 << 16
"""Latent cells decoded at once: a codebook search holds one distance per cell and code (2 GiB for 8192 codes)."""


@dataclass(frozen=True)
class GeneratorRecipe:
    """How to open an S-LDM.

    Attributes:
        folder: Generator folder, see `cdgmae.generators.generator_folder`.
        settings: Scheduler, steps, guidance.
        precision: fp32, bf16 or fp16: dtype of the U-Net, and of the first stage where its pixels allow it.
        compiled: Compile U-Net and first stage with torch.compile.
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
        return provenance_of(read_metadata(self.folder), self.settings, self.precision)

    def open(self, device: torch.device) -> GeneratorSampler:
        """See `SamplerRecipe`."""
        set_float32_meaning(device, self.precision)
        generator = load_generator(self.folder, device=device)
        return GeneratorSampler(generator, self.settings, DTYPES[self.precision], device, compiled=self.compiled)


def provenance_of(metadata: GeneratorMetadata, settings: SamplingSettings, precision: str) -> Provenance:
    """What the index says of views drawn from a generator."""
    return Provenance(metadata.digest, settings.scheduler, settings.num_inference_steps, settings.guidance_scale, precision)


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
        """Prepare the generator, which belongs to the sampler from here on."""
        self.generator, self.settings, self.device = generator, settings, device
        self.pipeline = generator.pipeline
        self.pipeline.set_scheduler(settings.scheduler)
        prepare_for_sampling(self.pipeline, dtype, device, compiled=compiled)

    def conditions(self, images: Sequence[Image.Image]) -> Tensor:
        """Raw embeddings (len(images), D)."""
        return embed(self.generator.encoder, squares(images, self.generator.metadata.encoder_image_size).to(self.device))

    @torch.inference_mode()
    def views(self, conditions_B: Tensor, seeds: Sequence[int], between_steps: Callable[[], None]) -> DrawnViews:
        """See `ViewSampler`; the start noise and DDIM's noise of eta > 0 come from each row's own generator."""
        generators = [torch.Generator().manual_seed(seed) for seed in seeds]
        side = int(self.pipeline.unet.config["sample_size"])
        shape = (self.pipeline.latent_channels, side, side)
        noise_BChw = torch.stack([torch.randn(shape, generator=generator) for generator in generators]).to(self.device)
        latents_BChw = self.pipeline.sample_latents(
            conditions_B, noise_BChw, self.settings.num_inference_steps, self.settings.guidance_scale, self.settings.eta,
            generators=generators, between_steps=between_steps,
        )  # fmt: skip
        pixels_BHW3, shown_B = self._pixels(latents_BChw.nan_to_num())
        finite_B = latents_BChw.isfinite().flatten(1).all(1).tolist()
        problems = [
            None if finite and shown else f"{'image is' if finite else 'latents are'} not finite"
            for finite, shown in zip(finite_B, shown_B, strict=True)
        ]
        return DrawnViews(pixels_BHW3[:, None], problems)

    def _pixels(self, latents_BChw: Tensor) -> tuple[np.ndarray, list[bool]]:
        """uint8 images (B, S, S, 3) on the CPU, decoded in pieces, and which of them were finite."""
        rows = max(1, DECODED_CELLS // (latents_BChw.shape[2] * latents_BChw.shape[3]))
        pieces, finite = [], []
        for piece in latents_BChw.split(rows):
            images_BCHW = self.pipeline.images(piece)
            finite.append(images_BCHW.isfinite().flatten(1).all(1))
            pieces.append((images_BCHW.nan_to_num() * 255).round().to(torch.uint8))
        pixels: np.ndarray = torch.cat(pieces).permute(0, 2, 3, 1).to("cpu").contiguous().numpy()
        return pixels, torch.cat(finite).tolist()
