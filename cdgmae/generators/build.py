"""An untrained generator with the configured sizes."""

from __future__ import annotations

from typing import TypeAlias

import torch
from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL
from diffusers.models.autoencoders.vq_model import VQModel
from diffusers.models.resnet import ResnetBlock2D
from diffusers.models.transformers.transformer_2d import Transformer2DModel
from diffusers.models.unets.unet_2d_condition import UNet2DConditionModel
from torch import Tensor, nn

from cdgmae.generators.parts.condition_projector import ConditionProjector
from cdgmae.generators.parts.first_stage import downsampling, latent_channels
from cdgmae.generators.parts.patch_autoencoder import PatchAutoencoder
from cdgmae.generators.pipeline import LatentDiffusionPipeline, noise_schedule
from cdgmae.runtime.seeds import integer_seed
from cdgmae.settings.views import GeneratorTrainingSettings, UNetSettings

RESNET_TIME = {"shift": "default", "scale_shift": "scale_shift"}
FirstStage: TypeAlias = PatchAutoencoder | VQModel | AutoencoderKL | None


def build_pipeline(
    settings: GeneratorTrainingSettings, embedding_dim: int, autoencoder: FirstStage, seed: int
) -> LatentDiffusionPipeline:
    """An untrained generator around a first stage, its weights drawn from `seed`.

    Raises:
        ValueError: if the image's side does not fit the first stage and the U-Net.
    """
    cell, channels = latent_cell(autoencoder)
    factor = cell * 2 ** (len(settings.unet.block_out_channels) - 1)
    if settings.image_size % factor:
        raise ValueError(
            f"image_size = {settings.image_size} is not a multiple of {factor} (latent cell {cell} x U-Net downsampling {factor // cell})"
        )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(integer_seed(seed, "views/weights", 0))
        unet = build_unet(settings.unet, channels, settings.image_size // cell)
        projector = ConditionProjector(
            embedding_dim, settings.unet.cross_attention_dim, settings.null_condition, settings.condition_normalisation
        )
    return LatentDiffusionPipeline(unet, noise_schedule("ddim", settings.prediction_type), projector, autoencoder)


def build_unet(settings: UNetSettings, channels: int, latent_size: int) -> UNet2DConditionModel:
    """The denoiser for latents (channels, latent_size, latent_size); the default settings are LDM-4's."""
    attends = [level in settings.attention_levels for level in range(len(settings.block_out_channels))]
    width = settings.cross_attention_dim
    embedded = {"class_embed_type": "simple_projection", "projection_class_embeddings_input_dim": width}
    unet = UNet2DConditionModel(
        sample_size=latent_size, in_channels=channels, out_channels=channels,
        block_out_channels=tuple(settings.block_out_channels), layers_per_block=settings.layers_per_block,
        down_block_types=tuple("CrossAttnDownBlock2D" if yes else "DownBlock2D" for yes in attends),
        up_block_types=tuple("CrossAttnUpBlock2D" if yes else "UpBlock2D" for yes in reversed(attends)),
        cross_attention_dim=width,
        attention_head_dim=settings.num_heads,  # the library's name for the NUMBER of heads (spec section 3)
        norm_num_groups=_norm_groups(settings.block_out_channels),
        resnet_time_scale_shift=RESNET_TIME[settings.time_embedding],
        **(embedded if settings.condition_in_time else {}),
    )  # fmt: skip
    _start_branches_at_zero(unet)
    return unet


def latent_cell(autoencoder: FirstStage) -> tuple[int, int]:
    """Pixels per side of a latent cell, and channels of the latents."""
    if autoencoder is None:
        return 1, 3
    if isinstance(autoencoder, PatchAutoencoder):
        return int(autoencoder.config["patch_size"]), int(autoencoder.config["latent_channels"])
    return downsampling(autoencoder), latent_channels(autoencoder)


def component_weights(autoencoder: FirstStage, power: float) -> Tensor | None:
    """Weights (C,) of the latent channels in the loss, spread^power; None if all weigh alike."""
    return autoencoder.spread_L.detach().cpu() ** power if power and isinstance(autoencoder, PatchAutoencoder) else None


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
