"""What a generator is trained on: its first stage, which images are held out, and the batches of every step.

Shapes: B batch, C channels, h w latent height and width, D embedding width.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from cdgmae.generators.build import FirstStage
from cdgmae.generators.parts.first_stage import load_first_stage
from cdgmae.generators.parts.patch_autoencoder import PatchAutoencoder
from cdgmae.generators.train.latent_cache import LatentCache, chunks_of
from cdgmae.models.normalisation import squares
from cdgmae.runtime.seeds import integer_seed, numpy_generator
from cdgmae.settings.views import AutoencoderSettings, GeneratorTrainingSettings
from cdgmae.storage.bags import Bags

MAX_FIT_IMAGES = 4096
"""Images that the patch autoencoder is fitted to: far more patches than its few thousand covariances need."""

MAX_WHITENING_IMAGES = 65_536
"""Images whose embeddings the condition projector is whitened with."""


@dataclass(frozen=True, slots=True)
class TrainingExamples:
    """Cached latents and embeddings, and which images are trained on and which are held out.

    Attributes:
        cache: Rows of all images.
        trained: Numbers of the images that batches are drawn from, ascending.
        held_out: Numbers of the others, in a random order.
    """

    cache: LatentCache
    trained: np.ndarray
    held_out: np.ndarray


def make_first_stage(images: Bags, settings: GeneratorTrainingSettings) -> FirstStage:
    """The first stage that the settings ask for: loaded, fitted to the images, or None for diffusion on pixels.

    Raises:
        ValueError: if the folder holds no usable first stage.
    """
    stage = settings.autoencoder
    if stage.kind == "folder":
        return load_first_stage(Path(stage.path or ""))
    return _fit(images, stage, settings.image_size) if stage.kind == "patch_pca" else None


def _fit(images: Bags, stage: AutoencoderSettings, image_size: int) -> PatchAutoencoder:
    spread = _spread(len(images), MAX_FIT_IMAGES)
    square_images = (squares([images.image(index) for index in chunk], image_size) for chunk in chunks_of(images, spread))
    fitted: PatchAutoencoder = PatchAutoencoder.fit(
        (squares_BCHW * 2 - 1 for squares_BCHW in square_images), stage.patch_size, stage.latent_channels
    )
    return fitted


def split(cache: LatentCache, held_out_fraction: float, seed: int) -> TrainingExamples:
    """Hold out a random share of the images, at least one if the share is not 0.

    Raises:
        ValueError: if nothing would be left to train on.
    """
    num_held_out = max(1, round(held_out_fraction * cache.count)) if held_out_fraction else 0
    if num_held_out >= cache.count:
        raise ValueError(
            f"held_out_fraction = {held_out_fraction} of {cache.count} image(s) leaves none to train on; lower it or add images"
        )
    order = numpy_generator(seed, "views/held_out", 0).permutation(cache.count)
    return TrainingExamples(cache, np.sort(order[num_held_out:]), order[:num_held_out])


def embeddings_to_whiten_with(cache: LatentCache) -> Tensor:
    """Embeddings (R, D) of images spread over the cache, mirrored ones behind."""
    chosen = _spread(cache.count, MAX_WHITENING_IMAGES)
    return torch.cat([cache.embeddings([flip] * len(chosen), chosen) for flip in range(cache.flips)])


def draw_batch(
    examples: TrainingExamples, settings: GeneratorTrainingSettings, seed: int, step: int, samples: range | None = None
) -> dict[str, Tensor]:
    """The rows `samples` (all if None) of the batch of one step: a pure function of (seed, step).

    Every epoch visits each image once. Timesteps are stratified: row i of the batch draws from the i-th of B equal parts of
    0..999, so that each is uniform and their losses vary less between steps.

    Returns:
        latents (B, C, h, w), embeddings (B, D), noise like latents, timesteps (B,), dropped (B,) bool.
    """
    cache, batch = examples.cache, settings.batch_size
    rows = slice(0, batch) if samples is None else slice(samples.start, samples.stop)
    chosen = chosen_images(examples, batch, seed, step)
    generator = torch.Generator().manual_seed(integer_seed(seed, "views/train", step))
    mirrored = torch.randint(cache.flips, (batch,), generator=generator).tolist()
    timesteps = stratified_timesteps(batch, generator)
    noise = torch.randn((batch, *cache.latent_shape), generator=generator)
    timesteps = timesteps[torch.randperm(batch, generator=generator)]
    dropped = torch.rand(batch, generator=generator) < settings.embedding_dropout
    targets = torch.randint(cache.targets, (batch,), generator=generator).tolist()
    return {
        "latents": cache.latents(mirrored[rows], chosen[rows], targets[rows]),
        "embeddings": cache.embeddings(mirrored[rows], chosen[rows]),
        "noise": noise[rows],
        "timesteps": timesteps[rows],
        "dropped": dropped[rows],
    }


def stratified_timesteps(batch: int, generator: torch.Generator) -> Tensor:
    """One timestep (B,) from each of B equal parts of 0..999, ascending."""
    strata = (torch.arange(batch) + torch.rand(batch, generator=generator)) / batch
    return (strata * 1000).long().clamp(max=999)


def chosen_images(examples: TrainingExamples, batch_size: int, seed: int, step: int) -> list[int]:
    """Which images make up the batch of a step: epoch after epoch, each in a fresh order."""
    count = len(examples.trained)
    positions = range(step * batch_size, (step + 1) * batch_size)
    return [int(examples.trained[_order(seed, position // count, count)[position % count]]) for position in positions]


@lru_cache(maxsize=4)
def _order(seed: int, epoch: int, count: int) -> np.ndarray:
    return numpy_generator(seed, "views/order", epoch).permutation(count)


def _spread(count: int, most: int) -> list[int]:
    """At most `most` of `count` numbers, evenly spaced."""
    return [int(index) for index in np.unique(np.linspace(0, count - 1, min(count, most)).round())]
