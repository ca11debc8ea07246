"""What the training loop asks of what it trains."""

from __future__ import annotations

from typing import Protocol

from torch import Tensor, nn

from cdgmae.training.loader import BatchSource
from cdgmae.training.traced_memory import MemoryNeed


class TrainingTask(BatchSource, Protocol):
    """What is trained: a model, its batches and its loss."""

    model: nn.Module

    def loss(self, model: nn.Module, batch: dict[str, Tensor], step: int) -> Tensor:
        """The scalar loss, a mean over the samples of a batch that is already on the device; torch's generators are seeded."""

    def keys(self, step: int) -> list[str]:
        """Names of the samples in the global batch of a step, for error reports."""

    def memory(self, precision: str) -> MemoryNeed:
        """What a step needs of a GPU's memory."""
