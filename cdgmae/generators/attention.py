"""How a generator's attention layers compute while views are drawn: diffusers' attention processors, chosen per layer and device.

Shapes: R rows, N positions, T condition tokens, C channels, H heads.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal, TypeAlias

import torch
from diffusers.models.attention_processor import Attention, AttnProcessor, AttnProcessor2_0, SlicedAttnProcessor
from torch import Tensor, nn

Kernel = Literal["fused", "products"]
KernelRule: TypeAlias = Callable[[int, str], Kernel]

MAX_FUSED_WIDTH = 256
"""Widest head that FlashAttention and cuDNN take; beyond it torch falls back to a slower kernel on GPUs."""

SCORES_AT_ONCE = 1 << 29
"""Scores (R, H, N, N) that two products hold at a time: 1 GiB in half precision, LDM-4's first level at 512 rows."""


def attention_kernel(head_width: int, device_type: str) -> Kernel:
    """What computes the attention of heads of this width (spec view_generators, section 6).

    `fused` is torch's scaled_dot_product_attention. `products` are two matrix products and a softmax: LDM-4's single heads are 384 to
    960 wide and its first stage's 512, where a GPU has no fast fused kernel. The CPU's fused kernel takes any width.
    """
    return "products" if device_type == "cuda" and head_width > MAX_FUSED_WIDTH else "fused"


def rows_at_once(heads: int, positions: int) -> int:
    """Rows whose scores two products may hold together: at least one."""
    return max(1, SCORES_AT_ONCE // (heads * positions**2))


class OneTokenAttention(AttnProcessor2_0):  # type: ignore[misc]
    """Cross-attention that knows that a softmax over one key is 1: W_o W_v c + b_o at every position (exact).

    For a condition of one token the result is (R, 1, C), which the transformer's residual sum spreads over the positions.
    """

    def __call__(
        self, attn: Attention, hidden_states: Tensor, encoder_hidden_states: Tensor | None = None, *arguments: Any, **options: Any
    ) -> Tensor:
        """See diffusers' `AttnProcessor`."""
        if encoder_hidden_states is None or encoder_hidden_states.shape[1] != 1:
            attended: Tensor = super().__call__(attn, hidden_states, encoder_hidden_states, *arguments, **options)
            return attended
        constant_R1C: Tensor = attn.to_out[0](attn.to_v(encoder_hidden_states)) / attn.rescale_output_factor
        return constant_R1C


class ProductAttention:
    """Self-attention as two products and a softmax, by as many rows at a time as `SCORES_AT_ONCE` allows."""

    def __call__(self, attn: Attention, hidden_states: Tensor, *arguments: Any, **options: Any) -> Tensor:
        """See diffusers' `AttnProcessor`; `hidden_states` is (R, N, C) or (R, C, h, w)."""
        positions = hidden_states.shape[2:].numel() if hidden_states.ndim == 4 else hidden_states.shape[1]
        rows = rows_at_once(attn.heads, positions)
        whole = rows >= hidden_states.shape[0]
        process = AttnProcessor() if whole else SlicedAttnProcessor(rows * attn.heads)
        attended: Tensor = process(attn, hidden_states, *arguments, **options)
        return attended


def choose_attention(module: nn.Module, device: torch.device, rule: KernelRule = attention_kernel) -> None:
    """Give every attention layer of a U-Net or first stage the processor that is fastest for it; results differ by rounding only.

    Args:
        module: Changed in place; for inference only (the layers that one token makes needless would get no gradient).
        device: Where it will compute.
        rule: Chooses the kernel from the width of a head and the device's type.
    """
    for layer in module.modules():
        if not isinstance(layer, Attention):
            continue
        if layer.is_cross_attention:
            plain = not layer.residual_connection and not layer.norm_cross
            layer.set_processor(OneTokenAttention() if plain else AttnProcessor2_0())
        elif layer.spatial_norm is None and rule(layer.inner_dim // layer.heads, device.type) == "products":
            layer.set_processor(ProductAttention())
