"""The self-supervised latent diffusion model (S-LDM) in diffusers parts, as one pipeline that is saved as safetensors.

Source: spec view_generators sections 1 to 3. Shapes: B batch, D embedding width, C channels (3 for images, latent channels for
latents), H W height and width; tokens are (B, T, cross-attention width), T = 1 but for ZoomLDM's condition.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, Self, TypeAlias

import numpy as np
import torch
from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL
from diffusers.models.autoencoders.vq_model import VQModel
from diffusers.models.unets.unet_2d_condition import UNet2DConditionModel
from diffusers.pipelines.pipeline_utils import DiffusionPipeline
from diffusers.schedulers.scheduling_ddim import DDIMScheduler
from diffusers.schedulers.scheduling_dpmsolver_multistep import DPMSolverMultistepScheduler
from diffusers.schedulers.scheduling_unipc_multistep import UniPCMultistepScheduler
from torch import Tensor

from cdgmae.generators.components import check_components
from cdgmae.generators.parts.condition_projector import ConditionProjector
from cdgmae.generators.parts.grid_projector import GridProjector
from cdgmae.generators.parts.patch_autoencoder import PatchAutoencoder

SchedulerName = Literal["ddim", "dpm_solver", "unipc"]
PredictionType = Literal["epsilon", "v_prediction", "sample"]
Autoencoder: TypeAlias = VQModel | AutoencoderKL | PatchAutoencoder
Projector: TypeAlias = ConditionProjector | GridProjector

BETA_KEYS = ("num_train_timesteps", "beta_start", "beta_end", "beta_schedule")
LDM_BETAS = dict(zip(BETA_KEYS, (1000, 0.0015, 0.0195, "scaled_linear"), strict=True))


def noise_schedule(
    name: SchedulerName = "ddim", prediction_type: PredictionType = "epsilon", betas: Mapping[str, Any] = LDM_BETAS
) -> Any:
    """The LDM schedule: 1000 steps, sqrt(beta) linear from sqrt(0.0015) to sqrt(0.0195) (spec section 2).

    Args:
        name: `ddim` visits the published time steps (`set_timesteps`) and ends at alpha_bar[0]; `dpm_solver` is
            DPM-Solver++ of order 2 with Karras' noise levels over the same betas; `unipc` is UniPC of order 2 over these levels.
        prediction_type: What the denoiser predicts.
        betas: The noise levels the denoiser was trained with, by the names of `BETA_KEYS`.

    Raises:
        ValueError: if `name` is none of them.
    """
    common = {**betas, "prediction_type": prediction_type, "steps_offset": 1, "timestep_spacing": "leading"}
    if name == "ddim":
        return DDIMScheduler(**common, clip_sample=False, set_alpha_to_one=False)
    if name == "dpm_solver":
        return DPMSolverMultistepScheduler(**common, algorithm_type="dpmsolver++", solver_order=2, use_karras_sigmas=True)
    if name == "unipc":
        return UniPCMultistepScheduler(**common, solver_order=2, use_karras_sigmas=True)
    raise ValueError(f"scheduler {name!r}; allowed: ddim, dpm_solver, unipc")


def set_timesteps(scheduler: Any, num_inference_steps: int) -> None:
    """Choose a scheduler's time steps, on the CPU: a scalar read from a GPU would wait for it.

    DDIM's are those of the published sampler, t = c i + 1 for all c i below T with c = T // steps (spec section 2): 31 for 30 and 63 for 60 of
    T = 1000. diffusers' `leading` spacing stops after `steps` of them, far from pure noise. Where the last is t = T (300, 999, 1000), past the
    table of noise levels, at which the published sampler fails, the last level stands for it.
    """
    scheduler.set_timesteps(num_inference_steps)
    if not isinstance(scheduler, DDIMScheduler):
        return
    levels = int(scheduler.config["num_train_timesteps"])
    times = np.arange(0, levels, levels // num_inference_steps)[::-1] + 1
    scheduler.timesteps = torch.from_numpy(times)
    if times[0] == len(scheduler.alphas_cumprod):
        scheduler.alphas_cumprod = torch.cat([scheduler.alphas_cumprod, scheduler.alphas_cumprod[-1:]])


def predict(unet: UNet2DConditionModel, noisy_BCHW: Tensor, timesteps: Tensor, tokens_BTD: Tensor) -> Tensor:
    """The denoiser's raw output for condition tokens.

    A U-Net with a class embedding (`unet.condition_in_time`) gets the first token there as well as in its attention layers.
    """
    extra = {"class_labels": tokens_BTD[:, 0]} if unet.config["class_embed_type"] is not None else {}
    output: Tensor = unet(noisy_BCHW, timesteps, encoder_hidden_states=tokens_BTD, return_dict=False, **extra)[0]
    return output


class LatentDiffusionPipeline(DiffusionPipeline):  # type: ignore[misc]
    """Denoiser, first stage, noise schedule and condition projector.

    Load it with `LatentDiffusionPipeline.from_pretrained(folder)`; the conditioning encoder lies outside (spec section 3).
    """

    _optional_components = ["autoencoder"]

    def __init__(
        self, unet: UNet2DConditionModel, scheduler: DDIMScheduler, projector: Projector, autoencoder: Autoencoder | None = None
    ) -> None:
        """Join the parts.

        Args:
            unet: Denoiser; its cross-attention width is the projector's.
            scheduler: Any diffusers scheduler of the noise schedule the denoiser was trained with.
            projector: Embedding -> condition tokens.
            autoencoder: First stage, or None for diffusion on pixels in -1..1.

        Raises:
            ValueError: if the widths differ, or a VQModel's scaling factor was left at diffusers' default.
        """
        super().__init__()
        _check_parts(unet, projector, autoencoder)
        self.register_modules(unet=unet, scheduler=scheduler, projector=projector, autoencoder=autoencoder)

    @classmethod
    def from_pretrained(cls, folder: Any, **options: Any) -> Self:
        """Load a folder written by `save_pretrained`; weights are read from safetensors only.

        Raises:
            ValueError: if the folder names or holds anything but the known components (`check_components`).
        """
        check_components(Path(folder))
        pipeline: Self = super().from_pretrained(folder, **{**options, "use_safetensors": True})
        return pipeline

    def save_pretrained(self, folder: Any, **options: Any) -> None:
        """Write the folder (diffusers layout); weights as safetensors only."""
        super().save_pretrained(folder, **{**options, "safe_serialization": True})

    @property
    def scaling_factor(self) -> float:
        """What the first stage's output is multiplied with to give latents."""
        return 1.0 if self.autoencoder is None else float(self.autoencoder.config["scaling_factor"])

    @property
    def latent_channels(self) -> int:
        """Channels of the latents."""
        return int(self.unet.config["in_channels"])

    def set_scheduler(self, name: SchedulerName) -> None:
        """Sample with this solver from now on; the betas and the prediction type stay."""
        config = self.scheduler.config
        betas = {key: config[key] for key in BETA_KEYS}
        self.register_modules(scheduler=noise_schedule(name, config["prediction_type"], betas))

    def condition(self, embeddings_BD: Tensor) -> Tensor:
        """Condition tokens (B, T, width) of raw encoder embeddings."""
        tokens: Tensor = self.projector(embeddings_BD)
        return tokens

    def null_tokens(self, batch: int) -> Tensor:
        """Tokens (batch, T, width) of "no condition".

        Raises:
            ValueError: if the denoiser was never trained without its condition (RCG).
        """
        tokens: Tensor = self.projector.null_tokens(batch)
        return tokens

    @torch.no_grad()
    def sample_latents(
        self,
        embeddings_BD: Tensor,
        initial_latents_BCHW: Tensor,
        num_inference_steps: int,
        guidance_scale: float,
        eta: float = 0.0,
        *,
        generators: Sequence[torch.Generator] | None = None,
        between_steps: Callable[[], None] = lambda: None,
    ) -> Tensor:
        """Denoise standard normal latents under the embeddings' conditions.

        The U-Net computes in its own dtype, the scheduler in that of the latents, and nothing waits for the device between two steps.

        Args:
            embeddings_BD: Raw encoder embeddings.
            initial_latents_BCHW: x_T, standard normal, best in fp32.
            num_inference_steps: Steps asked of the scheduler (`set_timesteps`).
            guidance_scale: s in e_u + s (e_c - e_u); 1 evaluates the conditional rows only.
            eta: DDIM's noise share; 0 makes the result a function of x_T and the embedding.
            generators: One generator per row for the noise of eta > 0.
            between_steps: Called after every step; may raise to stop.

        Raises:
            ValueError: if eta > 0 and the scheduler is not DDIM, or guidance is asked of a generator without null condition.
        """
        if eta and not isinstance(self.scheduler, DDIMScheduler):
            raise ValueError(f"eta = {eta} belongs to the DDIM scheduler; {type(self.scheduler).__name__} has none, use 0")
        tokens = self.condition(embeddings_BD)
        if guidance_scale != 1:
            tokens = torch.cat([self.null_tokens(len(tokens)).to(tokens.dtype), tokens])
        tokens = tokens.to(self.unet.dtype)
        set_timesteps(self.scheduler, num_inference_steps)
        last_level = self.scheduler.config["num_train_timesteps"] - 1
        timesteps_S = self.scheduler.timesteps.clamp(max=last_level).to(initial_latents_BCHW.device)
        extra = {"eta": eta, "generator": list(generators) if generators is not None else None} if eta else {}
        latents: Tensor = initial_latents_BCHW * self.scheduler.init_noise_sigma
        for step, timestep in enumerate(self.scheduler.timesteps):
            model_input = self.scheduler.scale_model_input(latents, timestep)
            prediction = self._guided_prediction(model_input, timesteps_S[step], tokens, guidance_scale)
            latents = self.scheduler.step(prediction, timestep, latents, return_dict=False, **extra)[0]
            between_steps()
        return latents

    def _guided_prediction(self, latents_BCHW: Tensor, timestep: Tensor, tokens: Tensor, guidance_scale: float) -> Tensor:
        rows = len(tokens) // len(latents_BCHW)
        repeated = torch.cat([latents_BCHW] * rows) if rows > 1 else latents_BCHW
        output = predict(self.unet, repeated.to(tokens.dtype), timestep, tokens).to(latents_BCHW.dtype)
        if rows == 1:
            conditional: Tensor = output
            return conditional
        e_u, e_c = output.chunk(2)
        guided: Tensor = e_u + guidance_scale * (e_c - e_u)
        return guided

    @torch.no_grad()
    def encode(self, images_BCHW: Tensor) -> Tensor:
        """Latents of images in -1..1: scaled, not quantised, a KL stage's mean."""
        stage: Any = self.autoencoder
        if stage is None:
            return images_BCHW
        if isinstance(stage, PatchAutoencoder):
            latents = stage.encode(images_BCHW)
        elif isinstance(stage, VQModel):
            latents = stage.encode(images_BCHW).latents
        else:
            latents = stage.encode(images_BCHW).latent_dist.mode()
        scaled: Tensor = (latents - _shift(stage)) * self.scaling_factor
        return scaled

    @torch.no_grad()
    def decode(self, latents_BCHW: Tensor) -> Tensor:
        """What the first stage makes of scaled latents, nominally in -1..1; a VQ stage quantises to its codebook first.

        A learned stage's decoder computes in its own dtype; the search in the codebook keeps that of the latents, which decides ties.
        """
        stage: Any = self.autoencoder
        if stage is None:
            return latents_BCHW
        unscaled = latents_BCHW / self.scaling_factor + _shift(stage)
        images: Tensor
        if isinstance(stage, PatchAutoencoder):
            images = stage.decode(unscaled)
            return images
        dtype = next(stage.decoder.parameters()).dtype
        if isinstance(stage, VQModel):
            codes = stage.quantize(unscaled)[0].to(dtype)
            images = stage.decoder(stage.post_quant_conv(codes), codes if stage.config.norm_type == "spatial" else None)
        else:
            images = stage.decode(unscaled.to(dtype)).sample
        return images.to(latents_BCHW.dtype)

    def images(self, latents_BCHW: Tensor) -> Tensor:
        """Images in 0..1 from scaled latents: `decode`, brought to 0..1 and cut there."""
        return ((self.decode(latents_BCHW) + 1) / 2).clamp(0, 1)


def _shift(stage: Any) -> float:
    return float(stage.config.get("shift_factor") or 0.0)


def _check_parts(unet: UNet2DConditionModel, projector: Projector, autoencoder: Autoencoder | None) -> None:
    wanted, given = unet.config["cross_attention_dim"], projector.config["cross_attention_dim"]
    if wanted != given:
        raise ValueError(f"the projector's tokens are {given} wide, the denoiser attends to {wanted}; build both with one width")
    if autoencoder is None:
        return
    channels = autoencoder.config.get("vq_embed_dim") or autoencoder.config["latent_channels"]
    if channels != unet.config["in_channels"]:
        raise ValueError(f"the first stage has {channels} latent channels, the denoiser takes {unet.config['in_channels']}")
    # diffusers gives a VQModel 0.18215 by default, which belongs to Stable Diffusion's KL stage and would silently be wrong here
    if isinstance(autoencoder, VQModel) and "scaling_factor" in autoencoder.config.get("_use_default_values", []):
        raise ValueError("the VQModel's scaling_factor was not given; LDM's VQ stages use scaling_factor=1.0, say so explicitly")
