"""What a generator is trained on: latents and condition embeddings of all pictures, computed once, and batches drawn from them.

Shapes: N pictures, F = 1 or 2 (as it is, mirrored), B batch, C channels, h w latent height and width, D embedding width.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import torch
from torch import Tensor

from cdgmae.models.encoders import Encoder
from cdgmae.models.latent_diffusion import LatentDiffusionPipeline
from cdgmae.models.patch_autoencoder import PatchAutoencoder
from cdgmae.runtime.seeds import integer_seed, numpy_generator
from cdgmae.settings.views import GeneratorTrainingSettings
from cdgmae.views.generator_folder import embed
from cdgmae.views.pictures import PictureCollection, squares

CHUNK = 64
"""Pictures decoded and encoded together."""

MAX_FIT_PICTURES = 4096
"""Pictures that the patch autoencoder is fitted to: far more patches than its few thousand covariances need."""


@dataclass(frozen=True, slots=True)
class TrainingExamples:
    """Latents (F, N, C, h, w) and raw embeddings (F, N, D) on the CPU."""

    latents_FNChw: Tensor
    embeddings_FND: Tensor


def fit_autoencoder(pictures: PictureCollection, settings: GeneratorTrainingSettings) -> PatchAutoencoder | None:
    """The first stage that the settings ask for, fitted to the pictures; None for diffusion on pixels."""
    if settings.autoencoder.kind == "none":
        return None
    spread = np.unique(np.linspace(0, len(pictures) - 1, min(len(pictures), MAX_FIT_PICTURES)).round().astype(int))
    batches = (squares_BCHW * 2 - 1 for _, squares_BCHW in _chunks(pictures, settings.image_size, spread))
    fitted: PatchAutoencoder = PatchAutoencoder.fit(
        batches, settings.autoencoder.patch_size, settings.autoencoder.latent_channels
    )
    return fitted


def compute_embeddings(
    pictures: PictureCollection, encoder: Encoder, settings: GeneratorTrainingSettings, device: torch.device
) -> Tensor:
    """Raw embeddings (F, N, D) of all pictures and, if asked for, of their mirror images."""
    rows = []
    for _, squares_BCHW in _chunks(pictures, settings.encoder_image_size):
        rows.append(torch.stack([embed(encoder, view.to(device)).cpu() for view in _mirrored(squares_BCHW, settings)]))
    return torch.cat(rows, dim=1)


def compute_latents(
    pictures: PictureCollection, pipeline: LatentDiffusionPipeline, settings: GeneratorTrainingSettings, device: torch.device
) -> Tensor:
    """Scaled latents (F, N, C, h, w) of all pictures and, if asked for, of their mirror images."""
    rows = []
    for _, squares_BCHW in _chunks(pictures, settings.image_size):
        rows.append(torch.stack([pipeline.encode(view.to(device) * 2 - 1).cpu() for view in _mirrored(squares_BCHW, settings)]))
    return torch.cat(rows, dim=1)


def draw_batch(examples: TrainingExamples, settings: GeneratorTrainingSettings, seed: int, step: int) -> dict[str, Tensor]:
    """The batch of one step: a pure function of (seed, step).

    Every epoch visits each picture once. Timesteps are stratified: row i of the batch draws from the i-th of B equal parts of
    0..999, so that each is uniform and their losses vary less between steps.

    Returns:
        latents (B, C, h, w), embeddings (B, D), noise like latents, timesteps (B,), dropped (B,) bool.
    """
    flips, count = examples.latents_FNChw.shape[:2]
    batch = settings.batch_size
    chosen = torch.tensor(chosen_pictures(count, batch, seed, step))
    generator = torch.Generator().manual_seed(integer_seed(seed, "views/train", step))
    mirrored = torch.randint(flips, (batch,), generator=generator)
    latents = examples.latents_FNChw[mirrored, chosen]
    strata = (torch.arange(batch) + torch.rand(batch, generator=generator)) / batch
    timesteps = (strata * 1000).long().clamp(max=999)
    return {
        "latents": latents,
        "embeddings": examples.embeddings_FND[mirrored, chosen],
        "noise": torch.randn(latents.shape, generator=generator),
        "timesteps": timesteps[torch.randperm(batch, generator=generator)],
        "dropped": torch.rand(batch, generator=generator) < settings.embedding_dropout,
    }


def chosen_pictures(count: int, batch_size: int, seed: int, step: int) -> list[int]:
    """Which of `count` pictures make up the batch of a step: epoch after epoch, each in a fresh order."""
    positions = range(step * batch_size, (step + 1) * batch_size)
    return [int(_order(seed, position // count, count)[position % count]) for position in positions]


@lru_cache(maxsize=4)
def _order(seed: int, epoch: int, count: int) -> np.ndarray:
    return numpy_generator(seed, "views/order", epoch).permutation(count)


def _mirrored(squares_BCHW: Tensor, settings: GeneratorTrainingSettings) -> list[Tensor]:
    return [squares_BCHW, squares_BCHW.flip(-1)] if settings.horizontal_flip else [squares_BCHW]


def _chunks(pictures: PictureCollection, side: int, chosen: np.ndarray | None = None) -> Iterator[tuple[int, Tensor]]:
    indices = np.arange(len(pictures)) if chosen is None else chosen
    for first in range(0, len(indices), CHUNK):
        yield first, squares([pictures.image(int(index)) for index in indices[first : first + CHUNK]], side)
