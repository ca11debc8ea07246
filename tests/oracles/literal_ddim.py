"""DDIM as written in spec view_generators section 2, one number at a time, in float64."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor


def alpha_bars() -> list[float]:
    """Products of 1 - beta_t, beta_t = linspace(sqrt(0.0015), sqrt(0.0195), 1000)^2."""
    low, high, product, result = math.sqrt(0.0015), math.sqrt(0.0195), 1.0, []
    for t in range(1000):
        product *= 1.0 - (low + (high - low) * t / 999) ** 2
        result.append(product)
    return result


def ddim_timesteps(steps: int) -> list[int]:
    """One more than 0, c, 2c, ... below 1000 with c = 1000 // steps, largest first; there may be more than `steps` of them."""
    times, t = [], 0
    while t < 1000:
        times.append(t + 1)
        t += 1000 // steps
    return times[::-1]


def literal_ddim(guided_epsilon: Callable[[Tensor, int], Tensor], x_T: Tensor, steps: int) -> Tensor:
    """Denoise with eta = 0; `guided_epsilon(x, t)` is e_u + s (e_c - e_u). Time 1000, which has no level, has that of 999."""
    alphas, times, x = alpha_bars(), ddim_timesteps(steps), x_T.double()
    alphas.append(alphas[999])
    for i, t in enumerate(times):
        a = alphas[t]
        following = alphas[times[i + 1]] if i + 1 < len(times) else alphas[0]
        e = guided_epsilon(x, min(t, 999))
        x0 = (x - math.sqrt(1 - a) * e) / math.sqrt(a)
        x = math.sqrt(following) * x0 + math.sqrt(1 - following) * e
    return x


def epsilon_of_sample(x0: Tensor, x: Tensor, t: int) -> Tensor:
    """x = sqrt(a) x0 + sqrt(1 - a) e solved for e."""
    a = torch.tensor(alpha_bars()[t], dtype=torch.float64)
    return (x - a.sqrt() * x0) / (1 - a).sqrt()


def epsilon_of_velocity(v: Tensor, x: Tensor, t: int) -> Tensor:
    """v = sqrt(a) e - sqrt(1 - a) x0 and x = sqrt(a) x0 + sqrt(1 - a) e give e = sqrt(a) v + sqrt(1 - a) x."""
    a = torch.tensor(alpha_bars()[t], dtype=torch.float64)
    return a.sqrt() * v + (1 - a).sqrt() * x
