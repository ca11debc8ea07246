"""Learning-rate schedule and weight-decay groups (spec cross_view_mae 2.2)."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Literal

from torch import nn


@dataclass(frozen=True, slots=True)
class LoopSettings:
    """What the training loop needs to know; see `train`.

    Attributes:
        num_steps: Optimiser steps in all.
        learning_rate: Peak learning rate, reached after warm-up.
        min_learning_rate: End of the cosine.
        warmup_steps: Linear warm-up from 0, in (possibly fractional) steps.
        schedule: `cosine` from the peak to the minimum, or `constant` at the peak.
        weight_decay: AdamW's decoupled decay, on matrices and tokens only.
        betas: AdamW's momentum terms.
        clip_grad_norm: Largest global gradient norm, or None.
        ema_decay: Decay of the moving average of the weights, or None for none.
        max_loss_ratio: A loss over this many times the mean of the 100 before it stops the training; None accepts any finite loss.
    """

    num_steps: int
    learning_rate: float
    min_learning_rate: float = 0.0
    warmup_steps: float = 0
    schedule: Literal["cosine", "constant"] = "cosine"
    weight_decay: float = 0.0
    betas: tuple[float, float] = (0.9, 0.999)
    clip_grad_norm: float | None = None
    ema_decay: float | None = None
    max_loss_ratio: float | None = None


def learning_rate(step: int, settings: LoopSettings) -> float:
    """Learning rate of the 0-based `step`, to be set *before* the step is taken.

    The published CropMAE code sets it after, so that its first step runs at the peak; that is not repeated here.
    """
    peak, low, warmup = settings.learning_rate, settings.min_learning_rate, settings.warmup_steps
    if step < warmup:
        return peak * step / warmup
    if settings.schedule == "constant":
        return peak
    progress = (step - warmup) / max(settings.num_steps - warmup, 1e-9)
    return low + (peak - low) * 0.5 * (1 + math.cos(math.pi * progress))


def parameter_groups(model: nn.Module, weight_decay: float) -> list[dict[str, Any]]:
    """Two AdamW groups: vectors and biases without decay, everything else with it; frozen parameters are left out.

    CLS and mask tokens have three dimensions and are decayed, as in the published recipe.
    """
    trained = [(name, parameter) for name, parameter in model.named_parameters() if parameter.requires_grad]
    plain = [parameter for name, parameter in trained if parameter.ndim <= 1 or name.endswith(".bias")]
    decayed = [parameter for name, parameter in trained if not (parameter.ndim <= 1 or name.endswith(".bias"))]
    return [{"params": plain, "weight_decay": 0.0}, {"params": decayed, "weight_decay": weight_decay}]
