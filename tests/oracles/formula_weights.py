"""Weights and inputs as formulas of (seed, key, shape), in which the published implementations' golden numbers were taken."""

from __future__ import annotations

import zlib

import numpy as np
import torch
from torch import Tensor


def _source(seed: int, name: str) -> np.random.Generator:
    return np.random.default_rng([seed, zlib.crc32(name.encode())])


def formula_tensor(seed: int, key: str, shape: tuple[int, ...]) -> Tensor:
    """A standard normal, scaled by the kind of parameter: matrices by 1/sqrt(fan-in), tokens 0.5, norm weights 1 + 0.1 n, rest 0.1 n."""
    values = torch.from_numpy(_source(seed, key).standard_normal(shape).astype(np.float32))
    if key.endswith("token"):
        return values * 0.5
    if len(shape) >= 2:
        return values / float(np.sqrt(np.float32(np.prod(shape[1:]))))
    if "norm" in key and key.endswith("weight"):
        return 1.0 + 0.1 * values
    return 0.1 * values


def formula_normal(seed: int, name: str, shape: tuple[int, ...]) -> Tensor:
    """Standard normal input."""
    return torch.from_numpy(_source(seed, name).standard_normal(shape).astype(np.float32))


def formula_uniform(seed: int, name: str, shape: tuple[int, ...]) -> Tensor:
    """Uniform [0, 1) input."""
    return torch.from_numpy(_source(seed, name).random(shape).astype(np.float32))
