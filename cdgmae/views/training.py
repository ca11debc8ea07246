"""Training of a small latent diffusion model on this project's own shards: Gen-SIS's recipe (spec view_generators 1.3).

Shapes: B batch, C channels, h w latent height and width, D embedding width.
"""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import torch
from diffusers.models.resnet import ResnetBlock2D
from diffusers.models.transformers.transformer_2d import Transformer2DModel
from diffusers.models.unets.unet_2d_condition import UNet2DConditionModel
from diffusers.schedulers.scheduling_ddim import DDIMScheduler
from torch import Tensor, nn

from cdgmae import __version__
from cdgmae.models.condition_projector import ConditionProjector
from cdgmae.models.encoders import load_encoder
from cdgmae.models.latent_diffusion import LatentDiffusionPipeline, noise_schedule, predict
from cdgmae.models.patch_autoencoder import PatchAutoencoder
from cdgmae.runtime.seeds import integer_seed
from cdgmae.settings.views import GeneratorTrainingSettings
from cdgmae.storage.atomic import atomic_folder
from cdgmae.storage.picture_shards import index_path
from cdgmae.storage.tables import file_sha256, write_table
from cdgmae.training.loop import TrainingResult, train
from cdgmae.training.machine import Machine
from cdgmae.training.metrics import METRICS_SCHEMA
from cdgmae.training.schedule import LoopSettings
from cdgmae.views.examples import (
    TrainingExamples,
    chosen_pictures,
    compute_embeddings,
    compute_latents,
    draw_batch,
    fit_autoencoder,
)
from cdgmae.views.generator_folder import write_generator
from cdgmae.views.pictures import PictureCollection

METRICS_FILE = "metrics.parquet"
RESNET_TIME = {"shift": "default", "scale_shift": "scale_shift"}


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
        """The rows `samples` of `draw_batch`."""
        drawn = draw_batch(self.examples, self.settings, self.seed, step)
        return {name: tensor[samples.start : samples.stop] for name, tensor in drawn.items()}

    def keys(self, step: int) -> list[str]:
        """Positions of the step's pictures in the collection."""
        count = self.examples.latents_FNChw.shape[1]
        return [f"picture {number}" for number in chosen_pictures(count, self.batch_size, self.seed, step)]

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
        error: Tensor = (squared_BChw * self.weights_C11.to(squared_BChw.device)).mean()
        return error


