"""Dropout whose draws belong to the sample, not to the batch.

With ordinary dropout, what a sample loses depends on where it sits in which batch. Here every sample brings its own seed, so a
batch gives the same loss and gradients however it is split over processes or accumulation steps.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

LEVELS = 1 << 16
"""A draw has 16 bits (four per 64-bit random number), so rates are met to within 1/131072."""


class SampleDropout:
    """The stream of dropout draws of every sample of one forward pass; each call of `multiplier` takes the next ones."""

    def __init__(self, seeds_B: Tensor) -> None:
        """Start one stream per sample.

        Args:
            seeds_B: One 63-bit seed per sample, int64.
        """
        self._generators = [torch.Generator().manual_seed(seed) for seed in seeds_B.tolist()]

    @torch.compiler.disable  # type: ignore[untyped-decorator]
    def multiplier(self, values: Tensor, rate: float) -> Tensor:
        """What to multiply `values` (B, ...) with: 0 with probability `rate`, else what keeps the mean.

        Draws are made on the CPU, where a generator per sample is cheap, and moved to the device of `values`.
        """
        dropped_levels = round(rate * LEVELS)
        multiplier = torch.empty(values.shape, dtype=torch.float32)
        draws_per_sample = math.prod(values.shape[1:])
        for row, generator in zip(multiplier.flatten(1), self._generators, strict=True):
            words = torch.empty(math.ceil(draws_per_sample / 4), dtype=torch.int64).random_(-(2**63), None, generator=generator)
            levels = words.view(torch.int16)[:draws_per_sample]
            torch.ge(levels, dropped_levels - LEVELS // 2, out=row)
        return multiplier.mul_(LEVELS / (LEVELS - dropped_levels)).to(values.device, values.dtype)
