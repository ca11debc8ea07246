"""The cross-view MAE objective on batches of bags, as a task for the training loop."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from cdgmae.models.cross_view_mae import CrossViewMAE
from cdgmae.pretrain.batches import BagBatches
from cdgmae.pretrain.reconstruction import reconstruct
from cdgmae.pretrain.run_memory import run_memory
from cdgmae.runtime.seeds import integer_seed
from cdgmae.settings.pretrain import PretrainRunSettings
from cdgmae.training.schedule import LoopSettings
from cdgmae.training.traced_memory import MemoryNeed

LR_REFERENCE_BATCH = 256
"""Bags per step to which `base_learning_rate` refers."""


class PretrainTask:
    """Reconstruct masked targets from anchors; see `cdgmae.training.loop.TrainingTask`."""

    def __init__(self, batches: BagBatches, model: CrossViewMAE, *, compiled: bool = False) -> None:
        """As `runtime.compile`, `compiled` is what becomes of the views' filters; the loop compiles the model."""
        self.batches, self.batch_size, self.compiled = batches, batches.batch_size, compiled
        self.model: nn.Module = model

    def batch(self, step: int, samples: range) -> dict[str, Tensor]:
        """See `BagBatches.batch`."""
        return self.batches.batch(step, samples)

    def loss(self, model: nn.Module, batch: dict[str, Tensor], step: int) -> Tensor:
        """Reconstruction loss; the images are finished on the device."""
        return reconstruct(model, batch, self.batches.settings.image_size, compiled=self.compiled).loss

    def keys(self, step: int) -> list[str]:
        """Keys of the bags in the global batch of a step."""
        return self.batches.bag_keys(step)

    def memory(self, precision: str) -> MemoryNeed:
        """What a step needs of a GPU's memory."""
        return run_memory(self.batches.settings, precision)


def build_model(settings: PretrainRunSettings, seed: int) -> CrossViewMAE:
    """The untrained model of a run; its weights depend on the seed alone."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(integer_seed(seed, "pretrain", "weights"))
        model = CrossViewMAE.from_settings(settings)
    if settings.num_anchors == 0:
        for block in model.decoder_blocks:  # without anchors the cross-attention is left out and gets no gradient
            block.multihead_attn.requires_grad_(False)
            block.norm2.requires_grad_(False)
    return model


def loop_settings(settings: PretrainRunSettings, steps_per_epoch: int) -> LoopSettings:
    """Schedule of a run: peak = base_learning_rate * effective_batch_size / 256 (spec cross_view_mae 2.2)."""
    return LoopSettings(
        num_steps=steps_per_epoch * settings.epochs,
        learning_rate=settings.base_learning_rate * settings.effective_batch_size / LR_REFERENCE_BATCH,
        min_learning_rate=settings.min_learning_rate,
        warmup_steps=settings.warmup_epochs * steps_per_epoch,
        weight_decay=settings.weight_decay,
        betas=settings.betas,
        clip_grad_norm=settings.clip_grad_norm,
        ema_decay=settings.ema_decay,
        max_loss_ratio=settings.max_loss_ratio,
    )