def train_generator(
    settings: GeneratorTrainingSettings,
    seed: int,
    shard_tars: list[Path],
    encoder_reference: str,
    output: Path,
    work_dir: Path,
    machine: Machine,
) -> dict[str, Any]:
    """Train a generator and write its folder.

    Args:
        settings: What to train.
        seed: Root of every random draw.
        shard_tars: Picture shards of the data set.
        encoder_reference: Frozen conditioning encoder, as for `load_encoder`.
        output: The generator folder; appears whole or not at all.
        work_dir: Training state; found again after an interruption and removed at the end.
        machine: How to run here.

    Returns:
        Facts: folder, digest, steps, pictures, parameters, final loss (mean of the last tenth of the steps).

    Raises:
        Interrupted: after a signal, with the state saved.
        ValueError: if the shards hold no usable picture or the loss is not finite.
    """
    device = machine.device
    pictures, encoder = PictureCollection(shard_tars), load_encoder(encoder_reference, device=device)
    embeddings = compute_embeddings(pictures, encoder, settings, device)
    pipeline = build_pipeline(settings, encoder.embed_dim, fit_autoencoder(pictures, settings), seed)
    if settings.whiten_condition:
        pipeline.projector.whiten(embeddings.flatten(0, 1))
    examples = TrainingExamples(compute_latents(pictures, pipeline.to(device), settings, device), embeddings)
    inputs = {str(index_path(path)): file_sha256(index_path(path)) for path in shard_tars}
    weights_C = component_weights(pipeline.autoencoder, settings.spread_weighting)
    model = Denoiser(pipeline.unet, pipeline.projector).cpu()
    task = GeneratorTask(model, pipeline.scheduler, examples, settings, seed, weights_C)
    result = train(
        task, _loop_settings(settings), seed=seed, work_dir=work_dir, machine=machine, label="generator",
        identity=f"{settings.digest()}|{encoder.digest}|{sorted(inputs.values())}",
    )  # fmt: skip
    provenance = {"version": __version__, "seed": seed, "settings": settings.model_dump(mode="json"), "inputs": inputs}
    facts = _write(output, pipeline.to("cpu"), result, settings, encoder_reference, encoder.digest, provenance)
    shutil.rmtree(work_dir, ignore_errors=True)
    losses = result.metrics["loss"].to_pylist()
    tail = losses[-max(1, len(losses) // 10) :]
    parameters = sum(parameter.numel() for parameter in pipeline.unet.parameters())
    return {
        "output": str(output), "digest": facts, "steps": len(losses), "pictures": len(pictures),
        "parameters": parameters, "final_loss": sum(tail) / len(tail),
    }  # fmt: skip


def build_pipeline(
    settings: GeneratorTrainingSettings, embedding_dim: int, autoencoder: PatchAutoencoder | None, seed: int
) -> LatentDiffusionPipeline:
    """An untrained generator with the configured sizes, its weights drawn from `seed`."""
    cell = 1 if autoencoder is None else settings.autoencoder.patch_size
    channels = 3 if autoencoder is None else settings.autoencoder.latent_channels
    levels = range(len(settings.unet.block_out_channels))
    attends = [level in settings.unet.attention_levels for level in levels]
    width = settings.unet.cross_attention_dim
    embedded = {"class_embed_type": "simple_projection", "projection_class_embeddings_input_dim": width}
    time_condition = embedded if settings.unet.condition_in_time else {}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(integer_seed(seed, "views/weights", 0))
        unet = UNet2DConditionModel(
            sample_size=settings.image_size // cell, in_channels=channels, out_channels=channels,
            block_out_channels=tuple(settings.unet.block_out_channels), layers_per_block=settings.unet.layers_per_block,
            down_block_types=tuple("CrossAttnDownBlock2D" if yes else "DownBlock2D" for yes in attends),
            up_block_types=tuple("CrossAttnUpBlock2D" if yes else "UpBlock2D" for yes in reversed(attends)),
            cross_attention_dim=width,
            attention_head_dim=settings.unet.num_heads,  # the library's name for the NUMBER of heads (spec section 3)
            norm_num_groups=_norm_groups(settings.unet.block_out_channels),
            resnet_time_scale_shift=RESNET_TIME[settings.unet.time_embedding],
            **time_condition,
        )  # fmt: skip
        _start_branches_at_zero(unet)
        projector = ConditionProjector(embedding_dim, width, settings.null_condition)
    return LatentDiffusionPipeline(unet, noise_schedule("ddim", settings.prediction_type), projector, autoencoder)


def component_weights(autoencoder: PatchAutoencoder | None, power: float) -> Tensor | None:
    """Weights (C,) of the latent channels in the loss, spread^power; None if all weigh alike."""
    return None if autoencoder is None or power == 0 else autoencoder.spread_L.detach().cpu() ** power


def _start_branches_at_zero(unet: UNet2DConditionModel) -> None:
    """LDM's initialisation: the last layer of every residual branch, and of the whole network, starts at zero."""
    last = [unet.conv_out]
    last += [module.conv2 for module in unet.modules() if isinstance(module, ResnetBlock2D)]
    last += [module.proj_out for module in unet.modules() if isinstance(module, Transformer2DModel)]
    for layer in last:
        nn.init.zeros_(layer.weight)
        nn.init.zeros_(layer.bias)


def _norm_groups(channels: list[int]) -> int:
    """The largest number of groups up to LDM's 32 that divides every level's channels."""
    return next(groups for groups in range(32, 0, -1) if all(width % groups == 0 for width in channels))


def _loop_settings(settings: GeneratorTrainingSettings) -> LoopSettings:
    return LoopSettings(
        num_steps=settings.num_steps, learning_rate=settings.learning_rate, warmup_steps=settings.warmup_steps,
        schedule=settings.schedule, weight_decay=settings.weight_decay, ema_decay=settings.ema_decay,
    )  # fmt: skip


def _write(
    output: Path,
    pipeline: LatentDiffusionPipeline,
    result: TrainingResult,
    settings: GeneratorTrainingSettings,
    encoder_reference: str,
    encoder_digest: str,
    provenance: dict[str, Any],
) -> str:
    """Put the averaged weights into the pipeline and write the folder; returns the generator's digest."""
    averaged = Denoiser(pipeline.unet, pipeline.projector)
    averaged.load_state_dict(result.ema_state or result.model.state_dict())
    with atomic_folder(output) as folder:
        facts = write_generator(
            folder, pipeline, encoder_reference, encoder_digest, image_size=settings.image_size,
            encoder_image_size=settings.encoder_image_size, provenance=provenance,
        )  # fmt: skip
        write_table(folder / METRICS_FILE, result.metrics, METRICS_SCHEMA, settings_digest=settings.digest())
    return facts.digest
