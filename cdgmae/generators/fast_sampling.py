"""Sampling latents with everything computed once that can be, and with the approximations that were asked for.

`LatentDiffusionPipeline.sample_latents` is the plain loop that this is held against.

Shapes: B batch, C latent channels, h w latent height and width, D embedding width.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from cdgmae.generators.fast_denoiser import Conditions, FastDenoiser
from cdgmae.generators.pipeline import LatentDiffusionPipeline


@dataclass(frozen=True, slots=True)
class SamplingPlan:
    """How latents are drawn.

    Attributes:
        num_inference_steps: Steps of the scheduler.
        guidance_scale: s in e_u + s (e_c - e_u); 1 runs the conditional rows only.
        eta: DDIM's noise share.
        guidance_interval: Guidance acts at steps whose t / 1000 lies in this closed interval; other steps run the conditional
            rows only (arXiv 2404.07724). (0, 1) is the plain loop.
        reuse_interval: Deep features are computed at every n-th step and used again in between; 1 is the plain loop.
    """

    num_inference_steps: int
    guidance_scale: float
    eta: float = 0.0
    guidance_interval: tuple[float, float] = (0.0, 1.0)
    reuse_interval: int = 1


@torch.no_grad()
def sample_latents_fast(
    pipeline: LatentDiffusionPipeline,
    denoiser: FastDenoiser,
    embeddings_BD: Tensor,
    initial_latents_BChw: Tensor,
    plan: SamplingPlan,
    *,
    generators: Sequence[torch.Generator] | None = None,
    between_steps: Callable[[], None] = lambda: None,
) -> Tensor:
    """Denoise standard normal latents: `pipeline.sample_latents` with less work.

    Args:
        pipeline: Gives conditions and the scheduler.
        denoiser: Its U-Net.
        embeddings_BD: Raw encoder embeddings.
        initial_latents_BChw: x_T, standard normal, fp32; the scheduler's arithmetic keeps this dtype.
        plan: Steps, guidance and approximations.
        generators: One generator per row for the noise of eta > 0.
        between_steps: Called after every step; may raise to stop.
    """
    scheduler, device = pipeline.scheduler, initial_latents_BChw.device
    scheduler.set_timesteps(plan.num_inference_steps)  # on the CPU: its scalars then never wait for the device
    tokens, guided = pipeline.condition(embeddings_BD), plan.guidance_scale != 1
    if guided:
        tokens = torch.cat([pipeline.null_tokens(len(tokens)).to(tokens.dtype), tokens])
    timesteps = [float(timestep) for timestep in scheduler.timesteps]
    run = _Steps(denoiser, denoiser.conditions(tokens, torch.tensor(timesteps, device=device)), plan, len(embeddings_BD), guided)
    extra: dict[str, Any] = {"eta": plan.eta, "generator": list(generators) if generators is not None else None}
    last_t = float(scheduler.config["num_train_timesteps"])
    latents: Tensor = initial_latents_BChw * scheduler.init_noise_sigma
    for step, timestep in enumerate(scheduler.timesteps):
        prediction = run.predict(scheduler.scale_model_input(latents, timestep), step, timesteps[step] / last_t)
        latents = scheduler.step(prediction, timestep, latents, return_dict=False, **(extra if plan.eta else {}))[0]
        between_steps()
    return latents


class _Steps:
    """The guided prediction of each step of one batch."""

    def __init__(self, denoiser: FastDenoiser, conditions: Conditions, plan: SamplingPlan, batch: int, guided: bool) -> None:
        self.denoiser, self.plan, self.guided = denoiser, plan, guided
        self.both, self.conditional = conditions, conditions.rows(batch) if guided else conditions
        self.deep: Tensor | None = None
        self.computed_at = 0

    def predict(self, latents_BChw: Tensor, step: int, time: float) -> Tensor:
        """Prediction (B, C, h, w) in the latents' dtype; `time` is t / 1000."""
        lower, upper = self.plan.guidance_interval
        if not (self.guided and lower <= time <= upper):
            return self._run(latents_BChw, self.conditional, step, len(latents_BChw))
        e_u, e_c = self._run(latents_BChw, self.both, step, 2 * len(latents_BChw)).chunk(2)
        guided: Tensor = e_u + self.plan.guidance_scale * (e_c - e_u)
        return guided

    def _run(self, latents_BChw: Tensor, conditions: Conditions, step: int, rows: int) -> Tensor:
        if self.deep is not None and len(self.deep) == rows and step - self.computed_at < self.plan.reuse_interval:
            output = self.denoiser.shallow(latents_BChw, conditions, step, self.deep)
        else:
            output, deep = self.denoiser.full(latents_BChw, conditions, step)
            self.deep, self.computed_at = (deep if self.plan.reuse_interval > 1 else None), step
        return output.to(latents_BChw.dtype)
