"""The denoising task that a generator is trained with: Gen-SIS's recipe (spec view_generators 1.3).

Shapes: B batch, C channels, h w latent height and width, D embedding width.
"""

from __future__ import annotations

from copy import copy, deepcopy

import torch
from diffusers.models.unets.unet_2d_condition import UNet2DConditionModel
from diffusers.schedulers.scheduling_ddim import DDIMScheduler
from torch import Tensor, nn

from cdgmae.generators.parts.condition_projector import ConditionProjector
from cdgmae.generators.pipeline import predict
from cdgmae.generators.train.generator_batches import TrainingExamples, chosen_images, draw_batch
from cdgmae.settings.views import GeneratorTrainingSettings
from cdgmae.training.traced_memory import MemoryNeed, trace_memory


class Denoiser(nn.Module):
    """What is optimised: the U-Net and the projector of its condition."""

    def __init__(self, unet: UNet2DConditionModel, projector: ConditionProjector) -> None:
        super().__init__()
        self.unet, self.projector = unet, projector

    def forward(self, noisy_BChw: Tensor, timesteps_B: Tensor, embeddings_BD: Tensor, dropped_B: Tensor) -> Tensor:
        """Prediction (B, C, h, w); rows with `dropped_B` see the null condition."""
        tokens = torch.where(dropped_B[:, None, None], self.projector.null_tokens(len(dropped_B)), self.projector(embeddings_BD))
        return predict(self.unet, noisy_BChw, timesteps_B, tokens)


class GeneratorTask:
    """The denoising task for `cdgmae.training.loop.train`."""

    def __init__(
        self,
        model: Denoiser,
        scheduler: DDIMScheduler,
        examples: TrainingExamples,
        settings: GeneratorTrainingSettings,
        seed: int,
        weights_C: Tensor | None = None,
    ) -> None:
        """Define the task; `weights_C` weighs the latent channels' squared errors and is brought to mean 1."""
        self.model: nn.Module = model
        self.scheduler, self.examples, self.settings, self.seed = scheduler, examples, settings, seed
        self.batch_size = settings.batch_size
        self.weights_C11 = torch.ones(1, 1, 1) if weights_C is None else (weights_C / weights_C.mean())[:, None, None]

    def batch(self, step: int, samples: range) -> dict[str, Tensor]:
        """See `draw_batch`."""
        return draw_batch(self.examples, self.settings, self.seed, step, samples)

    def keys(self, step: int) -> list[str]:
        """Positions of the step's images in the collection."""
        return [f"image {number}" for number in chosen_images(self.examples, self.batch_size, self.seed, step)]

    def memory(self, precision: str) -> MemoryNeed:
        """What a step needs of a GPU's memory."""
        traced = copy(self)
        traced.scheduler = deepcopy(self.scheduler)  # it keeps what it moves to a device
        return trace_memory(
            self.model,
            lambda model, batch: traced.loss(model, batch, 0),
            lambda samples: self.batch(0, range(samples)),
            precision,
            ema=True,
        )

    def loss(self, model: nn.Module, batch: dict[str, Tensor], step: int) -> Tensor:
        """Mean squared error of the noise, of the velocity sqrt(a) noise - sqrt(1 - a) latents, or of the latents themselves."""
        latents, noise, timesteps = batch["latents"], batch["noise"], batch["timesteps"]
        noisy = self.scheduler.add_noise(latents, noise, timesteps)
        match self.settings.prediction_type:
            case "v_prediction":
                target = self.scheduler.get_velocity(latents, noise, timesteps)
            case "sample":
                target = latents
            case "epsilon":
                target = noise
        prediction = model(noisy, timesteps, batch["embeddings"], batch["dropped"])
        squared_BChw = (prediction.float() - target).square()
        self.weights_C11 = self.weights_C11.to(
            squared_BChw.device
        )  # copied once: another copy would wait for the device at each step
        error: Tensor = (squared_BChw * self.weights_C11).mean()
        return error
