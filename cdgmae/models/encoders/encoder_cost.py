"""What a frozen encoder costs: patch size, parameters, and operations of one image."""

from __future__ import annotations

import copy
from dataclasses import dataclass

import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from cdgmae.models.encoders.frozen_encoder import Encoder

IMAGE_SIDE = 224


@dataclass(frozen=True, slots=True)
class EncoderCost:
    """Of one encoder.

    Attributes:
        patch_size: Side of a patch in pixels.
        parameters: Number of weights.
        gflops: 10^9 floating-point operations of all matrix products for one image of about 224x224 pixels (the largest multiple of the
            patch size below it); a multiply-accumulate is two.
    """

    patch_size: int
    parameters: int
    gflops: float


def encoder_cost(encoder: Encoder) -> EncoderCost:
    """Count, without computing anything: the network runs once on tensors without values.

    Args:
        encoder: As loaded; layers in oneDNN's layout cannot be counted.
    """
    shell = copy.deepcopy(encoder).to("meta")
    side = max(1, IMAGE_SIDE // encoder.patch_size) * encoder.patch_size
    with torch.inference_mode(), FlopCounterMode(display=False) as counter, sdpa_kernel(SDPBackend.MATH):
        shell.shape_tokens(torch.empty(1, 3, side, side, device="meta"))
    parameters = sum(parameter.numel() for parameter in encoder.parameters())
    return EncoderCost(encoder.patch_size, parameters, counter.get_total_flops() / 1e9)
