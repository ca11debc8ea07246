"""The decoder block of SiamMAE/CropMAE: cross-attention, feed-forward, self-attention, each post-normed.

Shapes: B batch, T target tokens, M memory tokens, D decoder width.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from cdgmae.models.sample_dropout import SampleDropout

FEEDFORWARD_DIM = 2048
"""Hidden width of the feed-forward part: fixed, not 4 D (confirmed by the FLOPs of the paper's Table 8)."""


class PackedAttention(nn.Module):
    """Multi-head attention with the parameter names and packing of `nn.MultiheadAttention`, computed by SDPA."""

    def __init__(self, dim: int, num_heads: int, dropout: float) -> None:
        super().__init__()
        self.num_heads, self.dropout = num_heads, dropout
        self.linear: Callable[[Tensor, Tensor, Tensor], Tensor] = F.linear
        self.in_proj_weight = nn.Parameter(torch.empty(3 * dim, dim))
        self.in_proj_bias = nn.Parameter(torch.zeros(3 * dim))
        self.out_proj = nn.Linear(dim, dim)
        nn.init.xavier_uniform_(self.in_proj_weight)

    def forward(self, query_BTD: Tensor, memory_BMD: Tensor, draws: SampleDropout | None = None) -> Tensor:
        """Attend from each query token to all memory tokens; returns (B, T, D).

        Args:
            query_BTD: What attends.
            memory_BMD: What is attended to.
            draws: Per-sample dropout draws for training; without them SDPA draws by itself.
        """
        dim = query_BTD.shape[-1]
        if query_BTD is memory_BMD:
            query, key, value = self.linear(query_BTD, self.in_proj_weight, self.in_proj_bias).chunk(3, dim=-1)
        else:
            query = self.linear(query_BTD, self.in_proj_weight[:dim], self.in_proj_bias[:dim])
            key, value = self.linear(memory_BMD, self.in_proj_weight[dim:], self.in_proj_bias[dim:]).chunk(2, dim=-1)
        query, key, value = (self._split(tensor) for tensor in (query, key, value))
        if draws is not None and self.training:
            # SDPA takes no ready-made dropout mask; on a CPU it would hold the probabilities, too, once it drops any
            probabilities = torch.softmax(query * query.shape[-1] ** -0.5 @ key.transpose(-2, -1), dim=-1)
            attended = (probabilities * draws.multiplier(probabilities, self.dropout)) @ value
        else:
            attended = F.scaled_dot_product_attention(query, key, value, dropout_p=self.dropout if self.training else 0.0)
        merged: Tensor = self.out_proj(attended.transpose(1, 2).flatten(2))
        return merged

    def _split(self, tokens_BTD: Tensor) -> Tensor:
        batch, tokens, dim = tokens_BTD.shape
        return tokens_BTD.reshape(batch, tokens, self.num_heads, dim // self.num_heads).transpose(1, 2)


class DecoderBlock(nn.Module):
    """One block; the attribute names are those of the published checkpoints (spec cross_view_mae 1.4 and 1.8)."""

    def __init__(self, dim: int, num_heads: int, dropout: float = 0.1) -> None:
        super().__init__()
        self.multihead_attn = PackedAttention(dim, num_heads, dropout)
        self.self_attn = PackedAttention(dim, num_heads, dropout)
        self.linear1 = nn.Linear(dim, FEEDFORWARD_DIM)
        self.linear2 = nn.Linear(FEEDFORWARD_DIM, dim)
        self.norm1 = nn.LayerNorm(dim, eps=1e-6)
        self.norm2 = nn.LayerNorm(dim, eps=1e-6)
        self.norm3 = nn.LayerNorm(dim, eps=1e-6)
        self.dropout = nn.Dropout(dropout)

    def forward(self, tokens_BTD: Tensor, memory_BMD: Tensor | None, draws: SampleDropout | None = None) -> Tensor:
        """Refine the target tokens.

        Args:
            tokens_BTD: Target tokens.
            memory_BMD: Anchor tokens; None (plain MAE) leaves the cross-attention out.
            draws: Per-sample dropout draws for training; None draws over the batch.
        """
        if memory_BMD is not None:
            attended = self.multihead_attn(tokens_BTD, memory_BMD, draws)
            tokens_BTD = self.norm2(tokens_BTD + self._drop(attended, draws))
        hidden = self._drop(F.gelu(self.linear1(tokens_BTD)), draws)
        tokens_BTD = self.norm3(tokens_BTD + self._drop(self.linear2(hidden), draws))
        refined: Tensor = self.norm1(tokens_BTD + self._drop(self.self_attn(tokens_BTD, tokens_BTD, draws), draws))
        return refined

    def _drop(self, values: Tensor, draws: SampleDropout | None) -> Tensor:
        if draws is not None and self.training:
            scaled: Tensor = values * draws.multiplier(values, self.dropout.p)
            return scaled
        dropped: Tensor = self.dropout(values)
        return dropped
